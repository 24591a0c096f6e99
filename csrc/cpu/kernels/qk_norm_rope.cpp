#include "kernels/qk_norm_rope.hpp"

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// Heads whose sums are gathered before their square roots are taken together.
constexpr int kGroup = 16;
static_assert(kGroup % kWidth == 0 && kTableRounding % (2 * kWidth) == 0, "groups and tables are whole vectors");

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

FOURREAL_ALWAYS_INLINE Vec inverse_rms(Vec sum_of_squares, Vec channels, Vec eps) {
    return broadcast(1.0f) / sqrt(sum_of_squares / channels + eps);
}

template <typename T, bool kNormalises, bool kRotates>
class ForwardKernel {
public:
    explicit ForwardKernel(const NormRopeForwardRun& run) : run_(run), row_(run.channels), angles_(run, false) {}

    void operator()() {
        for (std::int64_t token = 0; token < run_.tokens; ++token) {
            if (kRotates) angles_.load_token(token);
            for (std::int64_t head = 0; head < run_.heads; head += kGroup) do_heads(token, head);
        }
    }

private:
    void do_heads(std::int64_t token, std::int64_t begin) const {
        const int count = static_cast<int>(run_.heads - begin < kGroup ? run_.heads - begin : kGroup);
        float inverse[kQueryAndKey][kGroup];
        if (kNormalises) {
            for (int t = 0; t < kQueryAndKey; ++t) find_inverses(t, token, begin, count, inverse[t]);
        }
        for (int t = 0; t < kQueryAndKey; ++t)
            for (int i = 0; i < count; ++i)
                write_row(row_of<const T>(run_.in[t], token, begin + i), row_of<T>(run_.out[t], token, begin + i),
                          run_.weights[t], kNormalises ? inverse[t][i] : 1.0f);
    }

    void find_inverses(int t, std::int64_t token, std::int64_t begin, int count, float* inverse) const {
        for (int i = 0; i < count; ++i) inverse[i] = sum_of_squares(row_of<const T>(run_.in[t], token, begin + i));
        for (int i = count; i < kGroup; ++i) inverse[i] = 0.0f;
        const Vec channels = broadcast(static_cast<float>(run_.channels)), eps = broadcast(run_.eps);
        for (int i = 0; i < count; i += kWidth) store(inverse + i, inverse_rms(load(inverse + i), channels, eps));
    }

    float sum_of_squares(const T* x) const {
        if (row_.is_short()) {
            const Vec value = load_first(x, row_.short_count());
            return reduce_add(value * value);
        }
        Vec sum = zero();
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth) {
            const Vec value = load(x + channel);
            sum = fmadd(value, value, sum);
        }
        if (row_.repeated != 0) {
            const Vec value = without_repeated(row_, load(x + row_.last));
            sum = fmadd(value, value, sum);
        }
        return reduce_add(sum);
    }

    void write_row(const T* x, T* out, const float* weight, float inverse) const {
        const Vec scale = broadcast(inverse);
        if (row_.is_short())
            return store_first(out, transform(load_first(x, row_.short_count()), scale, weight, 0), row_.short_count());
        // Before the stores: in place, they write some of it.
        const Vec last = row_.repeated != 0 ? load(x + row_.last) : zero();
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
            store(out + channel, transform(load(x + channel), scale, weight, channel));
        if (row_.repeated != 0) store(out + row_.last, transform(last, scale, weight, row_.last));
    }

    FOURREAL_ALWAYS_INLINE Vec transform(Vec x, Vec inverse, const float* weight, std::int64_t channel) const {
        if (kNormalises) x = x * inverse * load_weight(row_, weight, channel);
        return kRotates ? angles_.turn(x, channel) : x;
    }

    const NormRopeForwardRun& run_;
    const RowShape row_;
    AngleTables angles_;
};

// With n = x / rms(x) and g the gradient turned back: dw = sum of g n, dx = (g w - n mean(g w n)) / rms(x).
template <typename T, bool kNormalises, bool kRotates>
class BackwardKernel {
public:
    explicit BackwardKernel(const NormRopeBackwardRun& run)
        : run_(run), row_(run.channels), angles_(run, true),
          sums_{run.tables + 2 * run.table_stride, run.tables + 3 * run.table_stride} {}

    void operator()() {
        if (kNormalises) clear_sums();
        for (std::int64_t token = 0; token < run_.tokens; ++token) {
            if (kRotates) angles_.load_token(token);
            for (std::int64_t head = 0; head < run_.heads; head += kGroup)
                for (int t = 0; t < kQueryAndKey; ++t) do_heads(t, token, head);
        }
        if (kNormalises) add_sums();
    }

private:
    struct Scales {
        alignas(64) float inverse[kGroup];
        alignas(64) float mean[kGroup];  // of g w n
    };

    void do_heads(int t, std::int64_t token, std::int64_t begin) const {
        const int count = static_cast<int>(run_.heads - begin < kGroup ? run_.heads - begin : kGroup);
        Scales scales;
        if (kNormalises) find_scales(t, token, begin, count, scales);
        for (int i = 0; i < count; ++i)
            write_row(t, token, begin + i, kNormalises ? scales.inverse[i] : 1.0f, kNormalises ? scales.mean[i] : 0.0f);
    }

