#include "kernels/frame_attention_backward.hpp"

#include <algorithm>

#include "kernels/panels.hpp"
#include "kernels/rows.hpp"
#include "kernels/rows_ahead.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// A block of keys with the sums of their gradients.
struct KeyBlock {
    const float* keys;
    const float* values;
    float* dk;
    float* dv;
    std::int64_t count;
};

// What a panel needs of its queries, and its part of dq.
struct PanelInputs {
    const float* queries;        // [channels][lanes]
    float factor;                // of products of queries and keys, to scores in powers of two
    const float* grads;          // [channels][lanes], grad_out
    const float* query_rows;     // [lanes][channels], scaled and corrected
    const float* grad_rows;      // [lanes][channels], grad_out, corrected
    const float* negative_lse;   // [lanes], in powers of two
    const float* delta;          // [lanes], sum(grad_out * out) - grad_lse
    float* dq;                   // [channels][lanes], added to
};

// probabilities = 2^(keys . queries - lse)
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void probabilities_of(const float* keys, std::int64_t padded, const PanelInputs& panel,
                                             float* probabilities) {
    const auto negative_lse = Lanes<kVectors>::load_from(panel.negative_lse);
    const Vec factor = broadcast(panel.factor);
    const auto tile = products_of<kRows, kVectors>(keys, padded, 1, panel.queries, kVectors * kWidth, padded);
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x)
            store(probabilities + (r * kVectors + x) * kWidth, exp2(fmadd(tile.at[r][x], factor, negative_lse.at[x])));
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE void probabilities_of_block(const float* keys, std::int64_t count, std::int64_t padded,
                                                   const PanelInputs& panel, float* probabilities) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows)
        probabilities_of<kTileRows, kVectors>(keys + j * padded, padded, panel, probabilities + j * kLanes);
    for (; j < count; ++j)
        probabilities_of<1, kVectors>(keys + j * padded, padded, panel, probabilities + j * kLanes);
}

// score_grads = probabilities * (values . grads - delta)
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void score_gradients_of(const float* values, std::int64_t padded, const PanelInputs& panel,
                                               const float* probabilities, float* score_grads) {
    const auto delta = Lanes<kVectors>::load_from(panel.delta);
    const auto tile = products_of<kRows, kVectors>(values, padded, 1, panel.grads, kVectors * kWidth, padded);
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x) {
            const std::int64_t at = (r * kVectors + x) * kWidth;
            store(score_grads + at, (tile.at[r][x] - delta.at[x]) * load(probabilities + at));
        }
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE void score_gradients_of_block(const float* values, std::int64_t count, std::int64_t padded,
                                                     const PanelInputs& panel, const float* probabilities,
                                                     float* score_grads) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows)
        score_gradients_of<kTileRows, kVectors>(values + j * padded, padded, panel, probabilities + j * kLanes,
                                                score_grads + j * kLanes);
    for (; j < count; ++j)
        score_gradients_of<1, kVectors>(values + j * padded, padded, panel, probabilities + j * kLanes,
                                        score_grads + j * kLanes);
}

// Rows of `sums` += weights . rows, where weights are [keys][lanes] and rows are [lanes][channels].
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void add_products(const float* weights, std::int64_t lanes, const float* rows, std::int64_t stride,
                                         float* sums) {
    Tile<kRows, kVectors> tile;
    tile.clear();
    tile.multiply_add(weights, lanes, 1, rows, stride, lanes);
    tile.add_to(sums, stride);
}

// All keys for some columns: the rows of those columns stay in the first-level cache.
template <int kVectors>
void add_column_products(const float* weights, std::int64_t count, std::int64_t lanes, const float* rows,
                         std::int64_t stride, float* sums, RowsAhead& next) {
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows) {
        next.fetch_some();
        add_products<kTileRows, kVectors>(weights + j * lanes, lanes, rows, stride, sums + j * stride);
    }
    for (; j < count; ++j) add_products<1, kVectors>(weights + j * lanes, lanes, rows, stride, sums + j * stride);
}

