// A consumer's part of the Hopper attention's backward that stays in its registers: products and their weights.
#pragma once

#include <cstdint>

#include "hopper_attention_backward_config.hpp"
#include "hopper_primitives.cuh"
#include "hopper_tiles.cuh"

namespace fourreal::cuda {

// What a thread of a consumer keeps of its two resident rows, lane / 4 and lane / 4 + 8 of its warp, and of the listed
// tile: columns 8 unit + 2 (lane % 4) and the next one.
template <typename Config>
struct GradientConsumer {
    static constexpr int kScores = Config::kListedRows / 2;
    static constexpr int kSums = Config::kHeadDim / 2;
    using Element = typename Config::Element;

    float scores[kScores];                     // A B^T, then the probabilities P
    float products[kScores];                   // A' B'^T, then P (products - delta)
    float sums[kSums];                         // of dS B
    float value_sums[kSums];                   // of P B', for the keys only
    std::uint32_t score_grads[kScores / 2];    // dS as wgmma takes it
    std::uint32_t probabilities[kScores / 2];  // P, for the keys only
    float lse[2], delta[2];                    // of the resident rows, for the queries only

    FOURREAL_DEVICE void start() {
#pragma unroll
        for (int i = 0; i < kSums; ++i) sums[i] = 0.0f;
        if constexpr (Config::kOfKeys) {
#pragma unroll
            for (int i = 0; i < kSums; ++i) value_sums[i] = 0.0f;
        }
    }

    // Resident queries' own statistics; `row` is the thread's first row of the group.
    FOURREAL_DEVICE void load_statistics(const QueryStatistics& statistics, const FrameMap& frames,
                                         const FrameTile& tile, int row) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const std::int64_t offset = QueryStatistics::offset(frames, tile.batch, tile.head,
                                                                frames.query_row(tile.group, row + 8 * half));
            lse[half] = statistics.lse[offset];
            delta[half] = statistics.delta[offset];
        }
    }

    FOURREAL_DEVICE void issue_scores(std::uint32_t resident, std::uint32_t listed) {
        issue_row_products<Element, Config::kHeadDim, Config::kListedRows, Config::kResidentPanelBytes>(
            scores, resident, listed);
    }
    FOURREAL_DEVICE void issue_products(std::uint32_t resident, std::uint32_t listed) {
        issue_row_products<Element, Config::kHeadDim, Config::kListedRows, Config::kResidentPanelBytes>(
            products, resident, listed);
    }
    FOURREAL_DEVICE void issue_sums(std::uint32_t listed) {
        issue_weighted_sums<Element, Config::kHeadDim, Config::kListedRows>(sums, score_grads, listed);
    }
    FOURREAL_DEVICE void issue_value_sums(std::uint32_t listed) {
        issue_weighted_sums<Element, Config::kHeadDim, Config::kListedRows>(value_sums, probabilities, listed);
    }

    // Scores become probabilities. `listed_lse`: of the thread's first column, in shared memory.
    FOURREAL_DEVICE void take_probabilities(float scale_log2, std::uint32_t listed_lse) {
#pragma unroll
        for (int unit = 0; unit < kScores / 4; ++unit) {
            float of_columns[2];
            if constexpr (Config::kOfKeys) load_shared_pair(of_columns, listed_lse + unit * (kBoxUnit * 4));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& score = scores[4 * unit + i];
                score = exp2_fast(fmaf(score, scale_log2, -(Config::kOfKeys ? of_columns[i % 2] : lse[i / 2])));
            }
        }
    }

    FOURREAL_DEVICE void take_score_grads(std::uint32_t listed_delta) {
#pragma unroll
        for (int unit = 0; unit < kScores / 4; ++unit) {
            float of_columns[2];
            if constexpr (Config::kOfKeys) load_shared_pair(of_columns, listed_delta + unit * (kBoxUnit * 4));
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& product = products[4 * unit + i];
                product = scores[4 * unit + i] * (product - (Config::kOfKeys ? of_columns[i % 2] : delta[i / 2]));
            }
        }
    }
};

}  // namespace fourreal::cuda