    void find_scales(int t, std::int64_t token, std::int64_t begin, int count, Scales& scales) const {
        for (int i = 0; i < count; ++i)
            sum_row(row_of<const T>(run_.grad[t], token, begin + i), row_of<const T>(run_.in[t], token, begin + i),
                    run_.weights[t], &scales.inverse[i], &scales.mean[i]);
        for (int i = count; i < kGroup; ++i) scales.inverse[i] = scales.mean[i] = 0.0f;
        const Vec channels = broadcast(static_cast<float>(run_.channels)), eps = broadcast(run_.eps);
        for (int i = 0; i < count; i += kWidth) {
            const Vec inverse = inverse_rms(load(scales.inverse + i), channels, eps);
            store(scales.inverse + i, inverse);
            store(scales.mean + i, load(scales.mean + i) * inverse / channels);
        }
    }

    // The sums of x^2 and of g w x.
    void sum_row(const T* grad, const T* x, const float* weight, float* squares, float* products) const {
        Vec square = zero(), product = zero();
        const auto add = [&](Vec value, Vec g, std::int64_t channel) {
            square = fmadd(value, value, square);
            product = fmadd(turn_back(g, channel) * load_weight(row_, weight, channel), value, product);
        };
        if (row_.is_short()) {
            add(load_first(x, row_.short_count()), load_first(grad, row_.short_count()), 0);
        } else {
            for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
                add(load(x + channel), load(grad + channel), channel);
            if (row_.repeated != 0) add(without_repeated(row_, load(x + row_.last)), load(grad + row_.last), row_.last);
        }
        *squares = reduce_add(square);
        *products = reduce_add(product);
    }

    void write_row(int t, std::int64_t token, std::int64_t head, float inverse, float mean) const {
        const T* grad = row_of<const T>(run_.grad[t], token, head);
        const T* x = row_of<const T>(run_.in[t], token, head);
        T* out = row_of<T>(run_.out[t], token, head);
        float* sums = sums_[t];
        const Vec scale = broadcast(inverse), minus_mean = broadcast(-mean);
        const auto differentiate = [&](Vec value, Vec g, std::int64_t channel, float* sum) {
            g = turn_back(g, channel);
            if (!kNormalises) return g;
            const Vec normalised = value * scale;
            store(sum, fmadd(g, normalised, load(sum)));
            return fmadd(normalised, minus_mean, g * load_weight(row_, run_.weights[t], channel)) * scale;
        };
        if (row_.is_short()) {
            const int count = row_.short_count();
            return store_first(out, differentiate(load_first(x, count), load_first(grad, count), 0, sums), count);
        }
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
            store(out + channel, differentiate(load(x + channel), load(grad + channel), channel, sums + channel));
        // The sums of the last vector have a vector of their own, from which add_sums leaves out the repeated lanes.
        if (row_.repeated != 0)
            store(out + row_.last,
                  differentiate(load(x + row_.last), load(grad + row_.last), row_.last, sums + row_.whole));
    }

    FOURREAL_ALWAYS_INLINE Vec turn_back(Vec grad, std::int64_t channel) const {
        return kRotates ? angles_.turn(grad, channel) : grad;
    }

    void clear_sums() const {
        for (int t = 0; t < kQueryAndKey; ++t)
            for (std::int64_t i = 0; i < run_.table_stride; ++i) sums_[t][i] = 0.0f;
    }

    void add_sums() const {
        for (int t = 0; t < kQueryAndKey; ++t) {
            const std::int64_t shift = row_.is_short() ? 0 : row_.repeated;
            for (std::int64_t i = 0; i < row_.whole; ++i) run_.weight_grads[t][i] += sums_[t][i];
            for (std::int64_t i = row_.whole; i < row_.channels; ++i) run_.weight_grads[t][i] += sums_[t][i + shift];
        }
    }

    const NormRopeBackwardRun& run_;
    const RowShape row_;
    AngleTables angles_;
    float* const sums_[kQueryAndKey];
};

template <template <typename, bool, bool> class Kernel, typename T, typename Run>
void run_parts(const Run& run) {
    const bool normalises = run.weights[0] != nullptr, rotates = run.cos.data != nullptr;
    if (normalises && rotates) return Kernel<T, true, true>{run}();
    if (normalises) return Kernel<T, true, false>{run}();
    if (rotates) return Kernel<T, false, true>{run}();
    Kernel<T, false, false>{run}();
}

template <template <typename, bool, bool> class Kernel, typename Run>
void run_dtype(const Run& run) {
    switch (run.dtype) {
        case DType::kFloat32: return run_parts<Kernel, float>(run);
        case DType::kFloat16: return run_parts<Kernel, Float16>(run);
        case DType::kBFloat16: return run_parts<Kernel, BFloat16>(run);
        case DType::kFloat64: return;
    }
}

void norm_rope_forward_run(const NormRopeForwardRun& run) { run_dtype<ForwardKernel>(run); }
void norm_rope_backward_run(const NormRopeBackwardRun& run) { run_dtype<BackwardKernel>(run); }

}  // namespace fourreal::cpu::FOURREAL_SIMD
