#include "kernels/pointwise_short.hpp"

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_softmax.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

using Position = Bundle<1>;
template <typename T>
using Rows = Sequences<T, 1>;

constexpr int kHalf = kWidth / 2;

struct Buffers {
    std::int64_t stride;  // of rows of keys and values: whole vectors
    float *keys, *values, *scores, *hidden, *largest, *sums;

    Buffers(const PointwiseShape& shape, Scratch& scratch) : stride((shape.channels + kWidth - 1) / kWidth * kWidth) {
        keys = scratch.take(kHalf * stride);
        values = scratch.take(kHalf * stride);
        scores = scratch.take((kHalf + kTileRows) * kHalf);  // a last tile may reach past the queries
        for (float** numbers : {&hidden, &largest, &sums}) *numbers = scratch.take(kWidth);
    }
};

constexpr float kSmallestExponent = -200.0f;  // of a weight that is 0 in float

struct Maximum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return max(a, b); }
};
struct Sum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return a + b; }
};

// What does not depend on the number of channels: compiled once for every storage type.
template <typename T>
class ShortParts {
protected:
    ShortParts(const PointwiseForward& job, Scratch scratch)
        : job_(job), shape_(job.shape), buffers_(job.shape, scratch), factor_(job.shape.scale * kLog2E) {
        clear(buffers_.keys, kHalf * buffers_.stride);
        clear(buffers_.scores, (kHalf + kTileRows) * kHalf);
        // Added to scores: it takes out those of no key.
        for (int lane = 0; lane < kWidth; ++lane)
            buffers_.hidden[lane] = lane % kHalf < shape_.entries ? 0.0f : -__builtin_inff();
        store(buffers_.largest, zero());
        store(buffers_.sums, broadcast(1.0f));
    }

    template <typename Element>
    FOURREAL_ALWAYS_INLINE void prefetch(const Rows<Element>& rows) const {
        for (std::int64_t e = 0; e < shape_.entries; ++e) {
            const char* row = reinterpret_cast<const char*>(rows.row(e, 0));
            const std::int64_t bytes = shape_.channels * static_cast<std::int64_t>(sizeof(T));
            for (std::int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(row + at);
        }
    }

    // Rows often lie whole pages apart, where the first-level cache holds few of them: they are brought together.
    FOURREAL_ALWAYS_INLINE void copy_rows(const Rows<const T>& from, float* to) const {
        for (std::int64_t e = 0; e < shape_.entries; ++e, to += buffers_.stride) {
            const T* row = from.row(e, 0);
            for (std::int64_t c = 0; c < shape_.channels; c += kWidth)
                store(to + c, load_channels(row, c, shape_.channels));
        }
    }

    FOURREAL_ALWAYS_INLINE void normalise_pair(std::int64_t i) const {
        float* const at = buffers_.scores + i * kHalf;
        const Vec factor = broadcast(factor_), hidden = load(buffers_.hidden), scores = load(at);
        const Vec largest = combine_halves(fmadd(scores, factor, hidden), Maximum());
        const Vec weights = exp2(max(broadcast(kSmallestExponent), fmadd(scores, factor, hidden - largest)));
        const Vec sums = combine_halves(weights, Sum());
        store(at, weights / sums);
        keep_first_lanes(buffers_.largest + i, largest);
        keep_first_lanes(buffers_.sums + i, sums);
    }

    void write_outputs(const Rows<T>& out) const {
        if (shape_.stream)
            write_tiles<true>(out);
        else
            write_tiles<false>(out);
    }

    void write_log_sums(const Rows<float>& lse) const {
        float values[kWidth];
        store(values, log_sum(load(buffers_.largest), load(buffers_.sums)));
        for (std::int64_t i = 0; i < shape_.entries; ++i) *lse.row(i, 0) = values[i];
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    const Buffers buffers_;
    const float factor_;

private:
    static void clear(float* values, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) values[i] = 0.0f;
    }

    // Lane 0 and the first lane of the upper half, side by side. There is room for one more query than there are.
    static FOURREAL_ALWAYS_INLINE void keep_first_lanes(float* to, Vec x) {
        float lanes[kWidth];
        store(lanes, x);
        to[0] = lanes[0];
        to[1] = lanes[kWidth / 2];
    }

    template <bool kStream>
    void write_tiles(const Rows<T>& out) const {
        std::int64_t left = buffers_.stride / kWidth;
        for (std::int64_t c = 0; left > 0;) {
            if (kTileVectors >= 3 && (left == 3 || left > 4)) {
                write_columns<kStream, 3>(out, c);
                c += 3 * kWidth, left -= 3;
            } else if (left >= 2) {
                write_columns<kStream, 2>(out, c);
                c += 2 * kWidth, left -= 2;
            } else {
                write_columns<kStream, 1>(out, c);
                c += kWidth, left -= 1;
            }
        }
    }

    template <bool kStream, int kColumns>
    FOURREAL_ALWAYS_INLINE void write_columns(const Rows<T>& out, std::int64_t channel) const {
        for (std::int64_t i = 0; i < shape_.entries; i += kTileRows) {
            Tile<kTileRows, kColumns> tile;
            tile.clear();
            tile.multiply_add(buffers_.scores + i * kHalf, kHalf, 1, buffers_.values + channel,
                              buffers_.stride, shape_.entries);
            const std::int64_t rows = shape_.entries - i;
            for (int r = 0; r < kTileRows; ++r)
                if (r < rows) write_row<kStream>(tile.at[r], out.row(i + r, 0), channel);
        }
    }

    template <bool kStream, int kColumns>
    FOURREAL_ALWAYS_INLINE void write_row(const Vec (&row)[kColumns], T* to, std::int64_t channel) const {
        for (int x = 0; x < kColumns; ++x) {
            const std::int64_t at = channel + x * kWidth, left = shape_.channels - at;
            if (left < kWidth)
                store_first(to + at, row[x], static_cast<int>(left));
            else if (kStream)
                stream(to + at, row[x]);
            else
                store(to + at, row[x]);
        }
    }
};

// Two queries share a vector of scores: one has its lower half, the other its upper half. With kVectors vectors of
// channels, or any number if it is 0.
template <typename T, int kVectors>
class ShortForward : ShortParts<T> {
    using Parts = ShortParts<T>;
    using Parts::buffers_, Parts::copy_rows, Parts::job_, Parts::prefetch, Parts::shape_;

public:
    ShortForward(const PointwiseForward& job, Scratch scratch) : Parts(job, scratch) {}

