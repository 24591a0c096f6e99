// What the forward and the backward pass of qk_norm_rope share: rows as vectors, angles of a token, choice of the kernel.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels/qk_norm_rope.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

static_assert(kTableRounding % (2 * kWidth) == 0, "tables are whole vectors");

// A row of D channels as whole vectors. What is left over is covered by a last vector that ends with the row and
// repeats `repeated` channels of the one before: a store that masks lanes would hold up the loads of the following row,
// which are in its reach. Only rows shorter than a vector are loaded and stored in part.
struct RowShape {
    std::int64_t channels, whole, last;
    int repeated;

    explicit RowShape(std::int64_t row_channels)
        : channels(row_channels), whole(channels / kWidth * kWidth), last(channels - kWidth),
          repeated(static_cast<int>(whole == channels ? 0 : whole - last)) {}
    bool is_short() const { return channels < kWidth; }
    int short_count() const { return static_cast<int>(channels); }
};

// Lanes of the last vector that no vector before it has covered; 0 in the others.
FOURREAL_ALWAYS_INLINE Vec without_repeated(const RowShape& row, Vec x) {
    return select_first(row.repeated, zero(), x);
}

FOURREAL_ALWAYS_INLINE Vec load_weight(const RowShape& row, const float* weight, std::int64_t channel) {
    return row.is_short() ? load_first(weight, row.short_count()) : load(weight + channel);
}

// cos and sin of one token for each of its channels; sin is signed for the turn of pairs: (-s, s), or (s, -s) backward.
class AngleTables {
public:
    AngleTables(const NormRopeRun& run, bool backward)
        : run_(run), cos_(run.tables), sin_(run.tables + run.table_stride), sign_(broadcast(backward ? -1.0f : 1.0f)) {}

    void load_token(std::int64_t token) {
        const float* cos = run_.cos.data + token * run_.cos.token_stride;
        const float* sin = run_.sin.data + token * run_.sin.token_stride;
        if (cos == loaded_cos_ && sin == loaded_sin_) return;
        loaded_cos_ = cos;
        loaded_sin_ = sin;
        for (std::int64_t pair = 0; 2 * pair < run_.channels; pair += kWidth) {
            const Vec c = load_pairs(cos, run_.cos.pair_stride, pair);
            const Vec s = load_pairs(sin, run_.sin.pair_stride, pair) * sign_;
            store(cos_ + 2 * pair, interleave_low(c, c));
            store(cos_ + 2 * pair + kWidth, interleave_high(c, c));
            store(sin_ + 2 * pair, interleave_low(-s, s));
            store(sin_ + 2 * pair + kWidth, interleave_high(-s, s));
        }
    }

    FOURREAL_ALWAYS_INLINE Vec turn(Vec x, std::int64_t channel) const {
        return fmadd(x, load(cos_ + channel), swap_pairs(x) * load(sin_ + channel));
    }

private:
    Vec load_pairs(const float* from, std::int64_t stride, std::int64_t pair) const {
        const std::int64_t left = run_.channels / 2 - pair;
        const int count = static_cast<int>(left < kWidth ? left : kWidth);
        if (stride == 1) return count == kWidth ? load(from + pair) : load_first(from + pair, count);
        float lanes[kWidth] = {};
        for (int lane = 0; lane < count; ++lane) lanes[lane] = from[(pair + lane) * stride];
        return load(lanes);
    }

    const NormRopeRun& run_;
    float* cos_;
    float* sin_;
    Vec sign_;
    const float* loaded_cos_ = nullptr;
    const float* loaded_sin_ = nullptr;
};

template <typename T, typename Pointer>
FOURREAL_ALWAYS_INLINE auto row_of(const HeadRows<Pointer>& rows, std::int64_t token, std::int64_t head) {
    return static_cast<T*>(rows.data) + token * rows.token_stride + head * rows.head_stride;
}

// Calls body(type, normalises, rotates), three values whose types say what the run is.
template <typename Run, typename Body>
void with_parts(const Run& run, const Body& body) {
    const bool normalises = run.weights[0] != nullptr, rotates = run.cos.data != nullptr;
    const auto with_type = [&](auto type) {
        if (normalises && rotates) return body(type, std::true_type(), std::true_type());
        if (normalises) return body(type, std::true_type(), std::false_type());
        if (rotates) return body(type, std::false_type(), std::true_type());
        body(type, std::false_type(), std::false_type());
    };
    switch (run.dtype) {
        case DType::kFloat32: return with_type(0.0f);
        case DType::kFloat16: return with_type(Float16{});
        case DType::kBFloat16: return with_type(BFloat16{});
        case DType::kFloat64: return;
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
