// A consumer's part of the Hopper attention kernel that stays in its registers: products, softmax, outputs.
#pragma once

#include <cmath>
#include <cstdint>

#include "hopper_attention_config.hpp"
#include "hopper_primitives.cuh"

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
        const std::uint64_t a = columns_descriptor(queries), b = columns_descriptor(keys);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < Config::kHeadDim / kWgmmaDepth; ++step) {
            const int panel = step / kDepthsOfPanel, offset = step % kDepthsOfPanel * kColumnsStepBytes;
            Wgmma<typename Config::Element, Config::kKeyRows>::shared(
                scores, a + descriptor_step(panel * Config::kQueryPanelBytes + offset),
                b + descriptor_step(panel * Config::kKeyPanelBytes + offset), step > 0);
        }
        wgmma_commit();
    }

    FOURREAL_DEVICE void issue_outputs(std::uint32_t values) {
        const std::uint64_t b = rows_descriptor(values, Config::kKeyPanelBytes);
        pin_registers(outputs);
        pin_registers(probabilities);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < Config::kKeyRows / kWgmmaDepth; ++step)
            Wgmma<typename Config::Element, Config::kHeadDim>::registers(
                outputs, probabilities + 4 * step, b + descriptor_step(step * kRowsStepBytes), 1);
        wgmma_commit();
    }

    // Rows of the key tile that are no tokens: at the end of a frame, or beyond the last frame. `column`: the thread's
    // first.
    FOURREAL_DEVICE void mask(const FrameMap& frames, int first_key, int column) {
        const int frame_rows = frames.rows_of_frame();
        int frame = first_key / frame_rows;
        int token = first_key - frame * frame_rows;
#pragma unroll
        for (int unit = 0; unit < Config::kKeyRows / kBoxUnit; ++unit) {
            const int valid = frame < frames.key_frames() ? frames.shape.tokens - token : 0;
#pragma unroll
            for (int i = 0; i < 2; ++i)
                if (column + i >= valid) scores[4 * unit + i] = scores[4 * unit + 2 + i] = kLowest;
            token += kBoxUnit;
            if (token == frame_rows) {
                token = 0;
                ++frame;
            }
        }
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

    FOURREAL_DEVICE void pack_probabilities() {
#pragma unroll
        for (int i = 0; i < kScores / 2; ++i)
            probabilities[i] = pack_pair<typename Config::Element>(scores[2 * i], scores[2 * i + 1]);
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

    // Writes the normalised outputs over the warpgroup's rows of q; `row` is the thread's first row of the query tile.
    FOURREAL_DEVICE void stage_outputs(std::uint32_t queries, int row, int lane) {
        const float factors[2] = {1.0f / sums[0], 1.0f / sums[1]};
#pragma unroll
        for (int unit = 0; unit < kOutputs / 4; ++unit) {
            const int panel = unit / 8, column = unit % 8 * 8 + lane % 4 * 2;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float* pair = outputs + 4 * unit + 2 * half;
                store_shared(queries + panel * Config::kQueryPanelBytes + panel_offset(row + 8 * half, column),
                             pack_pair<typename Config::Element>(pair[0] * factors[half], pair[1] * factors[half]));
            }
        }
    }
};

}  // namespace fourreal::cuda