void add_all_products(const float* weights, std::int64_t count, std::int64_t lanes, const float* rows, std::int64_t stride,
                      float* sums, RowsAhead& next) {
    std::int64_t left = stride / kWidth;
    for (std::int64_t d = 0; left > 0;) {
        if (left == 3 || left > 4) {  // 4 is 2 + 2: one vector alone would be bound by its loads
            add_column_products<3>(weights, count, lanes, rows + d, stride, sums + d, next);
            d += 3 * kWidth, left -= 3;
        } else if (left >= 2) {
            add_column_products<2>(weights, count, lanes, rows + d, stride, sums + d, next);
            d += 2 * kWidth, left -= 2;
        } else {
            add_column_products<1>(weights, count, lanes, rows + d, stride, sums + d, next);
            d += kWidth, left -= 1;
        }
    }
}

template <int kVectors>
void add_query_gradients(const float* keys, std::int64_t count, std::int64_t padded, const float* score_grads, float* dq) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    for (std::int64_t d = 0; d < padded; d += kTileRows) {
        Tile<kTileRows, kVectors> tile;
        tile.clear();
        tile.multiply_add(keys + d, 1, padded, score_grads, kLanes, count);
        tile.add_to(dq + d * kLanes, kLanes);
    }
}

// One block of keys for one panel.
template <int kVectors>
void differentiate_block(const KeyBlock& block, std::int64_t channels, const PanelInputs& panel, float* weights,
                         RowsAhead& next) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    const std::int64_t padded = padded_channels(channels), stride = vector_padded_channels(channels);
    float* const probabilities = weights;
    float* const score_grads = weights + kKeyBlock * kLanes;
    probabilities_of_block<kVectors>(block.keys, block.count, padded, panel, probabilities);
    score_gradients_of_block<kVectors>(block.values, block.count, padded, panel, probabilities, score_grads);
    add_all_products(probabilities, block.count, kLanes, panel.grad_rows, stride, block.dv, next);
    add_all_products(score_grads, block.count, kLanes, panel.query_rows, stride, block.dk, next);
    add_query_gradients<kVectors>(block.keys, block.count, padded, score_grads, panel.dq);
}

using BlockKernel = void (*)(const KeyBlock&, std::int64_t, const PanelInputs&, float*, RowsAhead&);
constexpr BlockKernel kBlockKernels[] = {differentiate_block<1>, differentiate_block<2>, differentiate_block<3>};
static_assert(kPanelVectors == 3, "one block kernel per panel width");

struct GroupScratch {
    float* queries;
    float* grads;
    float* dq;
    float* query_rows;
    float* grad_rows;
    float* negative_lse;
    float* delta;
    float* corrections;
    float* weights;

    GroupScratch(float* scratch, std::int64_t lanes, std::int64_t channels)
        : queries(scratch),
          grads(queries + lanes * padded_channels(channels)),
          dq(grads + lanes * padded_channels(channels)),
          query_rows(dq + lanes * padded_channels(channels)),
          grad_rows(query_rows + lanes * vector_padded_channels(channels)),
          negative_lse(grad_rows + lanes * vector_padded_channels(channels)),
          delta(negative_lse + lanes),
          corrections(delta + lanes),
          weights(corrections + lanes) {}

    PanelInputs panel(std::int64_t first_lane, std::int64_t channels, float factor) const {
        const std::int64_t padded = padded_channels(channels), stride = vector_padded_channels(channels);
        return {queries + first_lane * padded, factor, grads + first_lane * padded,
                query_rows + first_lane * stride, grad_rows + first_lane * stride,
                negative_lse + first_lane, delta + first_lane,
                dq + first_lane * padded};
    }
};

template <typename T>
float row_product(const T* a, const T* b, std::int64_t channels) {
    Vec sum = zero();
    for (std::int64_t d = 0; d < channels; d += kWidth)
        sum = fmadd(load_channels(a, d, channels), load_channels(b, d, channels), sum);
    return reduce_add(sum);
}

// The log-sum-exp of a query in powers of two, negative. A float does not hold all of it: the error would be that of every
// probability of the query, and what the rest makes of them, near 1, goes into the rows that they multiply instead.
void load_log_sum(const GradientGroup& group, std::int64_t i, const GroupScratch& scratch) {
    constexpr double kLog2EInDouble = 1.4426950408889634074;
    const double power = kLog2EInDouble * static_cast<double>(group.lse[group.lse_offsets[i]]);
    const float rounded = static_cast<float>(power);
    scratch.negative_lse[i] = -rounded;
    scratch.corrections[i] = 1.0f - kLn2 * static_cast<float>(power - static_cast<double>(rounded));
}

