#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "attention_paths.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_short.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

// Work below one task runs on the calling thread: waking others costs more.
constexpr std::int64_t kElementsPerTask = 32768;
constexpr std::int64_t kTasksPerThread = 8;
// Outputs beyond this size are written past the caches: they would not be found there.
constexpr std::int64_t kStreamBytes = 4 << 20;
constexpr std::int64_t kStreamAlignment = 64;
// Panels beyond this size make way for the kernel that needs none.
constexpr std::int64_t kScratchFloats = (3 << 19) / static_cast<std::int64_t>(sizeof(float));

// The axes of the sequences, and the rest.
struct Split {
    bool in_sequence[kAttentionAxes - 1] = {};

    explicit Split(const AttentionShape& shape) {
        for (int i = 0; i < shape.axes.count; ++i) {
            in_sequence[kAttView] |= shape.axes.groups[i].view;
            in_sequence[kAttTime] |= shape.axes.groups[i].time;
        }
    }

    static bool is_union(const AttentionShape& shape) { return shape.axes.count == 2; }
};

// Offsets of the entries of a tensor, views outermost.
template <typename Pointer>
std::vector<std::int64_t> entry_offsets(const AttentionTensor<Pointer>& tensor, const AttentionShape& shape,
                                        const Split& split) {
    const std::int64_t views = split.in_sequence[kAttView] ? shape.sizes[kAttView] : 1;
    const std::int64_t times = split.in_sequence[kAttTime] ? shape.sizes[kAttTime] : 1;
    std::vector<std::int64_t> offsets;
    offsets.reserve(static_cast<std::size_t>(views * times));
    for (std::int64_t v = 0; v < views; ++v)
        for (std::int64_t t = 0; t < times; ++t)
            offsets.push_back(v * tensor.strides[kAttView] + t * tensor.strides[kAttTime]);
    return offsets;
}

PointwiseShape pointwise_shape(const AttentionShape& shape, const Split& split) {
    PointwiseShape result{};
    result.entries = 1;
    for (int axis = 0; axis < kPositionAxes; ++axis) {
        const bool in_sequence = split.in_sequence[axis];
        result.positions[axis] = in_sequence ? 1 : shape.sizes[axis];
        if (in_sequence) result.entries *= shape.sizes[axis];
    }
    result.rows = !Split::is_union(shape) ? 1 : shape.sizes[kAttView];
    // A union with one row or one column is that group alone.
    if (result.rows == result.entries) result.rows = 1;
    result.channels = shape.sizes[kAttChannel];
    result.scale = shape.scale;
    result.dtype = shape.dtype;
    return result;
}

// A tensor of the job, and the memory of its offsets.
template <typename Pointer>
struct Operand {
    std::vector<std::int64_t> offsets;
    PointwiseTensor<Pointer> tensor;

    Operand(const AttentionTensor<Pointer>& from, const AttentionShape& shape, const Split& split)
        : offsets(entry_offsets(from, shape, split)) {
        tensor.data = from.data;
        for (int axis = 0; axis < kPositionAxes; ++axis)
            tensor.position_strides[axis] = split.in_sequence[axis] ? 0 : from.strides[axis];
        tensor.entries = offsets.data();
    }
};

// Whether an output is large, and its rows of all heads begin at whole lines.
bool streams_tokens(const AttentionOutput& out, const AttentionShape& shape) {
    const std::int64_t bytes = element_size(shape.dtype);
    std::int64_t total = bytes;
    for (std::int64_t size : shape.sizes) total *= size;
    bool aligned = reinterpret_cast<std::uintptr_t>(out.data) % kStreamAlignment == 0;
    for (int axis = 0; axis < kAttHead; ++axis) aligned = aligned && out.strides[axis] * bytes % kStreamAlignment == 0;
    return aligned && total >= kStreamBytes;
}

bool streams(const AttentionOutput& out, const AttentionShape& shape) {
    const std::int64_t bytes = element_size(shape.dtype);
    const bool aligned = shape.sizes[kAttChannel] * bytes % kStreamAlignment == 0;
    return aligned && out.strides[kAttHead] * bytes % kStreamAlignment == 0 && streams_tokens(out, shape);
}

// How many heads side by side fill whole lines, where rows of one do not; 0 if the output cannot be streamed so.
std::int64_t heads_streamed_together(const AttentionOutput& out, const AttentionShape& shape) {
    const std::int64_t row = shape.sizes[kAttChannel] * element_size(shape.dtype);
    const std::int64_t together = kStreamAlignment / std::gcd(row, kStreamAlignment);
    const bool adjacent = out.strides[kAttHead] == shape.sizes[kAttChannel] && shape.sizes[kAttHead] % together == 0;
    return together > 1 && together <= kMaxBundle && adjacent && streams_tokens(out, shape) ? together : 0;
}

// Whether the kernels of short sequences take it.
bool is_short(const PointwiseShape& shape, InstructionSet set) {
    return shape.rows == 1 && shape.channels % 4 == 0 && shape.entries <= FOURREAL_KERNEL_FOR(set, pointwise_short_entries)();
}

