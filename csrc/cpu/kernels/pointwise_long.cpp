// Pointwise attention one query, or one key, at a time: for sequences too long for panels with positions in lanes.
#include "kernels/pointwise_bundle.hpp"
#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_softmax.hpp"
#include "kernels/rows.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// The entries that an entry sees, which are also those that see it: calls visit(other) for each.
template <typename Visit>
FOURREAL_ALWAYS_INLINE void for_neighbours(const PointwiseShape& shape, std::int64_t entry, const Visit& visit) {
    const std::int64_t columns = shape.columns(), row = entry / columns, column = entry % columns;
    for (std::int64_t c = 0; c < columns; ++c) visit(row * columns + c);
    for (std::int64_t r = 0; r < shape.rows; ++r)
        if (r != row) visit(r * columns + column);
}

template <typename A, typename B>
float dot(const A* a, const B* b, std::int64_t channels) {
    Vec sum = zero();
    for (std::int64_t c = 0; c < channels; c += kWidth)
        sum = fmadd(load_channels(a, c, channels), load_channels(b, c, channels), sum);
    return reduce_add(sum);
}

// sum[:] += factor * row[:]
template <typename T>
void add_scaled(float factor, const T* row, std::int64_t channels, float* sum) {
    const Vec factors = broadcast(factor);
    for (std::int64_t c = 0; c < channels; c += kWidth)
        store(sum + c, fmadd(factors, load_channels(row, c, channels), load(sum + c)));
}

void clear(float* row, std::int64_t channels) {
    for (std::int64_t c = 0; c < channels; c += kWidth) store(row + c, zero());
}

template <typename T>
void store_row(const float* from, std::int64_t channels, T* to) {
    for (std::int64_t c = 0; c < channels; c += kWidth) store_channels(to, c, channels, load(from + c));
}

struct Memory {
    float *first_sum, *second_sum, *scores;

    Memory(const PointwiseShape& shape, Scratch& scratch) {
        const std::int64_t stride = (shape.channels + kWidth - 1) / kWidth * kWidth;
        first_sum = scratch.take(stride);
        second_sum = scratch.take(stride);
        // Softmax takes whole vectors, of which one lane is used.
        scores = scratch.take((shape.columns() + shape.rows - 1) * kWidth);
    }
};

template <typename T>
class LongForward {
public:
    LongForward(const PointwiseForward& job, Scratch scratch)
        : job_(job), shape_(job.shape), memory_(job.shape, scratch) {}

    void operator()(const Bundle<1>& bundle, const Bundle<1>*) const {
        for (std::int64_t entry = 0; entry < shape_.entries; ++entry) attend(bundle, entry);
    }

private:
    void attend(const Bundle<1>& bundle, std::int64_t entry) const {
        const Sequences<const T, 1> q(job_.q, bundle), k(job_.k, bundle), v(job_.v, bundle);
        std::int64_t keys = 0;
        for_neighbours(shape_, entry, [&](std::int64_t key) {
            store(memory_.scores + kWidth * keys++, broadcast(dot(q.row(entry, 0), k.row(key, 0), shape_.channels)));
        });
        const ScoreColumn column{memory_.scores, keys};
        const Vec factor = broadcast(shape_.scale * kLog2E), largest = column.largest(factor, lowest());
        const Vec sum = column.exponentiate(factor, largest, zero());
        column.multiply(broadcast(1.0f) / sum);
        clear(memory_.first_sum, shape_.channels);
        keys = 0;
        for_neighbours(shape_, entry, [&](std::int64_t key) {
            add_scaled(memory_.scores[kWidth * keys++], v.row(key, 0), shape_.channels, memory_.first_sum);
        });
        store_row(memory_.first_sum, shape_.channels, Sequences<T, 1>(job_.out, bundle).row(entry, 0));
        if (job_.lse.data) store_first(Sequences<float, 1>(job_.lse, bundle).row(entry, 0), log_sum(largest, sum), 1);
    }

    const PointwiseForward& job_;
    const PointwiseShape& shape_;
    Memory memory_;
};

template <typename T>
class LongBackward {
public:
    LongBackward(const PointwiseBackward& job, Scratch scratch)
        : job_(job), shape_(job.shape), memory_(job.shape, scratch) {}

