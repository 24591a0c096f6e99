// A consumer's part of the Hopper attention kernel that stays in its registers: products, softmax, outputs.
#pragma once

#include <cmath>
#include <cstdint>

#include "hopper_attention_config.hpp"
#include "hopper_primitives.cuh"
#include "hopper_tiles.cuh"

namespace fourreal::cuda {

// What a thread of a consumer keeps of its two query rows, lane / 4 and lane / 4 + 8 of its warp.
template <typename Config>
struct Consumer {
    static constexpr int kScores = Config::kKeyRows / 2;
    static constexpr int kOutputs = Config::kHeadDim / 2;
    static constexpr float kLowest = -INFINITY;

    float scores[kScores];
    float outputs[kOutputs];
    std::uint32_t probabilities[kScores / 2];  // pairs, as wgmma takes them
    float largest[2];                          // of the scores so far
    float sums[2];                             // of this thread's probabilities, relative to `largest`
    float shrink[2];                           // what the last key tile's larger maximum makes of older results

    FOURREAL_DEVICE void start() {
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) outputs[i] = 0.0f;
        largest[0] = largest[1] = kLowest;
        sums[0] = sums[1] = 0.0f;
    }

    FOURREAL_DEVICE void issue_scores(std::uint32_t queries, std::uint32_t keys) {
        issue_row_products<typename Config::Element, Config::kHeadDim, Config::kKeyRows, Config::kQueryPanelBytes>(
            scores, queries, keys);
    }

    FOURREAL_DEVICE void issue_outputs(std::uint32_t values) {
        issue_weighted_sums<typename Config::Element, Config::kHeadDim, Config::kKeyRows>(outputs, probabilities,
                                                                                         values);
    }

    // Turns the scores into probabilities relative to the new maxima. The first unit of the first tile is never masked
    // whole, so the maxima are finite from then on.
    FOURREAL_DEVICE void softmax(float scale_log2) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            float largest_now = largest[row];
#pragma unroll
            for (int unit = 0; unit < kScores / 4; ++unit)
                largest_now = fmaxf(largest_now, fmaxf(scores[4 * unit + 2 * row], scores[4 * unit + 2 * row + 1]));
            largest_now = fmaxf(largest_now, shuffle_xor(largest_now, 1));
            largest_now = fmaxf(largest_now, shuffle_xor(largest_now, 2));
            shrink[row] = exp2_fast((largest[row] - largest_now) * scale_log2);
            largest[row] = largest_now;
            const float subtracted = largest_now * scale_log2;
            float sum = 0.0f;
#pragma unroll
            for (int unit = 0; unit < kScores / 4; ++unit) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& score = scores[4 * unit + 2 * row + i];
                    score = exp2_fast(fmaf(score, scale_log2, -subtracted));
                    sum += score;
                }
            }
            sums[row] = sums[row] * shrink[row] + sum;
        }
    }

    FOURREAL_DEVICE void shrink_outputs() {
#pragma unroll
        for (int i = 0; i < kOutputs; ++i) outputs[i] *= shrink[i / 2 % 2];
    }

    FOURREAL_DEVICE void finish_sums() {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
            sums[row] += shuffle_xor(sums[row], 1);
            sums[row] += shuffle_xor(sums[row], 2);
        }
    }
};

}  // namespace fourreal::cuda
