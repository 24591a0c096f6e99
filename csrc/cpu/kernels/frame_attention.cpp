#include "kernels/frame_attention.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/panels.hpp"
#include "kernels/rows.hpp"
#include "kernels/rows_ahead.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// The running maximum is raised only when the probabilities of a block, taken with the maximum so far, sum up to more than
// this: until then there is nothing to rescale and no maximum to find.
constexpr float kLargestSum = 65536.0f;

// The state of the queries of one panel over the keys seen so far.
struct PanelState {
    const float* queries;  // [channels][lanes]
    float factor;          // of products of queries and keys, to scores in powers of two
    float* outputs;        // [channels][lanes], sum of probabilities times values
    float* maximum;        // [lanes], of the scores that probabilities are taken relative to
    float* sums;           // [lanes], of probabilities
};

// Products of the queries with `kRows` keys.
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE Tile<kRows, kVectors> products_with(const float* keys, std::int64_t padded, const PanelState& panel) {
    return products_of<kRows, kVectors>(keys, padded, 1, panel.queries, kVectors * kWidth, padded);
}

// Products into `products`; keeps the largest score in `largest`.
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void keep_products(const float* keys, std::int64_t padded, const PanelState& panel, float* products,
                                          Lanes<kVectors>& largest) {
    const Vec factor = broadcast(panel.factor);
    const auto tile = products_with<kRows, kVectors>(keys, padded, panel);
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x) largest.at[x] = max(largest.at[x], tile.at[r][x] * factor);
    tile.store_to(products, kVectors * kWidth);
}

// Probabilities into `probabilities`; adds them to `sums`.
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void keep_probabilities(const float* keys, std::int64_t padded, const PanelState& panel,
                                               const Lanes<kVectors>& negative_maximum, float* probabilities,
                                               Lanes<kVectors>& sums) {
    const Vec factor = broadcast(panel.factor);
    const auto tile = products_with<kRows, kVectors>(keys, padded, panel);
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x) {
            const Vec probability = exp2(fmadd(tile.at[r][x], factor, negative_maximum.at[x]));
            sums.at[x] = sums.at[x] + probability;
            store(probabilities + (r * kVectors + x) * kWidth, probability);
        }
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> largest_score(const float* keys, std::int64_t count, std::int64_t padded,
                                                   const PanelState& panel, float* products) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    auto largest = Lanes<kVectors>::all(-INFINITY);
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows)
        keep_products<kTileRows>(keys + j * padded, padded, panel, products + j * kLanes, largest);
    for (; j < count; ++j) keep_products<1>(keys + j * padded, padded, panel, products + j * kLanes, largest);
    return largest;
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> weigh_block(const float* keys, std::int64_t count, std::int64_t padded,
                                                   const PanelState& panel, float* probabilities) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    const auto negative_maximum = Lanes<kVectors>::load_from(panel.maximum).negated();
    auto sums = Lanes<kVectors>::all(0);
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows)
        keep_probabilities<kTileRows>(keys + j * padded, padded, panel, negative_maximum, probabilities + j * kLanes, sums);
    for (; j < count; ++j)
        keep_probabilities<1>(keys + j * padded, padded, panel, negative_maximum, probabilities + j * kLanes, sums);
    return sums;
}

// products <- 2^(factor * products - maximum), in place; returns their sums.
template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> exponentiate(float* products, std::int64_t count, float factor,
                                                    const Lanes<kVectors>& negative_maximum) {
    const Vec factors = broadcast(factor);
    auto sums = Lanes<kVectors>::all(0);
    for (std::int64_t j = 0; j < count; ++j)
        for (int x = 0; x < kVectors; ++x) {
            float* const at = products + (j * kVectors + x) * kWidth;
            const Vec probability = exp2(fmadd(load(at), factors, negative_maximum.at[x]));
            sums.at[x] = sums.at[x] + probability;
            store(at, probability);
        }
    return sums;
}

// Rescales what the panel has summed up to a new maximum.
template <int kVectors>
void raise_maximum(const PanelState& panel, const Lanes<kVectors>& maximum, std::int64_t padded) {
    for (int x = 0; x < kVectors; ++x) {
        const Vec factor = exp2(load(panel.maximum + x * kWidth) - maximum.at[x]);
        float* const sums = panel.sums + x * kWidth;
        store(sums, load(sums) * factor);
        for (std::int64_t d = 0; d < padded; ++d) {
            float* const output = panel.outputs + (d * kVectors + x) * kWidth;
            store(output, load(output) * factor);
        }
    }
}

