// Pointwise attention with positions in lanes: only the way in and out of the lanes shuffles; products and softmax are
// vertical. Every number of the tensors is read, or written, once.
#include "kernels/pointwise_families.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_panels.hpp"
#include "kernels/pointwise_products.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

struct Panels {
    float *queries, *keys, *scores, *lse;

    Panels(const PointwiseShape& shape, Scratch& scratch) {
        queries = scratch.take(shape.entries * kBlock);
        keys = scratch.take(shape.entries * kBlock);
        scores = scratch.take(Families(shape).score_count());
        lse = scratch.take(shape.entries * kWidth);
    }

    float* values() const { return queries; }  // which are done with once there are scores
    float* out() const { return keys; }
};

template <typename T>
class Forward {
public:
    Forward(const PointwiseForward& job, Scratch scratch)
        : job_(job), shape_(job.shape), families_(job.shape), panels_(job.shape, scratch) {}

    void operator()(const Bundle<kWidth>& bundle, const Bundle<kWidth>* upcoming) const {
        Ahead ahead(shape_, upcoming);
        for (const PointwiseInput* tensor : {&job_.q, &job_.k, &job_.v}) ahead.add(*tensor);
        ahead.spread_over(weight());
        add_scores(bundle, ahead);
        softmax(families_, shape_, panels_.scores, panels_.lse);
        if (job_.lse.data) store_numbers(panels_.lse, Sequences<float>(job_.lse, bundle), shape_.entries, bundle.count);
        write(bundle, ahead);
    }

private:
    std::int64_t weight() const {
        const std::int64_t blocks = shape_.entries * (3 * kLoadWeight + kStoreWeight);
        return panels_of(shape_) * (blocks + products_weight(families_) + mix_weight(families_));
    }

    void add_scores(const Bundle<kWidth>& bundle, Ahead& ahead) const {
        const Sequences<const T> q(job_.q, bundle), k(job_.k, bundle);
        for (std::int64_t c = 0; c < shape_.channels; c += kWidth) {
            const Channels channels(c, shape_.channels);
            load_panel(q, shape_.entries, channels, panels_.queries, ahead);
            load_panel(k, shape_.entries, channels, panels_.keys, ahead);
            add_products(families_, panels_.queries, panels_.keys, channels, panels_.scores, ahead);
        }
    }

    void write(const Bundle<kWidth>& bundle, Ahead& ahead) const {
        const Sequences<const T> v(job_.v, bundle);
        const Sequences<T> out(job_.out, bundle);
        for (std::int64_t c = 0; c < shape_.channels; c += kWidth) {
            const Channels channels(c, shape_.channels);
            load_panel(v, shape_.entries, channels, panels_.values(), ahead);
            mix(families_, {panels_.scores, false}, panels_.values(), channels, panels_.out(), ahead);
            store_panel(panels_.out(), out, shape_.entries, bundle.count, channels, shape_.stream, ahead);
        }
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    const Families families_;
    const Panels panels_;
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
        for_each_bundle<kWidth>(job.shape, first, last, forward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