// The rows of one query: its copies, and the numbers that its scores start from.
template <typename T>
void load_query(const GradientGroup& group, std::int64_t i, const GroupScratch& scratch) {
    const std::int64_t stride = vector_padded_channels(group.channels);
    const T* query = static_cast<const T*>(group.queries) + group.query_offsets[i];
    const T* grad = static_cast<const T*>(group.grad_out) + group.grad_out_offsets[i];
    const T* out = static_cast<const T*>(group.out) + group.out_offsets[i];
    load_log_sum(group, i, scratch);
    const Vec correction = broadcast(scratch.corrections[i]), scale = broadcast(group.scale * scratch.corrections[i]);
    for (std::int64_t d = 0; d < stride; d += kWidth) {
        const bool inside = d < group.channels;
        store(scratch.query_rows + i * stride + d, inside ? scale * load_channels(query, d, group.channels) : zero());
        store(scratch.grad_rows + i * stride + d, inside ? correction * load_channels(grad, d, group.channels) : zero());
    }
    const float grad_lse = group.grad_lse ? group.grad_lse[group.grad_lse_offsets[i]] : 0.0f;
    scratch.delta[i] = row_product(grad, out, group.channels) - grad_lse;
}

void clear(float* values, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) values[i] = 0;
}

template <typename T>
void load_group(const GradientGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const std::int64_t padded = padded_channels(group.channels), stride = vector_padded_channels(group.channels);
    const std::int64_t unused = panels.lanes - group.count;
    for (std::int64_t i = 0; i < group.count; ++i) load_query<T>(group, i, scratch);
    clear(scratch.query_rows + group.count * stride, unused * stride);
    clear(scratch.grad_rows + group.count * stride, unused * stride);
    clear(scratch.negative_lse + group.count, unused);
    clear(scratch.delta + group.count, unused);
    clear(scratch.corrections + group.count, unused);
    clear(scratch.dq, panels.lanes * padded);
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_in(static_cast<const T*>(group.queries), group.query_offsets + panel.first, panel.queries, panel.lanes(),
                          group.channels, padded, scratch.queries + panel.first * padded);
        transpose_rows_in(static_cast<const T*>(group.grad_out), group.grad_out_offsets + panel.first, panel.queries,
                          panel.lanes(), group.channels, padded, scratch.grads + panel.first * padded);
    }
}

KeyBlock block_of(const GradientGroup& group, const KeyRun& keys) {
    const std::int64_t padded = padded_channels(group.channels), stride = vector_padded_channels(group.channels);
    return {group.keys + keys.first * padded, group.values + keys.first * padded, group.dk + keys.first * stride,
            group.dv + keys.first * stride, keys.count};
}

// Whether blocks are to be fetched early: few panels pass over keys that the second-level cache does not hold.
bool fetches_blocks(const GradientGroup& group, const Panels& panels) {
    constexpr std::int64_t kFewPanels = 6, kHeldFloats = 192 * 1024;
    std::int64_t keys = 0;
    for (std::int64_t run = 0; run < group.run_count; ++run) keys += group.runs[run].count;
    const std::int64_t per_key = 2 * (padded_channels(group.channels) + vector_padded_channels(group.channels));
    return panels.count <= kFewPanels && keys * per_key > kHeldFloats;
}

constexpr int kBlockParts = 4;
void list_rows(const KeyBlock& block, std::int64_t padded, std::int64_t stride, Rows (&rows)[kBlockParts]) {
    rows[0] = {DType::kFloat32, block.keys, padded, block.count, padded};
    rows[1] = {DType::kFloat32, block.values, padded, block.count, padded};
    rows[2] = {DType::kFloat32, block.dk, stride, block.count, stride};
    rows[3] = {DType::kFloat32, block.dv, stride, block.count, stride};
}