bool is_short_union(const PointwiseShape& shape, InstructionSet set) {
    const std::int64_t most = FOURREAL_KERNEL_FOR(set, pointwise_short_union_entries)();
    return shape.rows > 1 && shape.channels % 4 == 0 && shape.rows <= most && shape.columns() <= most;
}

// Calls kernel(job, first, last, scratch) until all positions are done. False if there is no memory.
template <typename Job, typename Kernel>
bool for_positions(const Job& job, Kernel kernel, std::int64_t scratch_floats) {
    const std::int64_t positions = job.shape.position_count();
    const std::int64_t elements = positions * job.shape.entries * job.shape.channels;
    const std::int64_t useful = std::max<std::int64_t>(1, elements / kElementsPerTask);
    const int threads = static_cast<int>(std::min<std::int64_t>(thread_limit(), useful));
    const std::int64_t wanted = std::min<std::int64_t>(useful, threads * kTasksPerThread);
    const std::int64_t bundles = (positions + kMaxBundle - 1) / kMaxBundle;
    const std::int64_t step = (bundles + wanted - 1) / wanted * kMaxBundle;
    const std::int64_t tasks = (positions + step - 1) / step;

    const std::int64_t stride = aligned_count<float>(scratch_floats);
    const Scratch<float> scratch = make_scratch<float>(stride * threads);
    if (!scratch) return false;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (std::int64_t task = 0; task < tasks; ++task)
        kernel(job, task * step, std::min(positions, (task + 1) * step), scratch.get() + thread_index() * stride);
    return true;
}

}  // namespace

bool pointwise_attention_forward(const AttentionForward& args, InstructionSet set) {
    const Split split(args.shape);
    const Operand q(args.q, args.shape, split), k(args.k, args.shape, split), v(args.v, args.shape, split);
    const Operand out(args.out, args.shape, split), lse(args.lse, args.shape, split);
    PointwiseForward job{pointwise_shape(args.shape, split), q.tensor, k.tensor, v.tensor, out.tensor, lse.tensor};
    job.shape.stream = streams(args.out, args.shape);
    job.shape.stream_together = heads_streamed_together(args.out, args.shape);

    auto kernel = FOURREAL_KERNEL_FOR(set, pointwise_forward);
    std::int64_t scratch = FOURREAL_KERNEL_FOR(set, pointwise_forward_scratch)(job.shape);
    if (scratch > kScratchFloats) {
        kernel = FOURREAL_KERNEL_FOR(set, pointwise_long_forward);
        scratch = FOURREAL_KERNEL_FOR(set, pointwise_long_scratch)(job.shape);
    }
    if (is_short(job.shape, set)) {
        kernel = FOURREAL_KERNEL_FOR(set, pointwise_short_forward);
        scratch = FOURREAL_KERNEL_FOR(set, pointwise_short_scratch)(job.shape);
    }
    if (is_short_union(job.shape, set)) {
        kernel = FOURREAL_KERNEL_FOR(set, pointwise_short_union_forward);
        scratch = FOURREAL_KERNEL_FOR(set, pointwise_short_union_scratch)(job.shape);
    }
    return for_positions(job, kernel, scratch);
}

bool pointwise_attention_backward(const AttentionBackward& args, InstructionSet set) {
    const Split split(args.shape);
    const Operand grad_out(args.grad_out, args.shape, split), grad_lse(args.grad_lse, args.shape, split);
    const Operand q(args.q, args.shape, split), k(args.k, args.shape, split), v(args.v, args.shape, split);
    const Operand out(args.out, args.shape, split), lse(args.lse, args.shape, split);
    const Operand dq(args.dq, args.shape, split), dk(args.dk, args.shape, split), dv(args.dv, args.shape, split);
    PointwiseBackward job{pointwise_shape(args.shape, split), grad_out.tensor, grad_lse.tensor, q.tensor, k.tensor,
                          v.tensor, out.tensor, lse.tensor, dq.tensor, dk.tensor, dv.tensor};
    job.shape.stream = streams(args.dq, args.shape) && streams(args.dk, args.shape) && streams(args.dv, args.shape);

    auto kernel = FOURREAL_KERNEL_FOR(set, pointwise_backward);
    std::int64_t scratch = FOURREAL_KERNEL_FOR(set, pointwise_backward_scratch)(job.shape);
    if (scratch > kScratchFloats) {
        kernel = FOURREAL_KERNEL_FOR(set, pointwise_long_backward);
        scratch = FOURREAL_KERNEL_FOR(set, pointwise_long_scratch)(job.shape);
    }
    if (is_short(job.shape, set)) {
        kernel = FOURREAL_KERNEL_FOR(set, pointwise_short_backward);
        scratch = FOURREAL_KERNEL_FOR(set, pointwise_short_backward_scratch)(job.shape);
    }
    return for_positions(job, kernel, scratch);
}

}  // namespace fourreal::cpu
