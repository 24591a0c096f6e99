#include "kernels/pointwise_short.hpp"

#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_softmax.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// The scores of a query take whole vectors, or half of one: then two queries share it.
struct Layout {
    std::int64_t entries;
    std::int64_t channels;
    std::int64_t stride;      // of rows of keys and values: whole vectors
    std::int64_t score_step;  // of the scores of a query
    std::int64_t key_rows;    // whole vectors of scores; those past the entries are zero
    bool paired;

    explicit Layout(const PointwiseShape& shape)
        : entries(shape.entries),
          channels(shape.channels),
          stride(whole_vectors(channels)),
          score_step(entries <= kWidth / 2 ? kWidth / 2 : whole_vectors(entries)),
          key_rows(score_step),
          paired(entries <= kWidth / 2) {}

    std::int64_t score_rows() const { return entries + kTileRows; }  // a last tile may reach past the queries
};

struct Buffers {
    float *keys, *values, *scores, *hidden, *largest, *sums;

    Buffers(const Layout& layout, Scratch& scratch) {
        keys = scratch.take(layout.key_rows * layout.stride);
        values = scratch.take(layout.entries * layout.stride);
        scores = scratch.take(layout.score_rows() * layout.score_step);
        hidden = scratch.take(kWidth);
        largest = scratch.take(whole_vectors(layout.entries + 1));
        sums = scratch.take(whole_vectors(layout.entries + 1));
    }
};

constexpr float kSmallestExponent = -200.0f;  // of a weight that is 0 in float

struct Maximum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return max(a, b); }
};
struct Sum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return a + b; }
};

// With kVectors vectors of channels, or any number if it is 0.
template <typename T, int kVectors>
class ShortForward {
public:
    ShortForward(const PointwiseForward& job, Scratch scratch)
        : job_(job), layout_(job.shape), buffers_(layout_, scratch), factor_(job.shape.scale * kLog2E) {
        clear(buffers_.keys, layout_.key_rows * layout_.stride);
        clear(buffers_.scores, layout_.score_rows() * layout_.score_step);
        // Added to the last vector of scores: it takes out those of no key.
        for (int lane = 0; lane < kWidth; ++lane)
            buffers_.hidden[lane] = lane_entry(lane) < layout_.entries ? 0.0f : -__builtin_inff();
        clear(buffers_.largest, whole_vectors(layout_.entries + 1));
        for (std::int64_t i = 0; i < whole_vectors(layout_.entries + 1); ++i) buffers_.sums[i] = 1.0f;
    }

