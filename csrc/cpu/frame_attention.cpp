#include "attention_paths.hpp"
#include "frame_plan.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

// One call, divided into items and their query groups.
class ForwardWork {
public:
    ForwardWork(const AttentionForward& args, InstructionSet set)
        : args_(args),
          plan_(args.shape),
          groups_(plan_, 2 * plan_.padded()),
          pack_(FOURREAL_KERNEL_FOR(set, pack_rows)),
          attend_(FOURREAL_KERNEL_FOR(set, attend_group)) {}

    const FramePlan& plan() const { return plan_; }
    std::int64_t items() const { return plan_.items(); }
    std::int64_t groups_per_item() const { return plan_.query_sets() * groups_.count(); }

    // Floats of the packed keys and values of an item.
    std::int64_t packed_size() const { return aligned_count<float>(2 * plan_.key_rows() * plan_.padded()); }
    std::int64_t scratch_size() const {
        return aligned_count<float>(query_group_scratch(groups_.largest(), plan_.size(kAttChannel)));
    }
    std::int64_t index_size() const { return aligned_count<std::int64_t>(3 * groups_.largest() + 2 * plan_.most_runs()); }

    void pack_frame(std::int64_t item_index, std::int64_t frame, float* packed) const {
        const FrameItem item = plan_.item(item_index);
        float* const keys = packed + plan_.first_key(frame) * plan_.padded();
        float* const values = keys + plan_.key_rows() * plan_.padded();
        const bool extra = plan_.is_extra(frame);
        pack_(extra ? plan_.extra_rows(item, args_.extra_k) : plan_.frame_rows(item, frame, args_.k), keys);
        pack_(extra ? plan_.extra_rows(item, args_.extra_v) : plan_.frame_rows(item, frame, args_.v), values);
    }

    void attend(std::int64_t item_index, std::int64_t group_index, const float* packed, float* scratch,
                std::int64_t* indices) const {
        const FrameItem item = plan_.item(item_index);
        const std::int64_t query_set = group_index / groups_.count(), group = group_index % groups_.count();
        const std::int64_t first = query_set * plan_.queries_per_set() + groups_.first(group), count = groups_.size(group);
        std::int64_t* const query_offsets = indices;
        std::int64_t* const out_offsets = query_offsets + count;
        std::int64_t* const lse_offsets = out_offsets + count;
        KeyRun* const runs = reinterpret_cast<KeyRun*>(lse_offsets + count);
        plan_.row_offsets(item, first, count, args_.q, query_offsets);
        plan_.row_offsets(item, first, count, args_.out, out_offsets);
        plan_.row_offsets(item, first, count, args_.lse, lse_offsets);
        const std::int64_t run_count = plan_.key_runs(query_set, runs);
        attend_({args_.shape.dtype, plan_.size(kAttChannel), args_.shape.scale, count, args_.q.data, query_offsets,
                 args_.out.data, out_offsets, static_cast<float*>(args_.lse.data), lse_offsets, packed,
                 packed + plan_.key_rows() * plan_.padded(), runs, run_count},
                scratch);
    }

private:
    const AttentionForward& args_;
    const FramePlan plan_;
    const QueryGroups groups_;
    decltype(&portable::pack_rows) pack_;
    decltype(&portable::attend_group) attend_;
};

// One or two calls, whose items are numbered through.
class Calls {
public:
    Calls(const ForwardWork* works, int count) : works_(works), count_(count) {}

    std::int64_t items() const { return sum(&ForwardWork::items); }
    std::int64_t packed_size() const { return largest(&ForwardWork::packed_size); }
    std::int64_t scratch_size() const { return largest(&ForwardWork::scratch_size); }
    std::int64_t index_size() const { return largest(&ForwardWork::index_size); }

    const ForwardWork& of_item(std::int64_t* item) const {
        int call = 0;
        for (; call + 1 < count_ && *item >= works_[call].items(); ++call) *item -= works_[call].items();
        return works_[call];
    }

private:
    using Size = std::int64_t (ForwardWork::*)() const;

    std::int64_t sum(Size size) const {
        std::int64_t total = 0;
        for (int call = 0; call < count_; ++call) total += (works_[call].*size)();
        return total;
    }
    std::int64_t largest(Size size) const {
        std::int64_t most = 0;
        for (int call = 0; call < count_; ++call) most = std::max(most, (works_[call].*size)());
        return most;
    }

    const ForwardWork* works_;
    const int count_;
};

struct ThreadScratch {
    Scratch<float> floats;
    Scratch<std::int64_t> indices;
    std::int64_t floats_each;
    std::int64_t indices_each;

    ThreadScratch(const Calls& calls, int threads, std::int64_t extra_floats)
        : floats_each(calls.scratch_size() + extra_floats), indices_each(calls.index_size()) {
        floats = make_scratch<float>(threads * floats_each);
        indices = make_scratch<std::int64_t>(threads * indices_each);
    }
    bool missing() const { return !floats || !indices; }
    float* own_floats() const { return floats.get() + thread_index() * floats_each; }
    std::int64_t* own_indices() const { return indices.get() + thread_index() * indices_each; }
};

// Each thread packs and computes whole items: no waiting for one another.
bool run_items_apart(const Calls& calls, int threads) {
    const ThreadScratch scratch(calls, threads, calls.packed_size());
    if (scratch.missing()) return false;
    const std::int64_t items = calls.items();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (std::int64_t index = 0; index < items; ++index) {
        std::int64_t item = index;
        const ForwardWork& work = calls.of_item(&item);
        float* const packed = scratch.own_floats();
        for (std::int64_t frame = 0; frame < work.plan().key_frames(); ++frame) work.pack_frame(item, frame, packed);
        for (std::int64_t group = 0; group < work.groups_per_item(); ++group)
            work.attend(item, group, packed, packed + calls.packed_size(), scratch.own_indices());
    }
    return true;
}

// With few items: all threads pack all of them, then share their query groups.
bool run_items_together(const Calls& calls, int threads) {
    const std::int64_t items = calls.items();
    const Scratch<float> packed = make_scratch<float>(items * calls.packed_size());
    const ThreadScratch scratch(calls, threads, 0);
    if (!packed || scratch.missing()) return false;
#pragma omp parallel num_threads(threads)
    {
        for (std::int64_t index = 0; index < items; ++index) {
            std::int64_t item = index;
            const ForwardWork& work = calls.of_item(&item);
#pragma omp for schedule(static) nowait
            for (std::int64_t frame = 0; frame < work.plan().key_frames(); ++frame)
                work.pack_frame(item, frame, packed.get() + index * calls.packed_size());
        }
#pragma omp barrier
        for (std::int64_t index = 0; index < items; ++index) {
            std::int64_t item = index;
            const ForwardWork& work = calls.of_item(&item);
#pragma omp for schedule(dynamic, 1) nowait
            for (std::int64_t group = 0; group < work.groups_per_item(); ++group)
                work.attend(item, group, packed.get() + index * calls.packed_size(), scratch.own_floats(),
                            scratch.own_indices());
        }
    }
    return true;
}

}  // namespace

bool frame_attention_forward(const AttentionForward* calls, int count, InstructionSet set) {
    const ForwardWork works[] = {{calls[0], set}, {calls[count - 1], set}};
    const Calls all(works, count);
    const int threads = thread_limit();
    return all.items() < 2 * threads && threads > 1 ? run_items_together(all, threads) : run_items_apart(all, threads);
}

}  // namespace fourreal::cpu
