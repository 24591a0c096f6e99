// The implementations behind axis_attention: one per kind of axes.
#pragma once

#include "fourreal/axis_attention.hpp"

namespace fourreal::cpu {

// Groups without the token axis ("v", "t", "vt", "v|t"), and any group where N is 1: sequences as short as V, T or V*T.
bool pointwise_attention_forward(const AttentionForward& args, InstructionSet set);
bool pointwise_attention_backward(const AttentionBackward& args, InstructionSet set);

// One group with the token axis ("n", "vn", "tn", "vtn"): lines of whole frames.
// One or two calls, in one parallel region.
bool frame_attention_forward(const AttentionForward* calls, int count, InstructionSet set);
bool frame_attention_backward(const AttentionBackward& args, InstructionSet set);

// "vn|tn", of more than one view and more than one timestep.
bool frame_union_forward(const AttentionForward& args, InstructionSet set);
bool frame_union_backward(const AttentionBackward& args, InstructionSet set);

}  // namespace fourreal::cpu