    void operator()(const Bundle& position, const Bundle* upcoming) const {
        const Sequences<const T> queries(job_.q, position);
        copy_rows(Sequences<const T>(job_.k, position), buffers_.keys);
        if (upcoming) {
            prefetch(Sequences<const T>(job_.k, *upcoming));
            prefetch(Sequences<const T>(job_.q, *upcoming));
        }
        if (layout_.paired) {
            for (std::int64_t i = 0; i < layout_.entries; i += 2) score_pair(queries, i);
            for (std::int64_t i = 0; i < layout_.entries; i += 2) normalise_pair(i);
        } else {
            for (std::int64_t i = 0; i < layout_.entries; ++i) score_row(queries, i);
            for (std::int64_t i = 0; i < layout_.entries; ++i) normalise_row(i);
        }
        copy_rows(Sequences<const T>(job_.v, position), buffers_.values);
        if (upcoming) {
            prefetch(Sequences<const T>(job_.v, *upcoming));
            if (!job_.shape.stream) prefetch(Sequences<const T>(as_input(job_.out), *upcoming));
        }
        if (job_.shape.stream)
            write_outputs<true>(Sequences<T>(job_.out, position));
        else
            write_outputs<false>(Sequences<T>(job_.out, position));
        write_log_sums(Sequences<float>(job_.lse, position));
    }

private:
    static void clear(float* values, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) values[i] = 0.0f;
    }

    static PointwiseInput as_input(const PointwiseOutput& out) {
        PointwiseInput input;
        input.data = out.data;
        for (int axis = 0; axis < kPositionAxes; ++axis) input.position_strides[axis] = out.position_strides[axis];
        input.entries = out.entries;
        return input;
    }

    FOURREAL_ALWAYS_INLINE void prefetch(const Sequences<const T>& rows) const {
        for (std::int64_t e = 0; e < layout_.entries; ++e) {
            const char* row = reinterpret_cast<const char*>(rows.row(e, 0));
            const std::int64_t bytes = layout_.channels * static_cast<std::int64_t>(sizeof(T));
            for (std::int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(row + at);
        }
    }

    // Rows often lie whole pages apart, where the first-level cache holds few of them: they are brought together.
    FOURREAL_ALWAYS_INLINE void copy_rows(const Sequences<const T>& from, float* to) const {
        for (std::int64_t e = 0; e < layout_.entries; ++e, to += layout_.stride) {
            const T* row = from.row(e, 0);
            for (std::int64_t c = 0; c < layout_.channels; c += kWidth) store(to + c, load_channels(row, c, layout_.channels));
        }
    }

    // Which key the score in a lane of the last vector belongs to.
    std::int64_t lane_entry(int lane) const {
        return layout_.paired ? lane % (kWidth / 2) : layout_.score_step - kWidth + lane;
    }

    FOURREAL_ALWAYS_INLINE std::int64_t stride() const { return kVectors > 0 ? kVectors * kWidth : layout_.stride; }

    // Two queries: scores of the first in one half of a vector, of the second in the other.
    FOURREAL_ALWAYS_INLINE void score_pair(const Sequences<const T>& queries, std::int64_t i) const {
        constexpr int kHalf = kWidth / 2;
        const T* first = queries.row(i, 0);
        const T* second = queries.row(i + 1 < layout_.entries ? i + 1 : i, 0);
        Vec products[kWidth];
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) products[j] = zero();
        for (std::int64_t c = 0; c < stride(); c += kWidth) {
            const Vec a = load_channels(first, c, layout_.channels), b = load_channels(second, c, layout_.channels);
#pragma GCC unroll 16  // the products live in registers
            for (int j = 0; j < kHalf; ++j) {
                const Vec key = load(buffers_.keys + j * stride() + c);
                products[j] = fmadd(a, key, products[j]);
                products[kHalf + j] = fmadd(b, key, products[kHalf + j]);
            }
        }
        store(buffers_.scores + i * kHalf, sum_lanes(products));
    }

    FOURREAL_ALWAYS_INLINE void normalise_pair(std::int64_t i) const {
        constexpr int kHalf = kWidth / 2;
        float* const at = buffers_.scores + i * kHalf;
        const Vec factor = broadcast(factor_), hidden = load(buffers_.hidden), scores = load(at);
        const Vec largest = combine_halves(fmadd(scores, factor, hidden), Maximum());
        const Vec weights = exp2(max(broadcast(kSmallestExponent), fmadd(scores, factor, hidden - largest)));
        const Vec sums = combine_halves(weights, Sum());
        store(at, weights / sums);
        keep_first_lanes(buffers_.largest + i, largest);
        keep_first_lanes(buffers_.sums + i, sums);
    }

    // Lane 0 and the first lane of the upper half, side by side. There is room for one more query than there are.
    static FOURREAL_ALWAYS_INLINE void keep_first_lanes(float* to, Vec x) {
        float lanes[kWidth];
        store(lanes, x);
        to[0] = lanes[0];
        to[1] = lanes[kWidth / 2];
    }

    FOURREAL_ALWAYS_INLINE void score_row(const Sequences<const T>& queries, std::int64_t i) const {
        const T* query = queries.row(i, 0);
        for (std::int64_t first = 0; first < layout_.key_rows; first += kWidth) {
            const float* const keys = buffers_.keys + first * stride();
            Vec products[kWidth];
#pragma GCC unroll 16
            for (int j = 0; j < kWidth; ++j) products[j] = zero();
            for (std::int64_t c = 0; c < stride(); c += kWidth) {
                const Vec a = load_channels(query, c, layout_.channels);
#pragma GCC unroll 16  // the products live in registers
                for (int j = 0; j < kWidth; ++j) products[j] = fmadd(a, load(keys + j * stride() + c), products[j]);
            }
            store(buffers_.scores + i * layout_.score_step + first, sum_lanes(products));
        }
    }

    FOURREAL_ALWAYS_INLINE void normalise_row(std::int64_t i) const {
        float* const scores = buffers_.scores + i * layout_.score_step;
        const std::int64_t last = layout_.score_step - kWidth;
        const Vec factor = broadcast(factor_), hidden = load(buffers_.hidden);
        Vec extremes = fmadd(load(scores + last), factor, hidden);
        for (std::int64_t j = 0; j < last; j += kWidth) extremes = max(extremes, load(scores + j) * factor);
        const Vec largest = combine_all(extremes, Maximum());
        Vec weights = exp2(max(broadcast(kSmallestExponent), fmadd(load(scores + last), factor, hidden - largest)));
        store(scores + last, weights);
        Vec sums = weights;
        for (std::int64_t j = 0; j < last; j += kWidth) {
            weights = weight(load(scores + j), factor, largest);
            sums = sums + weights;
            store(scores + j, weights);
        }
        const Vec total = combine_all(sums, Sum());
        const Vec inverse = broadcast(1.0f) / total;
        for (std::int64_t j = 0; j <= last; j += kWidth) store(scores + j, load(scores + j) * inverse);
        store_first(buffers_.largest + i, largest, 1);
        store_first(buffers_.sums + i, total, 1);
    }

    template <bool kStream>
    void write_outputs(const Sequences<T>& out) const {
        std::int64_t left = layout_.stride / kWidth;
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
    FOURREAL_ALWAYS_INLINE void write_columns(const Sequences<T>& out, std::int64_t channel) const {
        for (std::int64_t i = 0; i < layout_.entries; i += kTileRows) {
            Tile<kTileRows, kColumns> tile;
            tile.clear();
            tile.multiply_add(buffers_.scores + i * layout_.score_step, layout_.score_step, 1, buffers_.values + channel,
                              layout_.stride, layout_.entries);
            const std::int64_t rows = layout_.entries - i;
            for (int r = 0; r < kTileRows; ++r)
                if (r < rows) write_row<kStream>(tile.at[r], out.row(i + r, 0), channel);
        }
    }

    template <bool kStream, int kColumns>
    FOURREAL_ALWAYS_INLINE void write_row(const Vec (&row)[kColumns], T* to, std::int64_t channel) const {
        for (int x = 0; x < kColumns; ++x) {
            const std::int64_t at = channel + x * kWidth, left = layout_.channels - at;
            if (left < kWidth)
                store_first(to + at, row[x], static_cast<int>(left));
            else if (kStream)
                stream(to + at, row[x]);
            else
                store(to + at, row[x]);
        }
    }

    void write_log_sums(const Sequences<float>& lse) const {
        for (std::int64_t i = 0; i < layout_.entries; i += kWidth) {
            float values[kWidth];
            store(values, log_sum(load(buffers_.largest + i), load(buffers_.sums + i)));
            for (int n = 0; n < kWidth && i + n < layout_.entries; ++n) *lse.row(i + n, 0) = values[n];
        }
    }

    const PointwiseForward& job_;
    const Layout layout_;
    const Buffers buffers_;
    const float factor_;
};

}  // namespace

std::int64_t pointwise_short_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Buffers(Layout(shape), scratch);
    return scratch.used();
}

namespace {

template <typename T, int kVectors>
void run(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    const ShortForward<T, kVectors> forward(job, Scratch(scratch));
    for_each_bundle(job.shape, 1, first, last, forward);
}

}  // namespace

void pointwise_short_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        using T = decltype(type);
        switch (whole_vectors(job.shape.channels) / kWidth) {  // head dims of 40, 64 and 128 among them
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
