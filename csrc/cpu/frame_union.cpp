#include "attention_paths.hpp"
#include "frame_passes.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

// Some batch entries and heads of a call: what stands between the two passes is held for a part at a time.
struct Part {
    std::int64_t batch, batches;
    std::int64_t head, heads;
};

std::int64_t rows_of(const AttentionShape& shape) {
    return shape.sizes[kAttView] * shape.sizes[kAttTime] * shape.sizes[kAttToken];
}

// Divides a call into parts whose memory is bounded: `floats` are held for each batch entry and head. Results do not depend
// on the division.
class Parts {
public:
    Parts(const AttentionShape& shape, std::int64_t floats) : batches_(shape.sizes[kAttBatch]), heads_(shape.sizes[kAttHead]) {
        constexpr std::int64_t kFloatsPerThread = 256 * 1024;
        const std::int64_t threads = thread_limit();
        const std::int64_t most = floats > 0 ? std::max(threads, threads * kFloatsPerThread / floats) : batches_ * heads_;
        heads_each_ = std::min(most, heads_);
        batches_each_ = std::clamp<std::int64_t>(most / heads_, 1, batches_);
    }

    std::int64_t largest() const { return batches_each_ * heads_each_; }

    template <typename Run>
    bool all(const Run& run) const {
        for (std::int64_t batch = 0; batch < batches_; batch += batches_each_)
            for (std::int64_t head = 0; head < heads_; head += heads_each_)
                if (!run(Part{batch, std::min(batches_each_, batches_ - batch), head, std::min(heads_each_, heads_ - head)}))
                    return false;
        return true;
    }

private:
    const std::int64_t batches_, heads_;
    std::int64_t batches_each_, heads_each_;
};

void take_part(AttentionShape& shape, const Part& part) {
    shape.sizes[kAttBatch] = part.batches;
    shape.sizes[kAttHead] = part.heads;
}

const void* advanced(const void* data, std::int64_t bytes) { return static_cast<const char*>(data) + bytes; }
void* advanced(void* data, std::int64_t bytes) { return static_cast<char*>(data) + bytes; }

template <typename Pointer>
void take_part(AttentionTensor<Pointer>& x, const Part& part, DType dtype) {
    const std::int64_t offset = part.batch * x.strides[kAttBatch] + part.head * x.strides[kAttHead];
    if (x.data) x.data = advanced(x.data, offset * element_size(dtype));
}

template <typename Pointer>
void take_part(ExtraTensor<Pointer>& x, const Part& part, DType dtype) {
    const std::int64_t offset = part.batch * x.strides[kExtraBatch] + part.head * x.strides[kExtraHead];
    if (x.data) x.data = advanced(x.data, offset * element_size(dtype));
}

AttentionForward part_of(AttentionForward call, const Part& part) {
    const DType dtype = call.shape.dtype;
    take_part(call.shape, part);
    for (AttentionInput* x : {&call.q, &call.k, &call.v}) take_part(*x, part, dtype);
    for (ExtraInput* x : {&call.extra_k, &call.extra_v}) take_part(*x, part, dtype);
    take_part(call.out, part, dtype);
    take_part(call.lse, part, DType::kFloat32);
    return call;
}

AttentionBackward part_of(AttentionBackward call, const Part& part) {
    const DType dtype = call.shape.dtype;
    take_part(call.shape, part);
    for (AttentionInput* x : {&call.grad_out, &call.q, &call.k, &call.v, &call.out}) take_part(*x, part, dtype);
    for (AttentionInput* x : {&call.grad_lse, &call.lse}) take_part(*x, part, DType::kFloat32);
    for (AttentionOutput* x : {&call.dq, &call.dk, &call.dv}) take_part(*x, part, dtype);
    for (ExtraInput* x : {&call.extra_k, &call.extra_v}) take_part(*x, part, dtype);
    for (ExtraOutput* x : {&call.extra_dk, &call.extra_dv}) take_part(*x, part, dtype);
    return call;
}

// Rows of `floats` each, those of a head side by side.
AttentionTensor<float*> dense_rows(float* first, const AttentionShape& shape, std::int64_t floats) {
    const std::int64_t time = shape.sizes[kAttToken] * floats, view = shape.sizes[kAttTime] * time;
    const std::int64_t head = shape.sizes[kAttView] * view;
    return {first, {shape.sizes[kAttHead] * head, view, time, floats, head}};
}

