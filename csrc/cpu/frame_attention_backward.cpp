#include "attention_paths.hpp"
#include "frame_passes.hpp"
#include "kernels/frame_attention_backward.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

// Fewer items than this are divided further. By the shape alone, not by the threads: it decides the order of the sums.
constexpr std::int64_t kWantedTasks = 8;

// A pass divided into tasks: the query groups of an item, or a part of them. A task adds to its own sums for dk and dv; the
// sums of the tasks of an item are added in their order.
class BackwardWork {
public:
    BackwardWork(const BackwardPass& pass, InstructionSet set)
        : pass_(pass),
          args_(pass.call),
          plan_(args_.shape, pass.lines),
          groups_(plan_, 3 * plan_.padded() + 2 * sum_stride()),
          tasks_per_item_(std::min(groups_per_item(), (kWantedTasks + plan_.items_in_all() - 1) / plan_.items_in_all())),
          pack_(FOURREAL_KERNEL_FOR(set, pack_rows)),
          unpack_(FOURREAL_KERNEL_FOR(set, unpack_rows)),
          add_(FOURREAL_KERNEL_FOR(set, add_floats)),
          differentiate_(FOURREAL_KERNEL_FOR(set, differentiate_group)) {}

    std::int64_t items() const { return plan_.items(); }
    std::int64_t frames() const { return plan_.key_frames(); }
    std::int64_t tasks_per_item() const { return tasks_per_item_; }

    // Floats of the packed keys and values of an item, and of the sums of a task.
    std::int64_t packed_size() const { return aligned_count<float>(2 * plan_.key_rows() * plan_.padded()); }
    std::int64_t sums_size() const { return aligned_count<float>(2 * plan_.key_rows() * sum_stride()); }
    std::int64_t scratch_size() const {
        return aligned_count<float>(gradient_group_scratch(groups_.largest(), plan_.size(kAttChannel)));
    }
    std::int64_t index_size() const {
        return aligned_count<std::int64_t>(kOffsetLists * groups_.largest() + 2 * FramePlan::kMostRuns);
    }

    void pack_frame(std::int64_t item_index, std::int64_t frame, float* packed) const {
        const FrameItem item = plan_.item(item_index);
        float* const keys = packed + plan_.first_key(frame) * plan_.padded();
        float* const values = keys + plan_.key_rows() * plan_.padded();
        const bool extra = plan_.is_extra(frame);
        const DType dtype = args_.shape.dtype;
        pack_(extra ? plan_.extra_rows(item, args_.extra_k) : plan_.frame_rows(item, frame, args_.k, dtype), keys);
        pack_(extra ? plan_.extra_rows(item, args_.extra_v) : plan_.frame_rows(item, frame, args_.v, dtype), values);
    }

    void run_task(std::int64_t item, std::int64_t task, const float* packed, float* sums, float* scratch,
                  std::int64_t* indices) const {
        std::fill_n(sums, sums_size(), 0.0f);
        const std::int64_t begin = groups_per_item() * task / tasks_per_item_;
        const std::int64_t end = groups_per_item() * (task + 1) / tasks_per_item_;
        for (std::int64_t group = begin; group < end; ++group) differentiate(item, group, packed, sums, scratch, indices);
    }

    // Floats of the sums for an item's extra tokens, which await those of the other lines.
    std::int64_t extra_size() const { return aligned_count<float>(2 * plan_.extra() * sum_stride()); }

    // The sums of an item lie one behind the other. Those for its extra tokens go to `extra_sums`.
    void write_frame(std::int64_t item_index, std::int64_t frame, float* sums, float* extra_sums) const {
        const FrameItem item = plan_.item(item_index);
        const bool extra = plan_.is_extra(frame);
        const std::int64_t floats = (extra ? plan_.extra() : plan_.tokens()) * sum_stride();
        float* const dk = sums + plan_.first_key(frame) * sum_stride();
        float* const dv = dk + plan_.key_rows() * sum_stride();
        for (std::int64_t task = 1; task < tasks_per_item_; ++task) {
            add_(dk + task * sums_size(), dk, floats);
            add_(dv + task * sums_size(), dv, floats);
        }
        if (extra) {
            float* const kept = extra_sums + item_index * extra_size();
            std::copy_n(dk, floats, kept);
            std::copy_n(dv, floats, kept + floats);
            return;
        }
        write_rows(item, frame, dk, args_.dk, pass_.earlier[1]);
        write_rows(item, frame, dv, args_.dv, pass_.earlier[2]);
    }

