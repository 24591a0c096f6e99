// Gradients with positions in lanes. Probabilities are computed anew, with their own sums, and sum(P * dP) takes the
// place of sum(grad_out * out): neither out nor lse is read.
#include "kernels/pointwise_families.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_panels.hpp"
#include "kernels/pointwise_products.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// Panels of q, k and grad_out are needed twice. Up to this size they are kept; else they are loaded again.
constexpr std::int64_t kKeptFloats = (1 << 20) / static_cast<std::int64_t>(sizeof(float));

struct Panels {
    std::int64_t size;  // of one panel
    bool keeps;
    float *queries, *keys, *grads;
    float *values, *probabilities, *score_grads, *lse, *grad_lse;

    Panels(const PointwiseShape& shape, Scratch& scratch) : size(shape.entries * kBlock) {
        const std::int64_t all = panels_of(shape) * size;
        keeps = 3 * all <= kKeptFloats;
        for (float** panel : {&queries, &keys, &grads}) *panel = scratch.take(keeps ? all : size);
        values = scratch.take(size);
        const std::int64_t scores = Families(shape).score_count();
        for (float** square : {&probabilities, &score_grads}) *square = scratch.take(scores);
        for (float** numbers : {&lse, &grad_lse}) *numbers = scratch.take(shape.entries * kWidth);
    }

    float* result() const { return values; }  // which are done with once there are gradients of scores

    float* of(float* panels, const Channels& channels) const {
        return keeps ? panels + channels.first / kWidth * size : panels;
    }
};

template <typename T>
class Backward {
public:
    Backward(const PointwiseBackward& job, Scratch scratch)
        : job_(job), shape_(job.shape), families_(job.shape), panels_(job.shape, scratch) {
        for (std::int64_t i = 0; i < shape_.entries * kWidth; ++i) panels_.grad_lse[i] = 0.0f;
    }

    void operator()(const Bundle<kWidth>& bundle, const Bundle<kWidth>* upcoming) const {
        Ahead ahead(shape_, upcoming);
        for (const PointwiseInput* tensor : {&job_.q, &job_.k, &job_.v, &job_.grad_out}) ahead.add(*tensor);
        ahead.spread_over(weight());
        const Inputs inputs(job_, bundle);
        add_scores(inputs, ahead);
        softmax(families_, shape_, panels_.probabilities, panels_.lse);
        if (job_.grad_lse.data)
            load_numbers(Sequences<const float>(job_.grad_lse, bundle), shape_.entries, panels_.grad_lse);
        softmax_gradient(families_, shape_, panels_.probabilities, panels_.grad_lse, panels_.score_grads);
        write(inputs, bundle, ahead);
    }

private:
    struct Inputs {
        Sequences<const T> q, k, v, grad;

        Inputs(const PointwiseBackward& job, const Bundle<kWidth>& bundle)
            : q(job.q, bundle), k(job.k, bundle), v(job.v, bundle), grad(job.grad_out, bundle) {}
    };

    std::int64_t weight() const {
        const std::int64_t loads = panels_.keeps ? 4 : 7;
        const std::int64_t blocks = loads * kLoadWeight + 3 * kStoreWeight;
        return panels_of(shape_) *
               (shape_.entries * blocks + 2 * products_weight(families_) + 3 * mix_weight(families_));
    }

    void load_kept(const Inputs& inputs, const Channels& channels, Ahead& ahead) const {
        load_panel(inputs.q, shape_.entries, channels, panels_.of(panels_.queries, channels), ahead);
        load_panel(inputs.k, shape_.entries, channels, panels_.of(panels_.keys, channels), ahead);
        load_panel(inputs.grad, shape_.entries, channels, panels_.of(panels_.grads, channels), ahead);
    }

    void add_scores(const Inputs& inputs, Ahead& ahead) const {
        for (std::int64_t c = 0; c < shape_.channels; c += kWidth) {
            const Channels channels(c, shape_.channels);
            load_kept(inputs, channels, ahead);
            add_products(families_, panels_.of(panels_.queries, channels), panels_.of(panels_.keys, channels), channels,
                         panels_.probabilities, ahead);
            load_panel(inputs.v, shape_.entries, channels, panels_.values, ahead);
            add_products(families_, panels_.of(panels_.grads, channels), panels_.values, channels, panels_.score_grads,
                         ahead);
        }
    }

    void write(const Inputs& inputs, const Bundle<kWidth>& bundle, Ahead& ahead) const {
        const Sequences<T> dq(job_.dq, bundle), dk(job_.dk, bundle), dv(job_.dv, bundle);
        for (std::int64_t c = 0; c < shape_.channels; c += kWidth) {
            const Channels channels(c, shape_.channels);
            if (!panels_.keeps) load_kept(inputs, channels, ahead);
            const auto write_one = [&](Weights weights, float* x, const Sequences<T>& to) {
                mix(families_, weights, panels_.of(x, channels), channels, panels_.result(), ahead);
                store_panel(panels_.result(), to, shape_.entries, bundle.count, channels, shape_.stream, ahead);
            };
            write_one({panels_.score_grads, false}, panels_.keys, dq);
            write_one({panels_.score_grads, true}, panels_.queries, dk);
            write_one({panels_.probabilities, true}, panels_.grads, dv);
        }
    }

    const PointwiseBackward& job_;
    const PointwiseShape& shape_;
    const Families families_;
    const Panels panels_;
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
        for_each_bundle<kWidth>(job.shape, first, last, backward);
    });
    stream_fence();
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
