// Gradients of single groups. Probabilities are computed anew, with their own sums, and sum(P * dP) takes the place of
// sum(grad_out * out): neither out nor lse is read.
#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_chunks.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_products.hpp"
#include "kernels/pointwise_softmax.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Panels {
    ChunkSizes sizes;
    float *query_lanes, *grad_lanes;  // of a chunk of queries, as are the next two
    float *query_rows, *grad_rows;
    float *key_rows, *key_lanes, *value_rows, *value_lanes;
    float *probabilities, *score_grads, *lse, *grad_lse;
    float *dq, *dk, *dv;
    const char** ahead;

    Panels(const PointwiseShape& shape, Scratch& scratch) : sizes(shape) {
        const std::int64_t chunk_rows = sizes.row_panel(sizes.chunk), all_rows = sizes.row_panel(shape.entries);
        query_lanes = scratch.take(sizes.lane_panel());
        grad_lanes = scratch.take(sizes.lane_panel());
        query_rows = scratch.take(chunk_rows);
        grad_rows = scratch.take(chunk_rows);
        key_rows = scratch.take(all_rows);
        value_rows = scratch.take(all_rows);
        key_lanes = sizes.group == 1 ? key_rows : scratch.take(sizes.lane_panel());
        value_lanes = sizes.group == 1 ? value_rows : scratch.take(sizes.lane_panel());
        probabilities = scratch.take(shape.entries * sizes.lanes);
        score_grads = scratch.take(shape.entries * sizes.lanes);
        lse = scratch.take(sizes.lanes);
        grad_lse = scratch.take(sizes.lanes);
        dq = query_lanes;  // which are done with once there are scores
        dk = scratch.take(all_rows);
        dv = scratch.take(all_rows);
        constexpr std::int64_t kTensors = 7;
        ahead = scratch.take_rows(kTensors * sizes.group * shape.entries);
    }
};

template <typename T>
class Backward {
public:
    Backward(const PointwiseBackward& job, Scratch scratch)
        : job_(job), shape_(job.shape), panels_(job.shape, scratch) {}

    void operator()(const Bundle& bundle, const Bundle* upcoming) const {
        load_keys(job_.k, bundle, panels_.key_rows, panels_.key_lanes);
        load_keys(job_.v, bundle, panels_.value_rows, panels_.value_lanes);
        Prefetcher ahead = prefetcher(upcoming);
        const ChunkSizes& sizes = panels_.sizes;
        for (std::int64_t first = 0; first < shape_.entries; first += sizes.chunk)
            add_queries(bundle, first, sizes.count_from(first, shape_.entries), ahead);
        store_rows(panels_.dk, Sequences<T>(job_.dk, bundle), bundle.count, 0, shape_.entries, shape_);
        store_rows(panels_.dv, Sequences<T>(job_.dv, bundle), bundle.count, 0, shape_.entries, shape_);
    }

private:
    void load_keys(const PointwiseInput& tensor, const Bundle& bundle, float* rows, float* lanes) const {
        const Sequences<const T> keys(tensor, bundle);
        const ChunkSizes& sizes = panels_.sizes;
        if (sizes.group == 1)
            load_rows(keys, 1, 0, shape_.entries, shape_.channels, rows);
        else
            load_lanes(keys, sizes.group, 0, shape_.entries, shape_.channels, sizes.lanes, lanes, rows, 0, shape_.entries);
    }

    Prefetcher prefetcher(const Bundle* upcoming) const {
        Prefetcher ahead(panels_.ahead, shape_.channels * static_cast<std::int64_t>(sizeof(T)));
        if (!upcoming) return ahead;
        for (const PointwiseInput* tensor : {&job_.k, &job_.v, &job_.q, &job_.grad_out})
            Sequences<const T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        if (!shape_.stream)
            for (const PointwiseOutput* tensor : {&job_.dq, &job_.dk, &job_.dv})
                Sequences<T>(*tensor, *upcoming).add_to(ahead, shape_.entries, upcoming->count);
        const ChunkSizes& sizes = panels_.sizes;
        ahead.spread_over(2 * steps_of(products(panels_.key_lanes, panels_.query_lanes, sizes.lanes, nullptr, nullptr)) +
                          3 * sizes.group * steps_of(to_queries(0, sizes.chunk, sizes.lanes, nullptr)));
        return ahead;
    }