    // Gradients of the extra tokens: the sums of all lines, in their order.
    std::int64_t extra_results() const { return plan_.extra() > 0 ? items() / plan_.lines() : 0; }
    void write_extra(std::int64_t result, float* extra_sums) const {
        const std::int64_t heads = plan_.size(kAttHead), batch = result / heads, head = result % heads;
        const std::int64_t floats = plan_.extra() * sum_stride();
        const auto of_line = [&](std::int64_t line) {
            return extra_sums + ((batch * plan_.lines() + line) * heads + head) * extra_size();
        };
        float* const sums = of_line(0);
        for (std::int64_t line = 1; line < plan_.lines(); ++line) add_(of_line(line), sums, 2 * floats);
        const FrameItem item{batch, head, 0, 0};
        unpack_(sums, plan_.extra_rows(item, args_.extra_dk), nullptr, 0);
        unpack_(sums + floats, plan_.extra_rows(item, args_.extra_dv), nullptr, 0);
    }

private:
    static constexpr int kOffsetLists = 7;

    std::int64_t sum_stride() const { return vector_padded_channels(plan_.size(kAttChannel)); }
    std::int64_t groups_per_item() const { return plan_.query_sets() * groups_.count(); }

    void write_rows(const FrameItem& item, std::int64_t frame, const float* sums, const AttentionOutput& to,
                    const AttentionTensor<const float*>& earlier) const {
        const float* const first = earlier.data ? earlier.data + plan_.frame_offset(item, frame, earlier) : nullptr;
        unpack_(sums, plan_.frame_rows(item, frame, to, pass_.grad_dtype), first, earlier.strides[kAttToken]);
    }

    void differentiate(std::int64_t item_index, std::int64_t group_index, const float* packed, float* sums, float* scratch,
                       std::int64_t* indices) const {
        const FrameItem item = plan_.item(item_index);
        const std::int64_t query_set = group_index / groups_.count(), index = group_index % groups_.count();
        const std::int64_t first = query_set * plan_.queries_per_set() + groups_.first(index), count = groups_.size(index);
        GradientGroup group{};
        group.dtype = args_.shape.dtype;
        group.channels = plan_.size(kAttChannel);
        group.scale = args_.shape.scale;
        group.count = count;
        const auto offsets_in = [&](const auto& tensor) {
            std::int64_t* const list = indices;
            indices += count;
            plan_.row_offsets(item, first, count, tensor, list);
            return list;
        };
        group.queries = args_.q.data, group.query_offsets = offsets_in(args_.q);
        group.out = args_.out.data, group.out_offsets = offsets_in(args_.out);
        group.grad_out = args_.grad_out.data, group.grad_out_offsets = offsets_in(args_.grad_out);
        group.lse = static_cast<const float*>(args_.lse.data), group.lse_offsets = offsets_in(args_.lse);
        group.grad_lse = static_cast<const float*>(args_.grad_lse.data), group.grad_lse_offsets = offsets_in(args_.grad_lse);
        group.dq_dtype = pass_.grad_dtype;
        group.dq = args_.dq.data, group.dq_offsets = offsets_in(args_.dq);
        group.earlier_dq = pass_.earlier[0].data, group.earlier_dq_offsets = offsets_in(pass_.earlier[0]);
        group.keys = packed, group.values = packed + plan_.key_rows() * plan_.padded();
        group.dk = sums, group.dv = sums + plan_.key_rows() * sum_stride();
        KeyRun* const runs = reinterpret_cast<KeyRun*>(indices);
        group.run_count = plan_.key_runs(query_set, runs);
        group.runs = runs;
        differentiate_(group, scratch);
    }

