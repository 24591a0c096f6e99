// Attention over lines of whole frames, one group of axes at a time. A union is two passes: one over the lines of its first
// group, and one over those of its second that leaves out the keys of a row's own frame, which the first has seen.
#pragma once

#include "fourreal/axis_attention.hpp"
#include "frame_plan.hpp"

namespace fourreal::cpu {

// Where the forward of a row stands between two passes: its outputs, not yet divided by the sum of the probabilities, and the
// maximum that these are relative to with their sum, side by side.
struct PartialOutputs {
    AttentionTensor<float*> values;
    AttentionTensor<float*> state;
};
constexpr std::int64_t kPartialState = 2;  // floats of a row

struct ForwardPass {
    AttentionForward call;
    LinePass lines;
    PartialOutputs partial{};
    bool resumes = false;   // goes on from `partial`
    bool suspends = false;  // writes `partial` instead of the results
};

// All lines of the first group of axes of a call.
inline LinePass all_lines(const AttentionShape& shape) {
    return {shape.axes.groups[0], LineKeys::kAll, shape.sizes[kAttBatch] * shape.sizes[kAttHead]};
}

// In one parallel region: no pass may resume another of them. False if memory for scratch is missing.
bool run_forward_passes(const ForwardPass* passes, int count, InstructionSet set);

struct BackwardPass {
    AttentionBackward call;
    LinePass lines;
    DType grad_dtype;  // of dq, dk and dv
    AttentionTensor<const float*> earlier[3] = {};  // added to dq, dk and dv, which they may be; may have no data
};

bool run_backward_pass(const BackwardPass& pass, InstructionSet set);

}  // namespace fourreal::cpu
