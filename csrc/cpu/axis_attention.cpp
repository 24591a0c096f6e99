#include "fourreal/axis_attention.hpp"

#include "attention_paths.hpp"

namespace fourreal::cpu {
namespace {

constexpr std::int64_t kMostChannels = 256;

// An axis of size 1 is no axis at all: of one token "vn" is "v", of one view "vn|tn" is "tn".
AttentionAxes effective_axes(const AttentionShape& shape) {
    AttentionAxes axes = shape.axes;
    if (shape.sizes[kAttToken] == 1)
        for (AxisGroup& group : axes.groups) group.token = false;
    const bool one_view = shape.sizes[kAttView] == 1, one_time = shape.sizes[kAttTime] == 1;
    if (axes.count == 2 && (one_view || one_time)) {
        const AxisGroup& first = axes.groups[0];
        const bool keeps_first = one_view ? first.time : first.view;
        axes.groups[0] = axes.groups[keeps_first ? 0 : 1];
        axes.count = 1;
    }
    return axes;
}

bool is_pointwise(const AttentionAxes& axes) { return !axes.groups[0].token && (axes.count == 1 || !axes.groups[1].token); }

bool all_groups_have_tokens(const AttentionAxes& axes) {
    return axes.groups[0].token && (axes.count == 1 || axes.groups[1].token);
}

// Extra tokens are more keys than the pointwise kernels hold in registers.
bool takes_pointwise_kernels(const AttentionShape& shape) { return shape.extra_tokens == 0 && is_pointwise(shape.axes); }

// Lines of one group of axes, which share nothing with other calls.
bool takes_lines(const AttentionShape& shape) { return !takes_pointwise_kernels(shape) && shape.axes.count == 1; }

template <typename Call>
Call with_effective_axes(Call call) {
    call.shape.axes = effective_axes(call.shape);
    return call;
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
    const AttentionForward call = with_effective_axes(args);
    if (takes_pointwise_kernels(call.shape)) return pointwise_attention_forward(call, set);
    return takes_lines(call.shape) ? frame_attention_forward(&call, 1, set) : frame_union_forward(call, set);
}

bool axis_attention_forward_pair(const AttentionForward& first, const AttentionForward& second, InstructionSet set) {
    const AttentionForward calls[] = {with_effective_axes(first), with_effective_axes(second)};
    if (takes_lines(calls[0].shape) && takes_lines(calls[1].shape)) return frame_attention_forward(calls, 2, set);
    return axis_attention_forward(first, set) && axis_attention_forward(second, set);
}

bool axis_attention_backward(const AttentionBackward& args, InstructionSet set) {
    const AttentionBackward call = with_effective_axes(args);
    if (takes_pointwise_kernels(call.shape)) return pointwise_attention_backward(call, set);
    return takes_lines(call.shape) ? frame_attention_backward(call, set) : frame_union_backward(call, set);
}

}  // namespace fourreal::cpu
