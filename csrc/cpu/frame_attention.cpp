#include <atomic>

#include "attention_paths.hpp"
#include "frame_passes.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

// One pass, divided into items and their query groups.
class ForwardWork {
public:
    ForwardWork(const ForwardPass& pass, InstructionSet set)
        : pass_(pass),
          args_(pass.call),
          plan_(args_.shape, pass.lines),
          groups_(plan_, 2 * plan_.padded(), group_floats(plan_)),
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

    // A part of the rows of an item that are to be fetched before its turn, beside the groups of the item before.
    std::int64_t most_ahead() const { return 4 * plan_.frames(); }
    std::int64_t rows_ahead(std::int64_t item_index, std::int64_t part, std::int64_t parts, Rows* rows) const {
        const FrameItem item = plan_.item(item_index);
        std::int64_t count = 0;
        for (std::int64_t frame = plan_.frames() * part / parts; frame < plan_.frames() * (part + 1) / parts; ++frame) {
            for (const AttentionInput* x : {&args_.k, &args_.v, &args_.q})
                rows[count++] = plan_.frame_rows(item, frame, *x, args_.shape.dtype);
            if (pass_.resumes) rows[count++] = plan_.frame_rows(item, frame, pass_.partial.values, DType::kFloat32);
        }
        return count;
    }

    void attend(std::int64_t item_index, std::int64_t group_index, const float* packed, float* scratch,
                std::int64_t* indices, const Rows* ahead = nullptr, std::int64_t ahead_count = 0) const {
        const FrameItem item = plan_.item(item_index);
        const std::int64_t query_set = group_index / groups_.count(), index = group_index % groups_.count();
        const std::int64_t first = query_set * plan_.queries_per_set() + groups_.first(index), count = groups_.size(index);
        const auto offsets_in = [&](const auto& tensor) {
            std::int64_t* const list = indices;
            indices += count;
            plan_.row_offsets(item, first, count, tensor, list);
            return list;
        };
        QueryGroup group{};
        group.dtype = args_.shape.dtype;
        group.channels = plan_.size(kAttChannel);
        group.scale = args_.shape.scale;
        group.count = count;
        group.queries = args_.q.data, group.query_offsets = offsets_in(args_.q);
        group.out = args_.out.data, group.out_offsets = offsets_in(args_.out);
        group.lse = static_cast<float*>(args_.lse.data), group.lse_offsets = offsets_in(args_.lse);
        group.keys = packed, group.values = packed + plan_.key_rows() * plan_.padded();
        const PartialOutputs& partial = pass_.partial;
        group.partial = {partial.values.data, offsets_in(partial.values), partial.state.data, offsets_in(partial.state),
                         pass_.resumes, pass_.suspends};
        group.ahead = ahead, group.ahead_count = ahead_count;
        KeyRun* const runs = reinterpret_cast<KeyRun*>(indices);
        group.run_count = plan_.key_runs(query_set, runs);
        group.runs = runs;
        attend_(group, scratch);
    }

private:
    static constexpr int kOffsetLists = 5;

    // Of an item whose keys and values fit into the second-level cache, groups leave room for what is fetched for the next.
    static std::int64_t group_floats(const FramePlan& plan) {
        constexpr std::int64_t kHeldFloats = 128 * 1024, kSmall = 24 * 1024, kLarge = 160 * 1024;
        return 2 * plan.key_rows() * plan.padded() <= kHeldFloats ? kSmall : kLarge;
    }

    const ForwardPass& pass_;
    const AttentionForward& args_;
    const FramePlan plan_;
    const QueryGroups groups_;
    decltype(&portable::pack_rows) pack_;
    decltype(&portable::attend_group) attend_;
};

// One or two passes, whose items are numbered through.
class Passes {
public:
    Passes(const ForwardWork* works, int count) : works_(works), count_(count) {}

    std::int64_t items() const { return sum(&ForwardWork::items); }
    std::int64_t packed_size() const { return largest(&ForwardWork::packed_size); }
    std::int64_t scratch_size() const { return largest(&ForwardWork::scratch_size); }
    std::int64_t index_size() const { return largest(&ForwardWork::index_size); }
    std::int64_t most_ahead() const { return largest(&ForwardWork::most_ahead); }

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
    Scratch<Rows> rows;
    std::int64_t floats_each;
    std::int64_t indices_each;
    std::int64_t rows_each;

