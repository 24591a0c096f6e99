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
    bool paired;

    explicit Layout(const PointwiseShape& shape)
        : entries(shape.entries),
          channels(shape.channels),
          stride(whole_vectors(channels)),
          score_step(entries <= kWidth / 2 ? kWidth / 2 : whole_vectors(entries)),
          paired(entries <= kWidth / 2) {}

    std::int64_t score_rows() const { return entries + kTileRows; }  // a last tile may reach past the queries
};

struct Buffers {
    float *keys, *values, *scores, *largest, *sums;

    Buffers(const Layout& layout, Scratch& scratch) {
        keys = scratch.take(layout.entries * layout.stride);
        values = scratch.take(layout.entries * layout.stride);
        scores = scratch.take(layout.score_rows() * layout.score_step);
        largest = scratch.take(whole_vectors(layout.entries));
        sums = scratch.take(whole_vectors(layout.entries));
    }
};

struct Maximum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return max(a, b); }
};
struct Sum {
    FOURREAL_ALWAYS_INLINE Vec operator()(Vec a, Vec b) const { return a + b; }
};

template <typename T>
class ShortForward {
public:
    ShortForward(const PointwiseForward& job, Scratch scratch)
        : job_(job), layout_(job.shape), buffers_(layout_, scratch), factor_(job.shape.scale * kLog2E) {
        clear(buffers_.scores, layout_.score_rows() * layout_.score_step);
        clear(buffers_.largest, whole_vectors(layout_.entries));
        for (std::int64_t i = 0; i < whole_vectors(layout_.entries); ++i) buffers_.sums[i] = 1.0f;
    }

