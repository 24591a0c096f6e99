// How attention over whole frames is divided into independent work.
//
// An item is one (batch entry, head, line of frames): what shares packed keys. Its frames are numbered view-major, its rows
// are the tokens of its frames. All rows attend to all rows, or, in the second pass of a union, to those of other frames.
// Divisions depend on the shape of a call alone, never on the number of threads. Extra tokens are one more run of keys,
// behind those of the frames.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fourreal/axis_attention.hpp"
#include "kernels/frame_attention.hpp"

namespace fourreal::cpu {

struct FrameItem {
    std::int64_t batch;
    std::int64_t head;
    std::int64_t first_view;
    std::int64_t first_time;
};

// Which keys of its line a row attends to.
enum class LineKeys { kAll, kOfOtherFrames };

struct LinePass {
    AxisGroup group;  // of the axes of a line
    LineKeys keys;
    std::int64_t heads_in_all;  // batch entries times heads, of which the pass may be given a part
};

class FramePlan {
public:
    FramePlan(const AttentionShape& shape, const LinePass& pass)
        : shape_(shape),
          heads_in_all_(pass.heads_in_all),
          others_(pass.keys == LineKeys::kOfOtherFrames),
          views_(pass.group.view ? size(kAttView) : 1),
          times_(pass.group.time ? size(kAttTime) : 1) {}

    std::int64_t size(AttentionAxis axis) const { return shape_.sizes[axis]; }
    std::int64_t tokens() const { return size(kAttToken); }
    std::int64_t padded() const { return padded_channels(size(kAttChannel)); }

    std::int64_t items() const { return size(kAttBatch) * size(kAttHead) * lines(); }
    // What divisions depend on: parts of a call are divided like all of it.
    std::int64_t items_in_all() const { return heads_in_all_ * lines(); }
    std::int64_t frames() const { return views_ * times_; }
    std::int64_t rows() const { return frames() * tokens(); }

    // What is packed: the frames of an item, then its extra tokens.
    std::int64_t extra() const { return others_ ? 0 : shape_.extra_tokens; }
    std::int64_t key_rows() const { return rows() + extra(); }
    std::int64_t key_frames() const { return frames() + (extra() > 0); }
    std::int64_t first_key(std::int64_t frame) const { return frame * tokens(); }
    bool is_extra(std::int64_t frame) const { return frame == frames(); }

    // Neighbouring items are heads of one line: their rows lie side by side.
    FrameItem item(std::int64_t index) const {
        const std::int64_t heads = size(kAttHead), line = index / heads % lines();
        const std::int64_t times = size(kAttTime) / times_;
        return {index / heads / lines(), index % heads, line / times, line % times};
    }

    // Sets of rows that attend to the same keys.
    std::int64_t query_sets() const { return others_ ? frames() : 1; }
    std::int64_t queries_per_set() const { return rows() / query_sets(); }

    // Returns how many runs of keys there are.
    static constexpr std::int64_t kMostRuns = 2;
    std::int64_t key_runs(std::int64_t query_set, KeyRun* runs) const {
        if (!others_) {
            runs[0] = {0, key_rows()};
            return 1;
        }
        const KeyRun before{0, query_set * tokens()}, after{before.count + tokens(), rows() - tokens() - before.count};
        std::int64_t count = 0;
        for (const KeyRun& run : {before, after})
            if (run.count > 0) runs[count++] = run;
        return count;
    }

    // Offset, in elements, of a frame of an item in a tensor, for its first token.
    template <typename Pointer>
    std::int64_t frame_offset(const FrameItem& item, std::int64_t frame, const AttentionTensor<Pointer>& x) const {
        const std::int64_t view = item.first_view + frame / times_, time = item.first_time + frame % times_;
        return item.batch * x.strides[kAttBatch] + view * x.strides[kAttView] + time * x.strides[kAttTime] +
               item.head * x.strides[kAttHead];
    }

    // Offsets of `count` rows from `first` on.
    template <typename Pointer>
    void row_offsets(const FrameItem& item, std::int64_t first, std::int64_t count, const AttentionTensor<Pointer>& x,
                     std::int64_t* offsets) const {
        std::int64_t frame = first / tokens(), token = first % tokens();
        std::int64_t offset = frame_offset(item, frame, x);
        for (std::int64_t i = 0; i < count; ++i) {
            offsets[i] = offset + token * x.strides[kAttToken];
            if (++token < tokens() || i + 1 == count) continue;
            token = 0;
            offset = frame_offset(item, ++frame, x);
        }
    }

    // The tokens of a frame.
    template <typename Pointer>
    Rows frame_rows(const FrameItem& item, std::int64_t frame, const AttentionTensor<Pointer>& x, DType dtype) const {
        const void* const data = x.data;
        const char* const first = static_cast<const char*>(data) + frame_offset(item, frame, x) * element_size(dtype);
        return {dtype, first, x.strides[kAttToken], tokens(), size(kAttChannel)};
    }

    // The extra tokens of an item's batch entry and head.
    template <typename Pointer>
    Rows extra_rows(const FrameItem& item, const ExtraTensor<Pointer>& x) const {
        const std::int64_t offset = item.batch * x.strides[kExtraBatch] + item.head * x.strides[kExtraHead];
        const char* const first = static_cast<const char*>(x.data) + offset * element_size(shape_.dtype);
        return {shape_.dtype, first, x.strides[kExtraToken], extra(), size(kAttChannel)};
    }

    // Lines of frames per batch entry and head; item() numbers them.
    std::int64_t lines() const { return (size(kAttView) / views_) * (size(kAttTime) / times_); }

private:
    const AttentionShape& shape_;
    const std::int64_t heads_in_all_;
    const bool others_;
    const std::int64_t views_;
    const std::int64_t times_;
};

// Query groups of a set: as large as the second-level cache holds, but enough of them for the threads of a large machine.
class QueryGroups {
public:
    // `floats_per_query` is the scratch that a query takes, `cache_floats` what all of a group may take.
    QueryGroups(const FramePlan& plan, std::int64_t floats_per_query, std::int64_t cache_floats = 160 * 1024)
        : queries_(plan.queries_per_set()) {
        constexpr std::int64_t kMostQueries = 12 * kPanelQueries, kWantedGroups = 16;
        const std::int64_t fitting = cache_floats / floats_per_query / kPanelQueries * kPanelQueries;
        const std::int64_t most = std::clamp(fitting, kPanelQueries, kMostQueries);
        const std::int64_t sets = plan.items_in_all() * plan.query_sets();
        const std::int64_t wanted = (kWantedGroups + sets - 1) / sets;
        count_ = std::max((queries_ + most - 1) / most, std::min(wanted, (queries_ + kPanelQueries - 1) / kPanelQueries));
        step_ = ((queries_ + count_ - 1) / count_ + kPanelQueries - 1) / kPanelQueries * kPanelQueries;
        count_ = (queries_ + step_ - 1) / step_;
    }

    std::int64_t count() const { return count_; }
    std::int64_t largest() const { return std::min(step_, queries_); }
    std::int64_t first(std::int64_t group) const { return group * step_; }
    std::int64_t size(std::int64_t group) const { return std::min(step_, queries_ - first(group)); }

private:
    const std::int64_t queries_;
    std::int64_t count_;
    std::int64_t step_;
};

}  // namespace fourreal::cpu