    void add_queries(const Bundle& bundle, std::int64_t first, std::int64_t count, Prefetcher& ahead) const {
        const ChunkSizes& sizes = panels_.sizes;
        const std::int64_t lanes = sizes.lanes_for(count);
        load_lanes(Sequences<const T>(job_.q, bundle), sizes.group, first, count, shape_.channels, lanes,
                   panels_.query_lanes, panels_.query_rows, 0, count);
        load_lanes(Sequences<const T>(job_.grad_out, bundle), sizes.group, first, count, shape_.channels, lanes,
                   panels_.grad_lanes, panels_.grad_rows, 0, count);
        read_lanes(job_.grad_lse, bundle, first, count, lanes, panels_.grad_lse);
        key_scores(products(panels_.key_lanes, panels_.query_lanes, lanes, panels_.probabilities, &ahead), sizes.group);
        key_scores(products(panels_.value_lanes, panels_.grad_lanes, lanes, panels_.score_grads, &ahead), sizes.group);
        softmax(panels_.probabilities, shape_.entries, lanes, shape_.scale, panels_.lse);
        softmax_gradient(panels_.score_grads, panels_.probabilities, shape_.entries, lanes, shape_.scale,
                         panels_.grad_lse);
        const bool accumulate = first > 0;
        for (int g = 0; g < bundle.count; ++g) {
            row_product(to_queries(g, count, lanes, &ahead));
            row_product(to_keys(g, count, lanes, panels_.score_grads, panels_.query_rows, panels_.dk, accumulate, &ahead));
            row_product(to_keys(g, count, lanes, panels_.probabilities, panels_.grad_rows, panels_.dv, accumulate, &ahead));
        }
        store_rows(panels_.dq, Sequences<T>(job_.dq, bundle), bundle.count, first, count, shape_);
    }

    KeyScores products(const float* keys, const float* lanes_panel, std::int64_t lanes, float* scores,
                       Prefetcher* ahead) const {
        return panels_.sizes.scores_of(keys, lanes_panel, lanes, shape_, scores, ahead);
    }

    // dq of position g: for each query the sum over keys.
    RowProduct to_queries(int g, std::int64_t count, std::int64_t lanes, Prefetcher* ahead) const {
        const ChunkSizes& sizes = panels_.sizes;
        return {panels_.score_grads + g, sizes.group, lanes, panels_.key_rows + g * shape_.entries * sizes.stride,
                sizes.stride, shape_.entries, panels_.dq + g * count * sizes.stride, sizes.stride, count, sizes.stride,
                false, ahead};
    }

    // For each key of position g the sum over the queries of the chunk.
    RowProduct to_keys(int g, std::int64_t count, std::int64_t lanes, const float* weights, const float* terms,
                       float* result, bool accumulate, Prefetcher* ahead) const {
        const ChunkSizes& sizes = panels_.sizes;
        return {weights + g, lanes, sizes.group, terms + g * count * sizes.stride, sizes.stride, count,
                result + g * shape_.entries * sizes.stride, sizes.stride, shape_.entries, sizes.stride, accumulate, ahead};
    }

    const PointwiseBackward& job_;
    const PointwiseShape& shape_;
    Panels panels_;
};

}  // namespace

std::int64_t pointwise_backward_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Panels(shape, scratch);
    return scratch.used();
}

void pointwise_backward(const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const Backward<decltype(type)> backward(job, Scratch(scratch));
        for_each_bundle(job.shape, group_for(job.shape.entries), first, last, backward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