    void operator()(const Bundle& position, const Bundle* upcoming) const {
        const Sequences<const T> queries(job_.q, position);
        copy_rows(Sequences<const T>(job_.k, position), buffers_.keys);
        if (upcoming) {
            prefetch(Sequences<const T>(job_.k, *upcoming));
            prefetch(Sequences<const T>(job_.q, *upcoming));
        }
        if (layout_.paired)
            weigh_pairs(queries);
        else
            weigh_rows(queries);
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

    // Two queries: scores of the first in one half of a vector, of the second in the other.
    void weigh_pairs(const Sequences<const T>& queries) const {
        for (std::int64_t i = 0; i < layout_.entries; i += 2) {
            const std::int64_t second = i + 1 < layout_.entries ? i + 1 : i;
            const Vec scores = pair_scores(queries.row(i, 0), queries.row(second, 0));
            normalise_pair(scores, i);
        }
    }

    FOURREAL_ALWAYS_INLINE Vec pair_scores(const T* first, const T* second) const {
        constexpr int kHalf = kWidth / 2;
        Vec products[kWidth];
        for (int j = 0; j < kWidth; ++j) products[j] = zero();
        for (std::int64_t c = 0; c < layout_.channels; c += kWidth) {
            const Vec a = load_channels(first, c, layout_.channels), b = load_channels(second, c, layout_.channels);
            for (int j = 0; j < kHalf; ++j) {
                const std::int64_t key = j < layout_.entries ? j : 0;
                const Vec k = load(buffers_.keys + key * layout_.stride + c);
                products[j] = fmadd(a, k, products[j]);
                products[kHalf + j] = fmadd(b, k, products[kHalf + j]);
            }
        }
        return sum_lanes(products);
    }

    // Lanes past the entries repeat key 0, so that they do not change the maximum; their weights are taken out.
    FOURREAL_ALWAYS_INLINE void normalise_pair(Vec scores, std::int64_t query) const {
        constexpr int kHalf = kWidth / 2;
        const Vec scaled = scores * broadcast(factor_);
        const Vec largest = combine_halves(scaled, Maximum());
        const Vec weights = keep_entries_of_halves(weight(scores, broadcast(factor_), largest));
        const Vec sums = combine_halves(weights, Sum());
        store(buffers_.scores + query * kHalf, weights * (broadcast(1.0f) / sums));
        float extremes[kWidth], totals[kWidth];
        store(extremes, largest);
        store(totals, sums);
        const int filled = query + 1 < layout_.entries ? 2 : 1;
        for (int n = 0; n < filled; ++n) {
            buffers_.largest[query + n] = extremes[n * kHalf];
            buffers_.sums[query + n] = totals[n * kHalf];
        }
    }

    FOURREAL_ALWAYS_INLINE Vec keep_entries_of_halves(Vec x) const {
        constexpr int kHalf = kWidth / 2;
        const int entries = static_cast<int>(layout_.entries);
        if (entries == kHalf) return x;
        // first `entries` lanes, none up to the half, `entries` more, none
        const Vec first = select_first(entries, x, zero());
        const Vec second = select_first(kHalf, zero(), select_first(kHalf + entries, x, zero()));
        return first + second;
    }

    void weigh_rows(const Sequences<const T>& queries) const {
        for (std::int64_t i = 0; i < layout_.entries; ++i) {
            float* const scores = buffers_.scores + i * layout_.score_step;
            for (std::int64_t j = 0; j < layout_.entries; j += kWidth) store(scores + j, row_scores(queries.row(i, 0), j));
            normalise_row(scores, i);
        }
    }

    FOURREAL_ALWAYS_INLINE Vec row_scores(const T* query, std::int64_t first_key) const {
        Vec products[kWidth];
        const float* keys[kWidth];
        for (int j = 0; j < kWidth; ++j) {
            products[j] = zero();
            const std::int64_t key = first_key + j < layout_.entries ? first_key + j : 0;
            keys[j] = buffers_.keys + key * layout_.stride;
        }
        for (std::int64_t c = 0; c < layout_.channels; c += kWidth) {
            const Vec a = load_channels(query, c, layout_.channels);
            for (int j = 0; j < kWidth; ++j) products[j] = fmadd(a, load(keys[j] + c), products[j]);
        }
        return sum_lanes(products);
    }

    FOURREAL_ALWAYS_INLINE void normalise_row(float* scores, std::int64_t query) const {
        const Vec factor = broadcast(factor_);
        Vec extremes = load(scores) * factor;
        for (std::int64_t j = kWidth; j < layout_.entries; j += kWidth) extremes = max(extremes, load(scores + j) * factor);
        const Vec largest = combine_all(extremes, Maximum());
        Vec sums = zero();
        for (std::int64_t j = 0; j < layout_.entries; j += kWidth) {
            Vec weights = weight(load(scores + j), factor, largest);
            const std::int64_t left = layout_.entries - j;
            if (left < kWidth) weights = select_first(static_cast<int>(left), weights, zero());
            sums = sums + weights;
            store(scores + j, weights);
        }
        const Vec total = combine_all(sums, Sum());
        const Vec inverse = broadcast(1.0f) / total;
        for (std::int64_t j = 0; j < layout_.entries; j += kWidth) store(scores + j, load(scores + j) * inverse);
        store_first(buffers_.largest + query, largest, 1);
        store_first(buffers_.sums + query, total, 1);
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

    template <bool kStream, int kVectors>
    FOURREAL_ALWAYS_INLINE void write_columns(const Sequences<T>& out, std::int64_t channel) const {
        for (std::int64_t i = 0; i < layout_.entries; i += kTileRows) {
            Tile<kTileRows, kVectors> tile;
            tile.clear();
            tile.multiply_add(buffers_.scores + i * layout_.score_step, layout_.score_step, 1, buffers_.values + channel,
                              layout_.stride, layout_.entries);
            const std::int64_t rows = layout_.entries - i;
            for (int r = 0; r < kTileRows; ++r)
                if (r < rows) write_row<kStream>(tile.at[r], out.row(i + r, 0), channel);
        }
    }

    template <bool kStream, int kVectors>
    FOURREAL_ALWAYS_INLINE void write_row(const Vec (&row)[kVectors], T* to, std::int64_t channel) const {
        for (int x = 0; x < kVectors; ++x) {
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

void pointwise_short_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const ShortForward<decltype(type)> forward(job, Scratch(scratch));
        for_each_bundle(job.shape, 1, first, last, forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
