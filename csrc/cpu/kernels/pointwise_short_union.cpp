// The union of two short axes: products of each entry with its row and with its column, one softmax over both, and two
// weighted sums. The score of an entry with itself counts in its row.
#include <algorithm>

#include "kernels/pointwise_mix.hpp"
#include "kernels/pointwise_positions.hpp"
#include "kernels/pointwise_short.hpp"
#include "kernels/pointwise_short_parts.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

constexpr int kMostGroupsEach = 2;
constexpr int kMostEach = kMostGroupsEach * kGroupKeys;
constexpr int kMostInUnion = kMostEach * kMostEach;

struct Buffers {
    float *packed, *queries, *hidden_in_row, *sums;
    Scores scores;            // the groups of rows, then those of columns
    Scores hidden_in_column;  // laid out as the scores of columns

    Buffers(const PointwiseShape& shape, Scratch& scratch) {
        const int in_row = groups_of(shape.columns()), in_column = groups_of(shape.rows);
        packed = scratch.take(packed_floats(shape.channels, std::max(in_row, in_column)));
        queries = scratch.take(widened_floats(shape));
        hidden_in_row = scratch.take(in_row * kWidth);
        sums = scratch.take(shape.entries * kTileVectors * kWidth);
        const std::int64_t size = Scores::size_of_group(shape.entries);
        scores = {scratch.take((in_row + in_column) * size), size};
        hidden_in_column = {scratch.take(in_column * size), size};
    }
};

template <typename T, int kInRow, int kInColumn>
class ShortUnion {
    static constexpr int kGroups = kInRow + kInColumn;

public:
    ShortUnion(const PointwiseForward& job, Scratch scratch)
        : job_(job), shape_(job.shape), buffers_(job.shape, scratch) {
        hide_missing(shape_.columns(), kInRow, buffers_.hidden_in_row);
        const Scores& hidden = buffers_.hidden_in_column;
        for (int g = 0; g < kInColumn; ++g)
            for (std::int64_t i = 0; i < hidden.group_size; ++i) {
                const std::int64_t entry = i / kGroupKeys, key = g * kGroupKeys + i % kGroupKeys;
                const bool seen = key < shape_.rows && key != entry / shape_.columns();
                hidden.of(g, 0)[i] = seen ? 0.0f : -__builtin_inff();
            }
        // Past the last entry, scores of columns are read though none are written.
        for (std::int64_t i = 0; i < kGroups * buffers_.scores.group_size; ++i) buffers_.scores.at[i] = 0.0f;
    }

    void operator()(const ForwardOffsets& now, const ForwardOffsets& ahead) {
        k_.point_at(job_.k, now.at[kForwardK], shape_.entries);
        queries_.point_at(job_.q, now.at[kForwardQ], shape_.entries, shape_.channels, ahead.at[kForwardQ],
                          buffers_.queries);
        for (std::int64_t r = 0; r < shape_.rows; ++r)
            multiply<kInRow>(row(r), ahead.at[kForwardK], queries_.ahead_in_use(ahead.at[kForwardQ]), buffers_.scores);
        for (std::int64_t c = 0; c < shape_.columns(); ++c)
            multiply<kInColumn>(column(c), 0, 0, buffers_.scores.from(kInRow));
        normalise<kInRow, kInColumn>(job_, shape_.entries, buffers_.scores, buffers_.hidden_in_row,
                                     buffers_.hidden_in_column, now.at[kForwardLse]);
        v_.point_at(job_.v, now.at[kForwardV], shape_.entries);
        out_.point_at(job_.out, now.at[kForwardOut], shape_.entries);
        if (shape_.stream)
            write<true>(ahead.at[kForwardV]);
        else
            write<false>(ahead.at[kForwardV]);
    }

private:
    Members row(std::int64_t r) const { return {r * shape_.columns(), 1, shape_.columns()}; }
    Members column(std::int64_t c) const { return {c, shape_.columns(), shape_.rows}; }

