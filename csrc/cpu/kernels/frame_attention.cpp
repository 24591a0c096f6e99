#include "kernels/frame_attention.hpp"

#include <cmath>

#include "kernels/panels.hpp"
#include "kernels/rows.hpp"
#include "simd/tiles.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// A running maximum is raised only when scores exceed it by this much (in powers of two): until then no rescaling is needed.
constexpr float kHeadroom = 8.0f;

// The state of the queries of one panel over the keys seen so far. Scores are in powers of two.
struct PanelState {
    const float* queries;  // [channels][lanes], scaled
    float* outputs;        // [channels][lanes], sum of probabilities times values
    float* negative_max;   // [lanes]
    float* sums;           // [lanes], of probabilities
};

// Scores of `kRows` keys, less the running maximum, into `scores`; keeps the largest in `largest`.
template <int kRows, int kVectors>
FOURREAL_ALWAYS_INLINE void score_keys(const float* keys, std::int64_t padded, const PanelState& panel,
                                       const Lanes<kVectors>& start, float* scores, Lanes<kVectors>& largest) {
    Tile<kRows, kVectors> tile;
    tile.fill_rows(start.at);
    tile.multiply_add(keys, padded, 1, panel.queries, kVectors * kWidth, padded);
    for (int r = 0; r < kRows; ++r)
        for (int x = 0; x < kVectors; ++x) largest.at[x] = max(largest.at[x], tile.at[r][x]);
    tile.store_to(scores, kVectors * kWidth);
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> score_block(const float* keys, std::int64_t count, std::int64_t padded,
                                                   const PanelState& panel, float* scores) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    const auto start = Lanes<kVectors>::load_from(panel.negative_max);
    auto largest = Lanes<kVectors>::all(-INFINITY);
    std::int64_t j = 0;
    for (; j + kTileRows <= count; j += kTileRows)
        score_keys<kTileRows>(keys + j * padded, padded, panel, start, scores + j * kLanes, largest);
    for (; j + 2 <= count; j += 2)
        score_keys<2>(keys + j * padded, padded, panel, start, scores + j * kLanes, largest);
    if (j < count) score_keys<1>(keys + j * padded, padded, panel, start, scores + j * kLanes, largest);
    return largest;
}

// scores <- 2^(scores - shift), in place; returns their sums.
template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> exponentiate(float* scores, std::int64_t count, const Lanes<kVectors>& shift) {
    auto sums = Lanes<kVectors>::all(0);
    for (std::int64_t j = 0; j < count; ++j)
        for (int x = 0; x < kVectors; ++x) {
            float* at = scores + (j * kVectors + x) * kWidth;
            const Vec power = exp2(load(at) - shift.at[x]);
            sums.at[x] = sums.at[x] + power;
            store(at, power);
        }
    return sums;
}

// The same without a shift: the usual case, so that its subtraction is spared.
template <int kVectors>
FOURREAL_ALWAYS_INLINE Lanes<kVectors> exponentiate(float* scores, std::int64_t count) {
    auto sums = Lanes<kVectors>::all(0);
    for (std::int64_t j = 0; j < count; ++j)
        for (int x = 0; x < kVectors; ++x) {
            float* at = scores + (j * kVectors + x) * kWidth;
            const Vec power = exp2(load(at));
            sums.at[x] = sums.at[x] + power;
            store(at, power);
        }
    return sums;
}

// Moves the panel to a maximum raised by `shift` >= 0 (any, for the first keys: then there is nothing to rescale).
template <int kVectors>
void raise_maximum(const PanelState& panel, const Lanes<kVectors>& shift, bool first, std::int64_t padded) {
    for (int x = 0; x < kVectors; ++x) {
        float* negative_max = panel.negative_max + x * kWidth;
        store(negative_max, load(negative_max) - shift.at[x]);
        if (first) continue;
        const Vec factor = exp2(zero() - shift.at[x]);
        float* sums = panel.sums + x * kWidth;
        store(sums, load(sums) * factor);
        for (std::int64_t d = 0; d < padded; ++d) {
            float* output = panel.outputs + (d * kVectors + x) * kWidth;
            store(output, load(output) * factor);
        }
    }
}

template <int kVectors>
FOURREAL_ALWAYS_INLINE void add_values(const float* values, std::int64_t count, std::int64_t padded,
                                       const PanelState& panel, const float* probabilities) {
    constexpr std::int64_t kLanes = kVectors * kWidth;
    for (std::int64_t d = 0; d < padded; d += kTileRows) {
        Tile<kTileRows, kVectors> tile;
        tile.load_from(panel.outputs + d * kLanes, kLanes);
        tile.multiply_add(values + d, 1, padded, probabilities, kLanes, count);
        tile.store_to(panel.outputs + d * kLanes, kLanes);
    }
}

