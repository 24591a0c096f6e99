// The implementations behind axis_attention: one per kind of axes.
#pragma once

#include "fourreal/axis_attention.hpp"

namespace fourreal::cpu {

// Groups without the token axis ("v", "t", "vt", "v|t"), and any group where N is 1: sequences as short as V, T or V*T.
bool pointwise_attention_forward(const AttentionForward& args, InstructionSet set);
bool pointwise_attention_backward(const AttentionBackward& args, InstructionSet set);

// Groups with the token axis ("n", "vn", "tn", "vtn", "vn|tn"): lists of whole frames.
// One or two calls, in one parallel region.
bool frame_attention_forward(const AttentionForward* calls, int count, InstructionSet set);
bool frame_attention_backward(const AttentionBackward& args, InstructionSet set);

}  // namespace fourreal::cpu
