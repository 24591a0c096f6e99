// out and lse of single groups. Queries lie in lanes for the scores and the softmax, channels lie in lanes for the values.
#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_chunks.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_products.hpp"
#include "kernels/pointwise_softmax.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Panels {
    ChunkSizes sizes;
    float *query_lanes, *keys, *values, *out, *scores, *lse;
    const char** ahead;

    Panels(const PointwiseShape& shape, Scratch& scratch) : sizes(shape) {
        query_lanes = scratch.take(sizes.lane_panel());
        keys = scratch.take(sizes.key_panel());
        values = scratch.take(sizes.row_panel(shape.entries));
        out = query_lanes;  // which are done with once there are scores: fewer panels stay in the first-level cache
        scores = scratch.take(shape.entries * sizes.lanes);
        lse = scratch.take(sizes.lanes);
        constexpr std::int64_t kTensors = 4;
        ahead = scratch.take_rows(kTensors * sizes.group * shape.entries);
    }
};

template <typename T>
class Forward {
public:
    Forward(const PointwiseForward& job, Scratch scratch) : job_(job), shape_(job.shape), panels_(job.shape, scratch) {}

    void operator()(const Bundle& bundle, const Bundle* upcoming) const {
        const ChunkSizes& sizes = panels_.sizes;
        load_keys(bundle);
        Prefetcher ahead = prefetcher(upcoming);
        for (std::int64_t first = 0; first < shape_.entries; first += sizes.chunk)
            attend(bundle, first, sizes.count_from(first, shape_.entries), ahead);
    }

private:
    void load_keys(const Bundle& bundle) const {
        const Sequences<const T> keys(job_.k, bundle);
        const ChunkSizes& sizes = panels_.sizes;
        if (sizes.group == 1)
            load_rows(keys, 1, 0, shape_.entries, shape_.channels, panels_.keys);
        else
            load_lanes(keys, sizes.group, 0, shape_.entries, shape_.channels, sizes.lanes, panels_.keys,
                       nullptr, 0, 0);
    }

    Prefetcher prefetcher(const Bundle* upcoming) const {
        Prefetcher ahead(panels_.ahead, shape_.channels * static_cast<std::int64_t>(sizeof(T)));
        if (!upcoming) return ahead;
        for (const PointwiseInput* tensor : {&job_.k, &job_.v, &job_.q})
            Sequences<const T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        if (!shape_.stream) Sequences<T>(job_.out, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        ahead.spread_over(steps_of(scores(panels_.sizes.lanes, nullptr)) +
                          panels_.sizes.group * steps_of(weighing(0, panels_.sizes.chunk, panels_.sizes.lanes, nullptr)));
        return ahead;
    }

    void attend(const Bundle& bundle, std::int64_t first, std::int64_t count, Prefetcher& ahead) const {
        const ChunkSizes& sizes = panels_.sizes;
        const std::int64_t lanes = sizes.lanes_for(count);
        load_lanes(Sequences<const T>(job_.q, bundle), sizes.group, first, count, shape_.channels, lanes,
                   panels_.query_lanes, nullptr, 0, 0);
        key_scores(scores(lanes, &ahead), sizes.group);
        softmax(panels_.scores, shape_.entries, lanes, shape_.scale, panels_.lse);
        if (first == 0)
            load_rows(Sequences<const T>(job_.v, bundle), sizes.group, 0, shape_.entries, shape_.channels, panels_.values);
        for (int g = 0; g < bundle.count; ++g) row_product(weighing(g, count, lanes, &ahead));
        store_rows(panels_.out, Sequences<T>(job_.out, bundle), bundle.count, first, count, shape_);
        store_lanes(panels_.lse, Sequences<float>(job_.lse, bundle), bundle, first, count);
    }

    KeyScores scores(std::int64_t lanes, Prefetcher* ahead) const {
        return panels_.sizes.scores_of(panels_.keys, panels_.query_lanes, lanes, shape_, panels_.scores, ahead);
    }

    RowProduct weighing(int g, std::int64_t count, std::int64_t lanes, Prefetcher* ahead) const {
        const ChunkSizes& sizes = panels_.sizes;
        return {panels_.scores + g, sizes.group, lanes, panels_.values + g * shape_.entries * sizes.stride,
                sizes.stride, shape_.entries, panels_.out + g * count * sizes.stride, sizes.stride, count,
                sizes.stride, false, ahead};
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    Panels panels_;
};

}  // namespace

std::int64_t pointwise_forward_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Panels(shape, scratch);
    return scratch.used();
}

void pointwise_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const Forward<decltype(type)> forward(job, Scratch(scratch));
        for_each_bundle(job.shape, group_for(job.shape.entries), first, last, forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