    ThreadScratch(const Passes& passes, int threads, std::int64_t extra_floats)
        : floats_each(passes.scratch_size() + extra_floats), indices_each(passes.index_size()), rows_each(passes.most_ahead()) {
        floats = make_scratch<float>(threads * floats_each);
        indices = make_scratch<std::int64_t>(threads * indices_each);
        rows = make_scratch<Rows>(threads * rows_each);
    }
    bool missing() const { return !floats || !indices || !rows; }
    float* own_floats() const { return floats.get() + thread_index() * floats_each; }
    std::int64_t* own_indices() const { return indices.get() + thread_index() * indices_each; }
    Rows* own_rows() const { return rows.get() + thread_index() * rows_each; }
};

// One item; the next one is on its way into the cache then.
void run_item(const Passes& passes, std::int64_t index, std::int64_t next, const ThreadScratch& scratch) {
    const ForwardWork& work = passes.of_item(&index);
    const bool has_next = next < passes.items();
    const ForwardWork& next_work = passes.of_item(&next);
    float* const packed = scratch.own_floats();
    Rows* const ahead = scratch.own_rows();
    for (std::int64_t frame = 0; frame < work.plan().key_frames(); ++frame) work.pack_frame(index, frame, packed);
    const std::int64_t groups = work.groups_per_item();
    for (std::int64_t group = 0; group < groups; ++group) {
        const std::int64_t count = has_next ? next_work.rows_ahead(next, group, groups, ahead) : 0;
        work.attend(index, group, packed, packed + passes.packed_size(), scratch.own_indices(), ahead, count);
    }
}

// Each thread packs and computes whole items: no waiting for one another.
bool run_items_apart(const Passes& passes, int threads) {
    const ThreadScratch scratch(passes, threads, passes.packed_size());
    if (scratch.missing()) return false;
    const std::int64_t items = passes.items();
    std::atomic<std::int64_t> taken{0};
#pragma omp parallel num_threads(threads)
    for (std::int64_t index = taken++, next; index < items; index = next) {
        next = taken++;
        run_item(passes, index, next, scratch);
    }
    return true;
}

// With few items: all threads pack all of them, then share their query groups.
bool run_items_together(const Passes& passes, int threads) {
    const std::int64_t items = passes.items();
    const Scratch<float> packed = make_scratch<float>(items * passes.packed_size());
    const ThreadScratch scratch(passes, threads, 0);
    if (!packed || scratch.missing()) return false;
#pragma omp parallel num_threads(threads)
    {
        for (std::int64_t index = 0; index < items; ++index) {
            std::int64_t item = index;
            const ForwardWork& work = passes.of_item(&item);
#pragma omp for schedule(static) nowait
            for (std::int64_t frame = 0; frame < work.plan().key_frames(); ++frame)
                work.pack_frame(item, frame, packed.get() + index * passes.packed_size());
        }
#pragma omp barrier
        for (std::int64_t index = 0; index < items; ++index) {
            std::int64_t item = index;
            const ForwardWork& work = passes.of_item(&item);
#pragma omp for schedule(dynamic, 1) nowait
            for (std::int64_t group = 0; group < work.groups_per_item(); ++group)
                work.attend(item, group, packed.get() + index * passes.packed_size(), scratch.own_floats(),
                            scratch.own_indices());
        }
    }
    return true;
}

}  // namespace

bool run_forward_passes(const ForwardPass* passes, int count, InstructionSet set) {
    const ForwardWork works[] = {{passes[0], set}, {passes[count - 1], set}};
    const Passes all(works, count);
    const int threads = thread_limit();
    return all.items() < 2 * threads && threads > 1 ? run_items_together(all, threads) : run_items_apart(all, threads);
}

bool frame_attention_forward(const AttentionForward* calls, int count, InstructionSet set) {
    const ForwardPass passes[] = {{calls[0], all_lines(calls[0].shape)}, {calls[count - 1], all_lines(calls[count - 1].shape)}};
    return run_forward_passes(passes, count, set);
}

}  // namespace fourreal::cpu
