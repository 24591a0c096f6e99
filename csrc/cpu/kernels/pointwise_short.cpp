#include "kernels/pointwise_short.hpp"

#include "kernels/pointwise_mix.hpp"
#include "kernels/pointwise_positions.hpp"
#include "kernels/pointwise_short_parts.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Buffers {
    float *packed, *queries, *hidden;
    Scores scores;

    Buffers(const PointwiseShape& shape, Scratch& scratch) {
        const int groups = groups_of(shape.entries);
        packed = scratch.take(packed_floats(shape.channels, groups));
        queries = scratch.take(widened_floats(shape));
        hidden = scratch.take(groups * kWidth);
        scores.group_size = Scores::size_of_group(shape.entries);
        scores.at = scratch.take(groups * scores.group_size);
    }
};

template <typename T, typename Sizes>
class ShortForward {
    static constexpr int kGroups = Sizes::kGroups;
    enum Tensor { kQ, kK, kV, kOut, kLse };

public:
    ShortForward(const PointwiseForward& job, Scratch scratch)
        : job_(job), sizes_(job.shape), buffers_(job.shape, scratch), factor_(broadcast(job.shape.scale * kLog2E)) {
        hide_missing(job.shape.entries, kGroups, buffers_.hidden);
    }

    void operator()(const PositionOffsets<5>& now, const PositionOffsets<5>& ahead) {
        const std::int64_t entries = sizes_.entries(), channels = sizes_.channels();
        k_.point_at(job_.k, now.at[kK], entries);
        pack_keys<kGroups>(k_.at, all(), channels, ahead.at[kK], buffers_.packed);
        queries_.point_at(job_.q, now.at[kQ], entries, channels, buffers_.queries);
        write_products<kGroups>(buffers_.packed, queries_.at, all(), channels, ahead.at[kQ], buffers_.scores);
        softmax(now.at[kLse]);
        v_.point_at(job_.v, now.at[kV], entries);
        out_.point_at(job_.out, now.at[kOut], entries);
        if (job_.shape.stream)
            write<true>(ahead.at[kV]);
        else
            write<false>(ahead.at[kV]);
    }

private:
    Members all() const { return {0, 1, sizes_.entries()}; }

    FOURREAL_ALWAYS_INLINE void softmax(std::int64_t lse_offset) {
        const Scores& scores = buffers_.scores;
        Vec hidden[kGroups];
        for (int g = 0; g < kGroups; ++g) hidden[g] = load(buffers_.hidden + g * kWidth);
        for (std::int64_t e = 0; e < sizes_.entries(); e += 2) {
            Vec x[kGroups];
            for (int g = 0; g < kGroups; ++g) x[g] = load(scores.of(g, e));
            const PairSoftmax<kGroups> pair(x, factor_, hidden);
            for (int g = 0; g < kGroups; ++g) store(scores.of(g, e), x[g]);
            if (job_.lse.data) write_log_sums(pair, job_.lse, lse_offset, e, sizes_.entries());
        }
    }

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
    const Vec factor_;
    QueryRows<T, kMostEntries> queries_;
    EntryRows<const T, kMostEntries> k_, v_;
    EntryRows<T, kMostEntries> out_;
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
        const std::int64_t* const strides[] = {job.q.position_strides, job.k.position_strides, job.v.position_strides,
                                               job.out.position_strides, job.lse.position_strides};
        for_each_position(PositionWalk<5>(job.shape, strides, first, last), forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