    void operator()(const Bundle<1>& bundle, const Bundle<1>*) const {
        const Rows rows(job_, bundle);
        for (std::int64_t entry = 0; entry < shape_.entries; ++entry) {
            query_gradient(rows, entry, Sequences<T, 1>(job_.dq, bundle).row(entry, 0));
            key_gradients(rows, entry, Sequences<T, 1>(job_.dk, bundle).row(entry, 0),
                          Sequences<T, 1>(job_.dv, bundle).row(entry, 0));
        }
    }

private:
    struct Rows {
        Sequences<const T, 1> q, k, v, out, grad_out;
        Sequences<const float, 1> lse;
        Sequences<const float, 1> grad_lse;
        bool has_grad_lse;

        Rows(const PointwiseBackward& job, const Bundle<1>& bundle)
            : q(job.q, bundle), k(job.k, bundle), v(job.v, bundle), out(job.out, bundle),
              grad_out(job.grad_out, bundle), lse(job.lse, bundle),
              grad_lse(job.grad_lse.data ? job.grad_lse : job.lse, bundle),
              has_grad_lse(job.grad_lse.data != nullptr) {}
    };

    float offset(const Rows& rows, std::int64_t query) const {
        const float from_out = dot(rows.grad_out.row(query, 0), rows.out.row(query, 0), shape_.channels);
        return rows.has_grad_lse ? from_out - *rows.grad_lse.row(query, 0) : from_out;
    }

    float probability(const Rows& rows, std::int64_t query, std::int64_t key) const {
        const float product = dot(rows.q.row(query, 0), rows.k.row(key, 0), shape_.channels);
        const Vec largest = broadcast(*rows.lse.row(query, 0) * kLog2E);
        alignas(kCacheLine) float lanes[kWidth];
        store(lanes, weight(broadcast(product), broadcast(shape_.scale * kLog2E), largest));
        return lanes[0];
    }

    float score_gradient(const Rows& rows, std::int64_t query, std::int64_t key, float p, float offset) const {
        return p * (dot(rows.grad_out.row(query, 0), rows.v.row(key, 0), shape_.channels) - offset) * shape_.scale;
    }

    void query_gradient(const Rows& rows, std::int64_t query, T* dq) const {
        const float sum = offset(rows, query);
        clear(memory_.first_sum, shape_.channels);
        for_neighbours(shape_, query, [&](std::int64_t key) {
            const float p = probability(rows, query, key);
            const float ds = score_gradient(rows, query, key, p, sum);
            add_scaled(ds, rows.k.row(key, 0), shape_.channels, memory_.first_sum);
        });
        store_row(memory_.first_sum, shape_.channels, dq);
    }

    void key_gradients(const Rows& rows, std::int64_t key, T* dk, T* dv) const {
        clear(memory_.first_sum, shape_.channels);
        clear(memory_.second_sum, shape_.channels);
        for_neighbours(shape_, key, [&](std::int64_t query) {
            const float p = probability(rows, query, key);
            const float ds = score_gradient(rows, query, key, p, offset(rows, query));
            add_scaled(ds, rows.q.row(query, 0), shape_.channels, memory_.first_sum);
            add_scaled(p, rows.grad_out.row(query, 0), shape_.channels, memory_.second_sum);
        });
        store_row(memory_.first_sum, shape_.channels, dk);
        store_row(memory_.second_sum, shape_.channels, dv);
    }

    const PointwiseBackward& job_;
    const PointwiseShape& shape_;
    Memory memory_;
};

}  // namespace

std::int64_t pointwise_long_scratch(const PointwiseShape& shape) {
    Scratch scratch(nullptr);
    Memory(shape, scratch);
    return scratch.used();
}

void pointwise_long_forward(const PointwiseForward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const LongForward<decltype(type)> forward(job, Scratch(scratch));
        for_each_bundle<1>(job.shape, first, last, forward);
    });
}

void pointwise_long_backward(const PointwiseBackward& job, std::int64_t first, std::int64_t last, float* scratch) {
    with_storage(job.shape.dtype, [&](auto type) {
        const LongBackward<decltype(type)> backward(job, Scratch(scratch));
        for_each_bundle<1>(job.shape, first, last, backward);
    });
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