void differentiate_runs(const GradientGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const std::int64_t padded = padded_channels(group.channels), stride = vector_padded_channels(group.channels);
    const std::int64_t column_tiles = (stride / kWidth + kTileVectors - 1) / kTileVectors;
    const bool fetches = fetches_blocks(group, panels);
    for (BlockWalk walk(group.runs, group.run_count); !walk.done();) {
        const KeyBlock block = block_of(group, walk.block());
        const std::int64_t steps = panels.count * 2 * column_tiles * std::max<std::int64_t>(1, block.count / kTileRows);
        walk.advance();
        Rows rows[kBlockParts];
        const bool fetches_next = fetches && !walk.done();
        if (fetches_next) list_rows(block_of(group, walk.block()), padded, stride, rows);
        RowsAhead next(rows, fetches_next ? kBlockParts : 0, steps);
        for (std::int64_t p = 0; p < panels.count; ++p) {
            const Panel panel = panels.at(p);
            const PanelInputs inputs = scratch.panel(panel.first, group.channels, group.scale * kLog2E);
            kBlockKernels[panel.vectors - 1](block, group.channels, inputs, scratch.weights, next);
        }
    }
}

template <typename T>
void write_query_gradients_as(const GradientGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const std::int64_t padded = padded_channels(group.channels);
    float* const factors = scratch.corrections;
    for (std::int64_t i = 0; i < panels.lanes; ++i) factors[i] *= group.scale;
    const EarlierRows earlier{group.earlier_dq, group.earlier_dq_offsets};
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_out(scratch.dq + panel.first * padded, factors + panel.first, panel.lanes(), group.channels, padded,
                           panel.queries, static_cast<T*>(group.dq), group.dq_offsets + panel.first,
                           earlier.from(panel.first));
    }
}

void write_query_gradients(const GradientGroup& group, const Panels& panels, const GroupScratch& scratch) {
    switch (group.dq_dtype) {
        case DType::kFloat32: return write_query_gradients_as<float>(group, panels, scratch);
        case DType::kFloat16: return write_query_gradients_as<Float16>(group, panels, scratch);
        case DType::kBFloat16: return write_query_gradients_as<BFloat16>(group, panels, scratch);
        case DType::kFloat64: return;
    }
}

template <typename T>
void differentiate_group_of(const GradientGroup& group, float* memory) {
    const Panels panels(group.count);
    const GroupScratch scratch(memory, panels.lanes, group.channels);
    load_group<T>(group, panels, scratch);
    differentiate_runs(group, panels, scratch);
    write_query_gradients(group, panels, scratch);
}

template <typename T>
void unpack_rows_of(const float* accumulated, const Rows& rows, const float* earlier, std::int64_t earlier_stride) {
    const std::int64_t stride = vector_padded_channels(rows.channels);
    T* first = static_cast<T*>(const_cast<void*>(rows.first));
    for (std::int64_t row = 0; row < rows.count; ++row) {
        if (row + kRowsAhead < rows.count)
            prefetch_row_to_write(first + (row + kRowsAhead) * rows.stride, rows.channels);
        for (std::int64_t d = 0; d < rows.channels; d += kWidth) {
            Vec sum = load(accumulated + row * stride + d);
            if (earlier) sum = sum + load_channels(earlier + row * earlier_stride, d, rows.channels);
            store_channels(first + row * rows.stride, d, rows.channels, sum);
        }
    }
}

}  // namespace

void differentiate_group(const GradientGroup& group, float* scratch) {
    switch (group.dtype) {
        case DType::kFloat32: return differentiate_group_of<float>(group, scratch);
        case DType::kFloat16: return differentiate_group_of<Float16>(group, scratch);
        case DType::kBFloat16: return differentiate_group_of<BFloat16>(group, scratch);
        case DType::kFloat64: return;
    }
}

void unpack_rows(const float* accumulated, const Rows& rows, const float* earlier, std::int64_t earlier_stride) {
    switch (rows.dtype) {
        case DType::kFloat32: return unpack_rows_of<float>(accumulated, rows, earlier, earlier_stride);
        case DType::kFloat16: return unpack_rows_of<Float16>(accumulated, rows, earlier, earlier_stride);
        case DType::kBFloat16: return unpack_rows_of<BFloat16>(accumulated, rows, earlier, earlier_stride);
        case DType::kFloat64: return;
    }
}

void add_floats(const float* from, float* to, std::int64_t count) {
    std::int64_t i = 0;
    for (; i + kWidth <= count; i += kWidth) store(to + i, load(to + i) + load(from + i));
    for (; i < count; ++i) to[i] += from[i];
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
