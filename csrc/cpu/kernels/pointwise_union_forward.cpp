// out and lse of the union of row and column.
#include "kernels/pointwise_union.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Panels {
    UnionSizes sizes;
    float *query_lanes, *key_lanes, *values, *out, *lse;
    UnionScores scores;
    const char** ahead;

    Panels(const PointwiseShape& shape, Scratch& scratch) : sizes(shape) {
        query_lanes = scratch.take(sizes.lane_panels());
        key_lanes = scratch.take(sizes.lane_panels());
        values = scratch.take(sizes.row_panel());
        out = query_lanes;  // which are done with once there are scores
        lse = scratch.take(sizes.rows * sizes.lanes);
        scores.of_rows = scratch.take(sizes.row_scores());
        scores.of_columns = scratch.take(sizes.column_scores());
        constexpr std::int64_t kTensors = 4;
        ahead = scratch.take_rows(kTensors * sizes.group * sizes.entries);
    }
};

template <typename T>
class Forward {
public:
    Forward(const PointwiseForward& job, Scratch scratch) : job_(job), shape_(job.shape), panels_(job.shape, scratch) {}

    void operator()(const Bundle& bundle, const Bundle* upcoming) const {
        const UnionSizes& sizes = panels_.sizes;
        load_union_lanes(Sequences<const T>(job_.q, bundle), sizes, panels_.query_lanes, nullptr);
        load_union_lanes(Sequences<const T>(job_.k, bundle), sizes, panels_.key_lanes, nullptr);
        Prefetcher ahead = prefetcher(upcoming);
        union_products(sizes, panels_.query_lanes, panels_.key_lanes, panels_.scores, ahead);
        union_softmax(sizes, panels_.scores, shape_.scale, panels_.lse);
        load_rows(Sequences<const T>(job_.v, bundle), sizes.group, 0, sizes.entries, sizes.channels, panels_.values);
        for (int g = 0; g < bundle.count; ++g)
            union_gather(sizes, g, panels_.scores, panels_.values, panels_.out, ahead);
        store_rows(panels_.out, Sequences<T>(job_.out, bundle), bundle.count, 0, sizes.entries, shape_);
        for (std::int64_t r = 0; r < sizes.rows; ++r)
            store_lanes(panels_.lse + r * sizes.lanes, Sequences<float>(job_.lse, bundle), bundle, r * sizes.columns,
                        sizes.columns);
    }

private:
    Prefetcher prefetcher(const Bundle* upcoming) const {
        Prefetcher ahead(panels_.ahead, shape_.channels * static_cast<std::int64_t>(sizeof(T)));
        if (!upcoming) return ahead;
        for (const PointwiseInput* tensor : {&job_.q, &job_.k, &job_.v})
            Sequences<const T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        if (!shape_.stream) Sequences<T>(job_.out, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        ahead.spread_over(union_product_steps(panels_.sizes) + union_gather_steps(panels_.sizes));
        return ahead;
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    Panels panels_;
};

}  // namespace

std::int64_t pointwise_union_forward_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Panels(shape, scratch);
    return scratch.used();
}

void pointwise_union_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const Forward<decltype(type)> forward(job, Scratch(scratch));
        for_each_bundle(job.shape, group_for(job.shape.columns()), first, last, forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
