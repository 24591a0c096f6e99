#include "fourreal/axis_attention.hpp"

#include "attention_paths.hpp"

namespace fourreal::cpu {
namespace {

constexpr std::int64_t kMostChannels = 256;

// The token axis, where it has size 1, is no axis at all: "vn" is then "v".
AttentionAxes effective_axes(const AttentionShape& shape) {
    AttentionAxes axes = shape.axes;
    if (shape.sizes[kAttToken] == 1)
        for (AxisGroup& group : axes.groups) group.token = false;
    return axes;
}

bool is_pointwise(const AttentionAxes& axes) { return !axes.groups[0].token && (axes.count == 1 || !axes.groups[1].token); }

bool all_groups_have_tokens(const AttentionAxes& axes) {
    return axes.groups[0].token && (axes.count == 1 || axes.groups[1].token);
}

// Extra tokens are more keys than the pointwise kernels hold in registers.
bool takes_pointwise_kernels(const AttentionShape& shape) {
    return shape.extra_tokens == 0 && is_pointwise(effective_axes(shape));
}

// Both groups in either order.
bool is_union_of(const AttentionAxes& axes, const AxisGroup& a, const AxisGroup& b) {
    return axes.count == 2 && ((axes.groups[0] == a && axes.groups[1] == b) || (axes.groups[0] == b && axes.groups[1] == a));
}

}  // namespace

const char* axis_attention_refusal(const AttentionShape& shape) {
    if (shape.dtype == DType::kFloat64) return "its kernels compute in float32, the call is float64";
    if (shape.sizes[kAttChannel] > kMostChannels) return "its kernels take head dims up to 256";
    if (shape.extra_tokens > 0 && shape.sizes[kAttToken] > 1 && !all_groups_have_tokens(shape.axes))
        return "its kernels take extra tokens where every group of axes has the token axis";
    const AxisGroup view{true, false, false}, time{false, true, false};
    const AxisGroup view_tokens{true, false, true}, time_tokens{false, true, true};
    if (shape.axes.count == 1 || is_union_of(shape.axes, view, time) || is_union_of(shape.axes, view_tokens, time_tokens))
        return nullptr;
    return "of the unions its kernels take 'vn|tn' and 'v|t'";
}

bool axis_attention_forward(const AttentionForward& args, InstructionSet set) {
    AttentionForward call = args;
    call.shape.axes = effective_axes(args.shape);
    if (takes_pointwise_kernels(call.shape)) return pointwise_attention_forward(call, set);
    return frame_attention_forward(&call, 1, set);
}

bool axis_attention_forward_pair(const AttentionForward& first, const AttentionForward& second, InstructionSet set) {
    if (takes_pointwise_kernels(first.shape) || takes_pointwise_kernels(second.shape))
        return axis_attention_forward(first, set) && axis_attention_forward(second, set);
    const AttentionForward calls[] = {first, second};
    return frame_attention_forward(calls, 2, set);
}

bool axis_attention_backward(const AttentionBackward& args, InstructionSet set) {
    AttentionBackward call = args;
    call.shape.axes = effective_axes(args.shape);
    if (takes_pointwise_kernels(call.shape)) return pointwise_attention_backward(call, set);
    return frame_attention_backward(call, set);
}

}  // namespace fourreal::cpu