// The probabilities of a block, from the maximum of its scores and all before it.
template <int kVectors>
Lanes<kVectors> weigh_block_anew(const float* keys, std::int64_t count, std::int64_t padded, const PanelState& panel,
                                 bool first, float* probabilities) {
    auto maximum = largest_score<kVectors>(keys, count, padded, panel, probabilities);
    if (!first) {
        for (int x = 0; x < kVectors; ++x) maximum.at[x] = max(maximum.at[x], load(panel.maximum + x * kWidth));
        raise_maximum(panel, maximum, padded);
    }
    maximum.store_to(panel.maximum);
    return exponentiate(probabilities, count, panel.factor, maximum.negated());
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE bool too_large(const Lanes<kVectors>& sums) {
    Vec most = sums.at[0];
    for (int x = 1; x < kVectors; ++x) most = max(most, sums.at[x]);
    return any_greater(most, broadcast(kLargestSum));
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE void add_values(const float* values, std::int64_t count, std::int64_t padded,
                                       const PanelState& panel, const float* probabilities, RowsAhead& ahead) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    for (std::int64_t d = 0; d < padded; d += kTileRows) {
        ahead.fetch_some();
        Tile<kTileRows, kVectors> tile;
        tile.clear();
        tile.multiply_add(values + d, 1, padded, probabilities, kLanes, count);
        tile.add_to(panel.outputs + d * kLanes, kLanes);
    }
}

// One block of keys for one panel.
template <int kVectors>
void attend_block(const float* keys, const float* values, std::int64_t count, std::int64_t padded,
                  const PanelState& panel, bool first, float* probabilities, RowsAhead& ahead) {
    Lanes<kVectors> sums;
    if (!first) sums = weigh_block<kVectors>(keys, count, padded, panel, probabilities);
    if (first || too_large(sums)) sums = weigh_block_anew<kVectors>(keys, count, padded, panel, first, probabilities);
    for (int x = 0; x < kVectors; ++x) {
        float* const total = panel.sums + x * kWidth;
        store(total, load(total) + sums.at[x]);
    }
    add_values<kVectors>(values, count, padded, panel, probabilities, ahead);
}

using BlockKernel = void (*)(const float*, const float*, std::int64_t, std::int64_t, const PanelState&, bool, float*,
                             RowsAhead&);
constexpr BlockKernel kBlockKernels[] = {attend_block<1>, attend_block<2>, attend_block<3>};
static_assert(kPanelVectors == 3, "one block kernel per panel width");

// The scratch of a group: transposed queries and outputs, the softmax state, and the scores of one block.
struct GroupScratch {
    float* queries;
    float* outputs;
    float* maximum;
    float* sums;
    float* scores;

    GroupScratch(float* scratch, std::int64_t lanes, std::int64_t padded)
        : queries(scratch),
          outputs(queries + lanes * padded),
          maximum(outputs + lanes * padded),
          sums(maximum + lanes),
          scores(sums + lanes) {}

    PanelState panel(std::int64_t first_lane, std::int64_t padded, float factor) const {
        return {queries + first_lane * padded, factor, outputs + first_lane * padded, maximum + first_lane, sums + first_lane};
    }
};

template <typename T>
void load_queries(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const std::int64_t padded = padded_channels(group.channels);
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_in(static_cast<const T*>(group.queries), group.query_offsets + panel.first, panel.queries, panel.lanes(),
                          group.channels, padded, scratch.queries + panel.first * padded);
    }
}

void clear_state(const Panels& panels, const GroupScratch& scratch, std::int64_t padded) {
    for (std::int64_t i = 0; i < panels.lanes * padded; i += kWidth) store(scratch.outputs + i, zero());
    for (std::int64_t i = 0; i < panels.lanes; i += kWidth) {
        store(scratch.maximum + i, zero());
        store(scratch.sums + i, zero());
    }
}

void resume(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const PartialGroup& partial = group.partial;
    const std::int64_t padded = padded_channels(group.channels);
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_in(static_cast<const float*>(partial.values), partial.value_offsets + panel.first, panel.queries,
                          panel.lanes(), group.channels, padded, scratch.outputs + panel.first * padded);
    }
    for (std::int64_t i = 0; i < panels.lanes; ++i) {
        const bool used = i < group.count;
        scratch.maximum[i] = used ? partial.state[partial.state_offsets[i]] : 0.0f;
        scratch.sums[i] = used ? partial.state[partial.state_offsets[i] + 1] : 0.0f;
    }
}

void suspend(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const PartialGroup& partial = group.partial;
    const std::int64_t padded = padded_channels(group.channels);
    for (std::int64_t i = 0; i < group.count; ++i) {
        partial.state[partial.state_offsets[i]] = scratch.maximum[i];
        partial.state[partial.state_offsets[i] + 1] = scratch.sums[i];
    }
    float* const ones = scratch.sums;  // no longer needed
    for (std::int64_t i = 0; i < panels.lanes; i += kWidth) store(ones + i, broadcast(1.0f));
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_out(scratch.outputs + panel.first * padded, ones + panel.first, panel.lanes(), group.channels, padded,
                           panel.queries, partial.values, partial.value_offsets + panel.first);
    }
}