template <typename Pointer>
AttentionTensor<float*> as_floats(const AttentionTensor<Pointer>& x) {
    AttentionTensor<float*> floats{static_cast<float*>(x.data), {}};
    std::copy_n(x.strides, kAttentionAxes - 1, floats.strides);
    return floats;
}

// Float32 results hold what stands between the passes themselves.
bool waits_in_results(const AttentionShape& shape) { return shape.dtype == DType::kFloat32; }

struct TwoPasses {
    LinePass first, second;
};

// Lines of timesteps come first: those of a view lie side by side.
TwoPasses passes_of(const AttentionShape& shape) {
    const int time = shape.axes.groups[0].time ? 0 : 1;
    const std::int64_t heads = shape.sizes[kAttBatch] * shape.sizes[kAttHead];
    return {{shape.axes.groups[time], LineKeys::kAll, heads}, {shape.axes.groups[1 - time], LineKeys::kOfOtherFrames, heads}};
}

bool union_forward(const AttentionForward& call, const TwoPasses& passes, float* memory, InstructionSet set) {
    const AttentionShape& shape = call.shape;
    const std::int64_t states = shape.sizes[kAttBatch] * shape.sizes[kAttHead] * rows_of(shape) * kPartialState;
    const PartialOutputs partial{
        waits_in_results(shape) ? as_floats(call.out) : dense_rows(memory + states, shape, shape.sizes[kAttChannel]),
        dense_rows(memory, shape, kPartialState)};
    ForwardPass first{call, passes.first}, second{call, passes.second};
    first.partial = second.partial = partial;
    first.suspends = second.resumes = true;
    return run_forward_passes(&first, 1, set) && run_forward_passes(&second, 1, set);
}

bool union_backward(const AttentionBackward& call, const TwoPasses& passes, float* memory, InstructionSet set) {
    const AttentionShape& shape = call.shape;
    BackwardPass first{call, passes.first, DType::kFloat32}, second{call, passes.second, shape.dtype};
    AttentionOutput* const results[] = {&first.call.dq, &first.call.dk, &first.call.dv};
    for (int i = 0; i < 3; ++i) {
        if (!waits_in_results(shape)) {
            const AttentionTensor<float*> rows = dense_rows(memory, shape, shape.sizes[kAttChannel]);
            memory += shape.sizes[kAttBatch] * shape.sizes[kAttHead] * rows_of(shape) * shape.sizes[kAttChannel];
            results[i]->data = rows.data;
            std::copy_n(rows.strides, kAttentionAxes - 1, results[i]->strides);
        }
        second.earlier[i].data = static_cast<const float*>(results[i]->data);
        std::copy_n(results[i]->strides, kAttentionAxes - 1, second.earlier[i].strides);
    }
    return run_backward_pass(first, set) && run_backward_pass(second, set);
}

}  // namespace

bool frame_union_forward(const AttentionForward& args, InstructionSet set) {
    const std::int64_t values = waits_in_results(args.shape) ? 0 : args.shape.sizes[kAttChannel];
    const std::int64_t floats = rows_of(args.shape) * (kPartialState + values);
    const Parts parts(args.shape, floats);
    const Scratch<float> memory = make_scratch<float>(parts.largest() * floats);
    const auto run = [&](const Part& part) {
        return union_forward(part_of(args, part), passes_of(args.shape), memory.get(), set);
    };
    return memory && parts.all(run);
}

bool frame_union_backward(const AttentionBackward& args, InstructionSet set) {
    const std::int64_t gradients = waits_in_results(args.shape) ? 0 : 3 * args.shape.sizes[kAttChannel];
    const std::int64_t floats = rows_of(args.shape) * gradients;
    const Parts parts(args.shape, floats);
    const Scratch<float> memory = make_scratch<float>(parts.largest() * floats);
    const auto run = [&](const Part& part) {
        return union_backward(part_of(args, part), passes_of(args.shape), memory.get(), set);
    };
    return memory && parts.all(run);
}

}  // namespace fourreal::cpu