// One block of keys for one panel.
template <int kVectors>
void attend_block(const float* keys, const float* values, std::int64_t count, std::int64_t padded,
                  const PanelState& panel, bool first, float* scores) {
    auto largest = score_block<kVectors>(keys, count, padded, panel, scores);
    Vec most = largest.at[0];
    for (int x = 1; x < kVectors; ++x) most = max(most, largest.at[x]);
    Lanes<kVectors> sums;
    if (first || any_greater(most, broadcast(kHeadroom))) {
        if (!first)
            for (int x = 0; x < kVectors; ++x) largest.at[x] = max(largest.at[x], zero());
        raise_maximum(panel, largest, first, padded);
        sums = exponentiate(scores, count, largest);
    } else {
        sums = exponentiate<kVectors>(scores, count);
    }
    for (int x = 0; x < kVectors; ++x) {
        float* total = panel.sums + x * kWidth;
        store(total, load(total) + sums.at[x]);
    }
    add_values<kVectors>(values, count, padded, panel, scores);
}

using BlockKernel = void (*)(const float*, const float*, std::int64_t, std::int64_t, const PanelState&, bool, float*);
constexpr BlockKernel kBlockKernels[] = {attend_block<1>, attend_block<2>, attend_block<3>};
static_assert(kPanelVectors == 3, "one block kernel per panel width");

// The scratch of a group: transposed queries and outputs, the softmax state, and the scores of one block.
struct GroupScratch {
    float* queries;
    float* outputs;
    float* negative_max;
    float* sums;
    float* scores;

    GroupScratch(float* scratch, std::int64_t lanes, std::int64_t padded)
        : queries(scratch),
          outputs(queries + lanes * padded),
          negative_max(outputs + lanes * padded),
          sums(negative_max + lanes),
          scores(sums + lanes) {}

    PanelState panel(std::int64_t first_lane, std::int64_t padded) const {
        return {queries + first_lane * padded, outputs + first_lane * padded, negative_max + first_lane, sums + first_lane};
    }
};

template <typename T>
void load_queries(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    constexpr float kLog2E = 1.44269504088896341f;
    const std::int64_t padded = padded_channels(group.channels);
    for (std::int64_t p = 0; p < panels.count; ++p) {
        const Panel panel = panels.at(p);
        transpose_rows_in(static_cast<const T*>(group.queries), group.query_offsets + panel.first, panel.queries, panel.lanes(),
                          group.channels, padded, group.scale * kLog2E, scratch.queries + panel.first * padded);
    }
    for (std::int64_t i = 0; i < panels.lanes * padded; i += kWidth) store(scratch.outputs + i, zero());
    for (std::int64_t i = 0; i < panels.lanes; i += kWidth) {
        store(scratch.negative_max + i, zero());
        store(scratch.sums + i, zero());
    }
}

template <typename T>
void write_results(const QueryGroup& group, const Panels& panels, const GroupScratch& scratch) {
    constexpr double kLn2 = 0.693147180559945309;
    for (std::int64_t i = 0; i < group.count; ++i) {
        const double sum = scratch.sums[i];
        group.lse[group.lse_offsets[i]] =
            static_cast<float>((std::log2(sum) - static_cast<double>(scratch.negative_max[i])) * kLn2);
    }
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
    for (std::int64_t run = 0; run < group.run_count; ++run) {
        const KeyBlocks blocks(group.runs[run].count);
        for (std::int64_t block = 0; block < blocks.count; ++block) {
            const std::int64_t key = group.runs[run].first + blocks.first(block);
            for (std::int64_t p = 0; p < panels.count; ++p) {
                const Panel panel = panels.at(p);
                kBlockKernels[panel.vectors - 1](group.keys + key * padded, group.values + key * padded, blocks.size(block),
                                                 padded, scratch.panel(panel.first, padded), run == 0 && block == 0,
                                                 scratch.scores);
            }
        }
    }
}

template <typename T>
void attend_group_of(const QueryGroup& group, float* memory) {
    const Panels panels(group.count);
    const GroupScratch scratch(memory, panels.lanes, padded_channels(group.channels));
    load_queries<T>(group, panels, scratch);
    attend_runs(group, panels, scratch);
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
