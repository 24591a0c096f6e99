#include "kernels/pointwise_short.hpp"

#include "kernels/pointwise_lines.hpp"
#include "kernels/pointwise_mix.hpp"
#include "kernels/pointwise_positions.hpp"
#include "kernels/pointwise_short_parts.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Buffers {
    float *packed, *queries, *hidden, *lines;
    Scores scores;

    Buffers(const PointwiseShape& shape, Scratch& scratch) {
        const int groups = groups_of(shape.entries);
        packed = scratch.take(packed_floats(shape.channels, groups));
        queries = scratch.take(widened_floats(shape));
        hidden = scratch.take(groups * kWidth);
        lines = scratch.take(Lines<float, kMostEntries>::size(shape));
        scores.group_size = Scores::size_of_group(shape.entries);
        scores.at = scratch.take(groups * scores.group_size);
    }
};

template <typename T, typename Sizes>
class ShortForward {
    static constexpr int kGroups = Sizes::kGroups;

public:
    ShortForward(const PointwiseForward& job, Scratch scratch)
        : job_(job), sizes_(job.shape), buffers_(job.shape, scratch), lines_(job.shape, reinterpret_cast<T*>(buffers_.lines)) {
        hide_missing(job.shape.entries, kGroups, buffers_.hidden);
    }

    void operator()(const ForwardOffsets& now, const ForwardOffsets& ahead) {
        const std::int64_t entries = sizes_.entries(), channels = sizes_.channels();
        k_.point_at(job_.k, now.at[kForwardK], entries);
        pack_keys<kGroups>(k_.at, all(), channels, ahead.at[kForwardK], buffers_.packed);
        queries_.point_at(job_.q, now.at[kForwardQ], entries, channels, ahead.at[kForwardQ], buffers_.queries);
        write_products<kGroups>(buffers_.packed, queries_.at, all(), channels,
                                queries_.ahead_in_use(ahead.at[kForwardQ]), buffers_.scores);
        normalise<kGroups, 0>(job_, entries, buffers_.scores, buffers_.hidden, {}, now.at[kForwardLse]);
        v_.point_at(job_.v, now.at[kForwardV], entries);
        if (job_.shape.stream_together > 0) {
            lines_.point_at(now.at[kForwardOut], out_);
            write<false>(ahead.at[kForwardV]);
            lines_.advance(job_.out);
            return;
        }
        out_.point_at(job_.out, now.at[kForwardOut], entries);
        if (job_.shape.stream)
            write<true>(ahead.at[kForwardV]);
        else
            write<false>(ahead.at[kForwardV]);
    }

private:
    Members all() const { return {0, 1, sizes_.entries()}; }

    template <bool kStream>
    FOURREAL_ALWAYS_INLINE void write(std::int64_t ahead) const {
        for_columns(sizes_.channels(), [&](const Columns& columns, auto vectors) {
            for (std::int64_t i = 0; i < sizes_.entries(); i += kGroupKeys) {
                Mixed<decltype(vectors)::value> mixed;
                add_family<kGroups>(mixed, buffers_.scores, v_.at, all(), i, columns, i == 0 ? ahead : 0);
                mixed.template write<kStream>(out_.at, all(), i, columns);
            }
        });
    }

    const PointwiseForward& job_;
    const Sizes sizes_;
    const Buffers buffers_;
    QueryRows<T, kMostEntries> queries_;
    EntryRows<const T, kMostEntries> k_, v_;
    EntryRows<T, kMostEntries> out_;
    Lines<T, kMostEntries> lines_;
};

}  // namespace

std::int64_t pointwise_short_entries() { return kMostEntries; }

std::int64_t pointwise_short_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Buffers(shape, scratch);
    return scratch.used();
}

void pointwise_short_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_sizes(job.shape, [&](auto type, auto sizes) {
        ShortForward<decltype(type), decltype(sizes)> forward(job, Scratch(scratch));
        for_each_position(forward_walk(job, first, last), forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