    template <int kFamilyGroups>
    FOURREAL_ALWAYS_INLINE void multiply(const Members& members, std::int64_t keys_ahead, std::int64_t queries_ahead,
                                         const Scores& scores) const {
        pack_keys<kFamilyGroups>(k_.at, members, shape_.channels, keys_ahead, buffers_.packed);
        write_products<kFamilyGroups>(buffers_.packed, queries_.at, members, shape_.channels, queries_ahead, scores);
    }

    template <bool kStream>
    FOURREAL_ALWAYS_INLINE void write(std::int64_t ahead) const {
        for_columns(shape_.channels, [&](const Columns& columns, auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            for (std::int64_t r = 0; r < shape_.rows; ++r) add_row<kVectors>(row(r), columns, ahead);
            for (std::int64_t c = 0; c < shape_.columns(); ++c) write_column<kStream, kVectors>(column(c), columns);
        });
    }

    template <int kVectors>
    FOURREAL_ALWAYS_INLINE void add_row(const Members& members, const Columns& columns, std::int64_t ahead) const {
        constexpr std::int64_t kStride = kVectors * kWidth;
        for (std::int64_t i = 0; i < members.count; i += kGroupKeys) {
            Mixed<kVectors> mixed;
            add_family<kInRow>(mixed, buffers_.scores, v_.at, members, i, columns, i == 0 ? ahead : 0);
            for (int s = 0; s < kGroupKeys && i + s < members.count; ++s)
                for (int x = 0; x < kVectors; ++x)
                    store(buffers_.sums + members.at(i + s) * kStride + x * kWidth, mixed.tile.at[s][x]);
        }
    }

    template <bool kStream, int kVectors>
    FOURREAL_ALWAYS_INLINE void write_column(const Members& members, const Columns& columns) const {
        constexpr std::int64_t kStride = kVectors * kWidth;
        for (std::int64_t i = 0; i < members.count; i += kGroupKeys) {
            Mixed<kVectors> mixed;
            add_family<kInColumn>(mixed, buffers_.scores.from(kInRow), v_.at, members, i, columns, 0);
#pragma GCC unroll 8
            for (int s = 0; s < kGroupKeys; ++s)
                for (int x = 0; x < kVectors; ++x) {
                    const float* const sum = buffers_.sums + members.at(i + s) * kStride + x * kWidth;
                    mixed.tile.at[s][x] = mixed.tile.at[s][x] + load(sum);
                }
            mixed.template write<kStream>(out_.at, members, i, columns);
        }
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    const Buffers buffers_;
    QueryRows<T, kMostInUnion> queries_;
    EntryRows<const T, kMostInUnion> k_, v_;
    EntryRows<T, kMostInUnion> out_;
};

// Calls body(T{}, groups of rows, groups of columns), the last two as constants.
template <typename Body>
FOURREAL_ALWAYS_INLINE void with_groups(const PointwiseShape& shape, const Body& body) {
    const std::integral_constant<int, 1> one;
    const std::integral_constant<int, 2> two;
    const bool wide = groups_of(shape.columns()) == 2, tall = groups_of(shape.rows) == 2;
    with_storage(shape.dtype, [&](auto type) {
        if (wide && tall) return body(type, two, two);
        if (wide) return body(type, two, one);
        if (tall) return body(type, one, two);
        return body(type, one, one);
    });
}

}  // namespace

// The most rows, and the most columns.
std::int64_t pointwise_short_union_entries() { return kMostEach; }

std::int64_t pointwise_short_union_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Buffers(shape, scratch);
    return scratch.used();
}

void pointwise_short_union_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_groups(job.shape, [&](auto type, auto in_row, auto in_column) {
        using Kernel = ShortUnion<decltype(type), decltype(in_row)::value, decltype(in_column)::value>;
        for_each_position(forward_walk(job, first, last), Kernel(job, Scratch(scratch)));
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
