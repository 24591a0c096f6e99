// Gradients of short sequences, with the same products as forward. Probabilities are computed anew, and sum(P * dP) takes the
// place of sum(grad_out * out): neither out nor lse is read.
#include "kernels/pointwise_mix.hpp"
#include "kernels/pointwise_positions.hpp"
#include "kernels/pointwise_short.hpp"
#include "kernels/pointwise_short_parts.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Buffers {
    float *packed, *queries, *grads, *hidden;
    Scores probabilities, score_grads;

    Buffers(const PointwiseShape& shape, Scratch& scratch) {
        const int groups = groups_of(shape.entries);
        packed = scratch.take(packed_floats(shape.channels, groups));
        for (float** widened : {&queries, &grads}) *widened = scratch.take(widened_floats(shape));
        hidden = scratch.take(groups * kWidth);
        for (Scores* scores : {&probabilities, &score_grads}) {
            scores->group_size = Scores::size_of_group(shape.entries);
            scores->at = scratch.take(groups * scores->group_size);
        }
    }
};

template <typename T, typename Sizes>
class ShortBackward {
    static constexpr int kGroups = Sizes::kGroups;
    enum Tensor { kGradOut, kQ, kK, kV, kDq, kDk, kDv, kGradLse };

public:
    static constexpr int kTensors = kGradLse + 1;
    using Offsets = PositionOffsets<kTensors>;

    ShortBackward(const PointwiseBackward& job, Scratch scratch)
        : job_(job), sizes_(job.shape), buffers_(job.shape, scratch), factor_(broadcast(job.shape.scale * kLog2E)) {
        hide_missing(job.shape.entries, kGroups, buffers_.hidden);
    }

    void operator()(const Offsets& now, const Offsets& ahead) {
        const std::int64_t entries = sizes_.entries(), channels = sizes_.channels();
        k_.point_at(job_.k, now.at[kK], entries);
        pack_keys<kGroups>(k_.at, all(), channels, ahead.at[kK], buffers_.packed);
        queries_.point_at(job_.q, now.at[kQ], entries, channels, ahead.at[kQ], buffers_.queries);
        write_products<kGroups>(buffers_.packed, queries_.at, all(), channels, queries_.ahead_in_use(ahead.at[kQ]),
                                buffers_.probabilities);
        v_.point_at(job_.v, now.at[kV], entries);
        pack_keys<kGroups>(v_.at, all(), channels, ahead.at[kV], buffers_.packed);
        grads_.point_at(job_.grad_out, now.at[kGradOut], entries, channels, ahead.at[kGradOut], buffers_.grads);
        write_products<kGroups>(buffers_.packed, grads_.at, all(), channels, grads_.ahead_in_use(ahead.at[kGradOut]),
                                buffers_.score_grads);
        differentiate(now.at[kGradLse]);
        dq_.point_at(job_.dq, now.at[kDq], entries);
        dk_.point_at(job_.dk, now.at[kDk], entries);
        dv_.point_at(job_.dv, now.at[kDv], entries);
        if (job_.shape.stream)
            write<true>();
        else
            write<false>();
    }

private:
    Members all() const { return {0, 1, sizes_.entries()}; }

    // Products become probabilities, and their gradients those of the products q . k.
    FOURREAL_ALWAYS_INLINE void differentiate(std::int64_t grad_lse_offset) const {
        const Vec scale = broadcast(job_.shape.scale);
        Vec hidden[kGroups];
        for (int g = 0; g < kGroups; ++g) hidden[g] = load(buffers_.hidden + g * kWidth);
        for (std::int64_t e = 0; e < sizes_.entries(); e += 2) {
            Vec p[kGroups], grad[kGroups];
            for (int g = 0; g < kGroups; ++g) p[g] = load(buffers_.probabilities.of(g, e));
            const PairSoftmax<kGroups> pair(p, factor_, hidden);
            Vec offset = zero();
            for (int g = 0; g < kGroups; ++g) {
                grad[g] = load(buffers_.score_grads.of(g, e));
                offset = fmadd(p[g], grad[g], offset);
            }
            offset = combine_halves(offset, Sum());
            const Vec of_log_sum = job_.grad_lse.data ? grads_of_log_sums(grad_lse_offset, e) : zero();
            for (int g = 0; g < kGroups; ++g) {
                store(buffers_.probabilities.of(g, e), p[g]);
                // In this order: of a weight near 1 the difference is nearly exact, and all that may be left is of_log_sum.
                store(buffers_.score_grads.of(g, e), p[g] * ((grad[g] - offset) + of_log_sum) * scale);
            }
        }
    }

    Vec grads_of_log_sums(std::int64_t offset, std::int64_t entry) const {
        const float* const base = static_cast<const float*>(job_.grad_lse.data) + offset;
        float lanes[kWidth];
        for (int lane = 0; lane < kWidth; ++lane)
            lanes[lane] = base[job_.grad_lse.entries[all().at(entry + lane / kGroupKeys)]];
        return load(lanes);
    }

    template <bool kStream>
    FOURREAL_ALWAYS_INLINE void write() const {
        for_columns(sizes_.channels(), [&](const Columns& columns, auto vectors) {
            constexpr int kColumns = decltype(vectors)::value;
            for (int g = 0; g < kGroups; ++g) {
                const std::int64_t first = g * kGroupKeys;
                Mixed<kColumns> dq, dk, dv;
                add_family<kGroups>(dq, buffers_.score_grads, k_.at, all(), first, columns, 0);
                dq.template write<kStream>(dq_.at, all(), first, columns);
                add_transposed(dk, buffers_.score_grads, queries_.at, all(), g, columns);
                dk.template write<kStream>(dk_.at, all(), first, columns);
                add_transposed(dv, buffers_.probabilities, grads_.at, all(), g, columns);
                dv.template write<kStream>(dv_.at, all(), first, columns);
            }
        });
    }

    const PointwiseBackward& job_;
    const Sizes sizes_;
    const Buffers buffers_;
    const Vec factor_;
    QueryRows<T, kMostEntries> queries_, grads_;
    EntryRows<const T, kMostEntries> k_, v_;
    EntryRows<T, kMostEntries> dq_, dk_, dv_;
};

}  // namespace

std::int64_t pointwise_short_backward_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Buffers(shape, scratch);
    return scratch.used();
}

void pointwise_short_backward(const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch) {
    const std::int64_t* const strides[] = {
        job.grad_out.position_strides, job.q.position_strides,  job.k.position_strides,  job.v.position_strides,
        job.dq.position_strides,       job.dk.position_strides, job.dv.position_strides, job.grad_lse.position_strides};
    with_sizes(job.shape, [&](auto type, auto sizes) {
        using Kernel = ShortBackward<decltype(type), decltype(sizes)>;
        for_each_position(PositionWalk<Kernel::kTensors>(job.shape, strides, first, last), Kernel(job, Scratch(scratch)));
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