    void operator()(const Position& position, const Position* upcoming) const {
        const Rows<const T> queries(job_.q, position);
        copy_rows(Rows<const T>(job_.k, position), buffers_.keys);
        if (upcoming) {
            prefetch(Rows<const T>(job_.k, *upcoming));
            prefetch(Rows<const T>(job_.q, *upcoming));
        }
        for (std::int64_t i = 0; i < shape_.entries; i += 2) score_pair(queries, i);
        for (std::int64_t i = 0; i < shape_.entries; i += 2) Parts::normalise_pair(i);
        copy_rows(Rows<const T>(job_.v, position), buffers_.values);
        if (upcoming) {
            prefetch(Rows<const T>(job_.v, *upcoming));
            if (!shape_.stream) prefetch(Rows<T>(job_.out, *upcoming));
        }
        Parts::write_outputs(Rows<T>(job_.out, position));
        if (job_.lse.data) Parts::write_log_sums(Rows<float>(job_.lse, position));
    }

private:
    FOURREAL_ALWAYS_INLINE std::int64_t stride() const { return kVectors > 0 ? kVectors * kWidth : buffers_.stride; }

    // Two queries: scores of the first in one half of a vector, of the second in the other.
    FOURREAL_ALWAYS_INLINE void score_pair(const Rows<const T>& queries, std::int64_t i) const {
        const T* first = queries.row(i, 0);
        const T* second = queries.row(i + 1 < shape_.entries ? i + 1 : i, 0);
        Vec products[kWidth];
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) products[j] = zero();
        for (std::int64_t c = 0; c < stride(); c += kWidth) {
            const Vec a = load_channels(first, c, shape_.channels), b = load_channels(second, c, shape_.channels);
#pragma GCC unroll 16  // the products live in registers
            for (int j = 0; j < kHalf; ++j) {
                const Vec key = load(buffers_.keys + j * stride() + c);
                products[j] = fmadd(a, key, products[j]);
                products[kHalf + j] = fmadd(b, key, products[kHalf + j]);
            }
        }
        store(buffers_.scores + i * kHalf, sum_lanes(products));
    }
};

}  // namespace

// The most that it takes.
std::int64_t pointwise_short_entries() { return kHalf; }

std::int64_t pointwise_short_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Buffers(shape, scratch);
    return scratch.used();
}

namespace {

template <typename T, int kVectors>
void run(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    const ShortForward<T, kVectors> forward(job, Scratch(scratch));
    for_each_bundle<1>(job.shape, first, last, forward);
}

}  // namespace

void pointwise_short_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        using T = decltype(type);
        switch ((job.shape.channels + kWidth - 1) / kWidth) {  // head dims of 40, 64 and 128 among them
            case 3: return run<T, 3>(job, first, last, scratch);
            case 4: return run<T, 4>(job, first, last, scratch);
            case 5: return run<T, 5>(job, first, last, scratch);
            case 8: return run<T, 8>(job, first, last, scratch);
            case 16: return run<T, 16>(job, first, last, scratch);
            default: return run<T, 0>(job, first, last, scratch);
        }
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