// (maximum + log2 of the sum) * ln 2. The power of two of the sum is taken out first: in double, the result is rounded once.
void write_log_sums(const QueryGroup& group, const GroupScratch& scratch) {
    constexpr double kNaturalLog2 = 0.693147180559945309;
    constexpr float kSqrt2 = 1.41421356f;
    for (std::int64_t first = 0; first < group.count; first += kWidth) {
        float exponents[kWidth], logs[kWidth];
        const Vec sum = load(scratch.sums + first), exponent = exponent_of(sum * broadcast(kSqrt2));
        store(exponents, exponent);
        store(logs, natural_log(scale_by_power_of_two(sum, zero() - exponent)));
        const std::int64_t count = std::min<std::int64_t>(kWidth, group.count - first);
        for (std::int64_t i = 0; i < count; ++i) {
            const double power = static_cast<double>(scratch.maximum[first + i]) + static_cast<double>(exponents[i]);
            group.lse[group.lse_offsets[first + i]] =
                static_cast<float>(power * kNaturalLog2 + static_cast<double>(logs[i]));
        }
    }
}

template <typename T>
void write_results(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    if (group.lse) write_log_sums(group, scratch);
    for (std::int64_t i = 0; i < panels.lanes; i += kWidth)
        store(scratch.sums + i, broadcast(1.0f) / load(scratch.sums + i));
    const std::int64_t padded = padded_channels(group.channels);
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_out(scratch.outputs + panel.first * padded, scratch.sums + panel.first, panel.lanes(), group.channels,
                           padded, panel.queries, static_cast<T*>(group.out), group.out_offsets + panel.first);
    }
}

void attend_runs(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    const std::int64_t padded = padded_channels(group.channels);
    std::int64_t steps = 0;
    for (BlockWalk walk(group.runs, group.run_count); !walk.done(); walk.advance()) steps += panels.count * (padded / kTileRows);
    RowsAhead ahead(group.ahead, group.ahead_count, steps);
    bool first = !group.partial.resumes;
    for (BlockWalk walk(group.runs, group.run_count); !walk.done(); walk.advance(), first = false) {
        const KeyRun block = walk.block();
        for (std::int64_t p = 0; p < panels.count; ++p) {
            const Panel panel = panels.at(p);
            kBlockKernels[panel.vectors - 1](group.keys + block.first * padded, group.values + block.first * padded,
                                             block.count, padded, scratch.panel(panel.first, padded, group.scale * kLog2E),
                                             first, scratch.scores, ahead);
        }
    }
}

template <typename T>
void attend_group_of(const QueryGroup& group, float* memory) {
    const Panels panels(group.count);
    const GroupScratch scratch(memory, panels.lanes, padded_channels(group.channels));
    load_queries<T>(group, panels, scratch);
    if (group.partial.resumes)
        resume(group, panels, scratch);
    else
        clear_state(panels, scratch, padded_channels(group.channels));
    attend_runs(group, panels, scratch);
    if (group.partial.suspends)
        suspend(group, panels, scratch);
    else
        write_results<T>(group, panels, scratch);
}

template <typename T>
void pack_rows_of(const Rows& rows, float* packed) {
    const std::int64_t padded = padded_channels(rows.channels);
    const T* first = static_cast<const T*>(rows.first);
    for (std::int64_t row = 0; row < rows.count; ++row) {
        if (row + kRowsAhead < rows.count) prefetch_row(first + (row + kRowsAhead) * rows.stride, rows.channels);
        pack_row(first + row * rows.stride, rows.channels, padded, packed + row * padded);
    }
}

}  // namespace

void pack_rows(const Rows& rows, float* packed) {
    switch (rows.dtype) {
        case DType::kFloat32: return pack_rows_of<float>(rows, packed);
        case DType::kFloat16: return pack_rows_of<Float16>(rows, packed);
        case DType::kBFloat16: return pack_rows_of<BFloat16>(rows, packed);
        case DType::kFloat64: return;
    }
}

void attend_group(const QueryGroup& group, float* scratch) {
    switch (group.dtype) {
        case DType::kFloat32: return attend_group_of<float>(group, scratch);
        case DType::kFloat16: return attend_group_of<Float16>(group, scratch);
        case DType::kBFloat16: return attend_group_of<BFloat16>(group, scratch);
        case DType::kFloat64: return;
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
