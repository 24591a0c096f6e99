// Gradients of the union of row and column. As for single groups, neither out nor lse is read.
#include "kernels/pointwise_union.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Panels {
    UnionSizes sizes;
    float *query_lanes, *key_lanes, *value_lanes, *grad_lanes;
    float *query_rows, *key_rows, *grad_rows, *result, *lse, *grad_lse;
    UnionScores probabilities, score_grads;
    const char** ahead;

    Panels(const PointwiseShape& shape, Scratch& scratch) : sizes(shape) {
        for (float** lanes : {&query_lanes, &key_lanes, &value_lanes, &grad_lanes})
            *lanes = scratch.take(sizes.lane_panels());
        for (float** rows : {&query_rows, &key_rows, &grad_rows}) *rows = scratch.take(sizes.row_panel());
        result = query_lanes;  // which are done with once there are scores
        for (float** lanes : {&lse, &grad_lse}) *lanes = scratch.take(sizes.rows * sizes.lanes);
        for (UnionScores* scores : {&probabilities, &score_grads}) {
            scores->of_rows = scratch.take(sizes.row_scores());
            scores->of_columns = scratch.take(sizes.column_scores());
        }
        constexpr std::int64_t kTensors = 7;
        ahead = scratch.take_rows(kTensors * sizes.group * sizes.entries);
    }
};

template <typename T>
class Backward {
public:
    Backward(const PointwiseBackward& job, Scratch scratch)
        : job_(job), shape_(job.shape), panels_(job.shape, scratch) {}

    void operator()(const Bundle& bundle, const Bundle* upcoming) const {
        load(bundle);
        const UnionSizes& sizes = panels_.sizes;
        Prefetcher ahead = prefetcher(upcoming);
        union_products(sizes, panels_.query_lanes, panels_.key_lanes, panels_.probabilities, ahead);
        union_products(sizes, panels_.grad_lanes, panels_.value_lanes, panels_.score_grads, ahead);
        union_softmax(sizes, panels_.probabilities, shape_.scale, panels_.lse);
        union_softmax_gradient(sizes, panels_.score_grads, panels_.probabilities, shape_.scale, panels_.grad_lse);
        for (int g = 0; g < bundle.count; ++g)
            union_gather(sizes, g, panels_.score_grads, panels_.key_rows, panels_.result, ahead);
        write(job_.dq, bundle);
        for (int g = 0; g < bundle.count; ++g)
            union_scatter(sizes, g, panels_.score_grads, panels_.query_rows, panels_.result, ahead);
        write(job_.dk, bundle);
        for (int g = 0; g < bundle.count; ++g)
            union_scatter(sizes, g, panels_.probabilities, panels_.grad_rows, panels_.result, ahead);
        write(job_.dv, bundle);
    }

private:
    void load(const Bundle& bundle) const {
        const UnionSizes& sizes = panels_.sizes;
        load_union_lanes(Sequences<const T>(job_.q, bundle), sizes, panels_.query_lanes, panels_.query_rows);
        load_union_lanes(Sequences<const T>(job_.k, bundle), sizes, panels_.key_lanes, panels_.key_rows);
        load_union_lanes(Sequences<const T>(job_.v, bundle), sizes, panels_.value_lanes, nullptr);
        load_union_lanes(Sequences<const T>(job_.grad_out, bundle), sizes, panels_.grad_lanes, panels_.grad_rows);
        for (std::int64_t r = 0; r < sizes.rows; ++r)
            read_lanes(job_.grad_lse, bundle, r * sizes.columns, sizes.columns, sizes.lanes,
                       panels_.grad_lse + r * sizes.lanes);
    }

    void write(const PointwiseOutput& tensor, const Bundle& bundle) const {
        store_rows(panels_.result, Sequences<T>(tensor, bundle), bundle.count, 0, shape_.entries, shape_);
    }

    Prefetcher prefetcher(const Bundle* upcoming) const {
        Prefetcher ahead(panels_.ahead, shape_.channels * static_cast<std::int64_t>(sizeof(T)));
        if (!upcoming) return ahead;
        for (const PointwiseInput* tensor : {&job_.q, &job_.k, &job_.v, &job_.grad_out})
            Sequences<const T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        if (!shape_.stream)
            for (const PointwiseOutput* tensor : {&job_.dq, &job_.dk, &job_.dv})
                Sequences<T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        ahead.spread_over(2 * union_product_steps(panels_.sizes) + 3 * union_gather_steps(panels_.sizes));
        return ahead;
    }

    const PointwiseBackward& job_;
    const PointwiseShape& shape_;
    Panels panels_;
};

}  // namespace

std::int64_t pointwise_union_backward_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Panels(shape, scratch);
    return scratch.used();
}

void pointwise_union_backward(const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const Backward<decltype(type)> backward(job, Scratch(scratch));
        for_each_bundle(job.shape, group_for(job.shape.columns()), first, last, backward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