    const BackwardPass& pass_;
    const AttentionBackward& args_;
    const FramePlan plan_;
    const QueryGroups groups_;
    const std::int64_t tasks_per_item_;
    decltype(&portable::pack_rows) pack_;
    decltype(&portable::unpack_rows) unpack_;
    decltype(&portable::add_floats) add_;
    decltype(&portable::differentiate_group) differentiate_;
};

// Each thread packs, computes and writes whole items.
bool run_items_apart(const BackwardWork& work, float* extra_sums, int threads) {
    const std::int64_t each = work.packed_size() + work.sums_size() + work.scratch_size();
    const Scratch<float> floats = make_scratch<float>(threads * each);
    const Scratch<std::int64_t> indices = make_scratch<std::int64_t>(threads * work.index_size());
    if (!floats || !indices) return false;
    const std::int64_t items = work.items(), frames = work.frames();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (std::int64_t item = 0; item < items; ++item) {
        float* const packed = floats.get() + thread_index() * each;
        float* const sums = packed + work.packed_size();
        for (std::int64_t frame = 0; frame < frames; ++frame) work.pack_frame(item, frame, packed);
        work.run_task(item, 0, packed, sums, sums + work.sums_size(), indices.get() + thread_index() * work.index_size());
        for (std::int64_t frame = 0; frame < frames; ++frame) work.write_frame(item, frame, sums, extra_sums);
    }
    return true;
}

// With few items: threads share the frames to pack, then the tasks, then the frames to write, of all items.
bool run_items_together(const BackwardWork& work, float* extra_sums, int threads) {
    const std::int64_t items = work.items(), frames = work.frames(), tasks = work.tasks_per_item();
    const std::int64_t item_size = work.packed_size() + tasks * work.sums_size();
    // One piece: the second pass of a union finds the place of the first one.
    const Scratch<float> floats = make_scratch<float>(items * item_size + threads * work.scratch_size());
    const Scratch<std::int64_t> indices = make_scratch<std::int64_t>(threads * work.index_size());
    if (!floats || !indices) return false;
    const auto packed_of = [&](std::int64_t item) { return floats.get() + item * item_size; };
    const auto sums_of = [&](std::int64_t item) { return packed_of(item) + work.packed_size(); };
    float* const scratch = floats.get() + items * item_size;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < items * frames; ++i) work.pack_frame(i / frames, i % frames, packed_of(i / frames));
#pragma omp for schedule(dynamic, 1)
        for (std::int64_t i = 0; i < items * tasks; ++i)
            work.run_task(i / tasks, i % tasks, packed_of(i / tasks), sums_of(i / tasks) + i % tasks * work.sums_size(),
                          scratch + thread_index() * work.scratch_size(),
                          indices.get() + thread_index() * work.index_size());
#pragma omp for schedule(static)
        for (std::int64_t i = 0; i < items * frames; ++i)
            work.write_frame(i / frames, i % frames, sums_of(i / frames), extra_sums);
    }
    return true;
}

}  // namespace

bool run_backward_pass(const BackwardPass& pass, InstructionSet set) {
    const BackwardWork work(pass, set);
    const int threads = thread_limit();
    const std::int64_t results = work.extra_results();
    const Scratch<float> kept = make_scratch<float>(results > 0 ? work.items() * work.extra_size() : 1);
    float* const extra_sums = kept.get();
    if (!extra_sums) return false;
    const bool done = work.tasks_per_item() > 1 ? run_items_together(work, extra_sums, threads)
                                                : run_items_apart(work, extra_sums, threads);
    if (!done) return false;
#pragma omp parallel for schedule(static) num_threads(threads) if (results > 1)
    for (std::int64_t result = 0; result < results; ++result) work.write_extra(result, extra_sums);
    return true;
}

bool frame_attention_backward(const AttentionBackward& args, InstructionSet set) {
    return run_backward_pass({args, all_lines(args.shape), args.shape.dtype}, set);
}

}  // namespace fourreal::cpu
