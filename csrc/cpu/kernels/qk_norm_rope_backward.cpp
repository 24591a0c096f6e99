#include "kernels/qk_norm_rope_rows.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// Heads whose sums are gathered before their square roots are taken together.
constexpr int kGroup = 16;
static_assert(kGroup % kWidth == 0, "groups are whole vectors");

FOURREAL_ALWAYS_INLINE Vec inverse_rms(Vec sum_of_squares, Vec channels, Vec eps) {
    return broadcast(1.0f) / sqrt(sum_of_squares / channels + eps);
}

// With n = x / rms(x) and g the gradient turned back: dw = sum of g n, dx = (g w - n mean(g w n)) / rms(x).
template <typename T, bool kNormalises, bool kRotates>
class BackwardKernel {
public:
    explicit BackwardKernel(const NormRopeBackwardRun& run)
        : run_(run), row_(run.channels), angles_(run, true),
          sums_{run.tables + 2 * run.table_stride, run.tables + 3 * run.table_stride} {}

    void operator()() {
        if (kNormalises) clear_sums();
        for (std::int64_t token = 0; token < run_.tokens; ++token) {
            if (kRotates) angles_.load_token(token);
            for (std::int64_t head = 0; head < run_.heads; head += kGroup)
                for (int t = 0; t < kQueryAndKey; ++t) do_heads(t, token, head);
        }
        if (kNormalises) add_sums();
    }

private:
    struct Scales {
        alignas(64) float inverse[kGroup];
        alignas(64) float mean[kGroup];  // of g w n
    };

    void do_heads(int t, std::int64_t token, std::int64_t begin) const {
        const int count = static_cast<int>(run_.heads - begin < kGroup ? run_.heads - begin : kGroup);
        Scales scales;
        if (kNormalises) find_scales(t, token, begin, count, scales);
        for (int i = 0; i < count; ++i)
            write_row(t, token, begin + i, kNormalises ? scales.inverse[i] : 1.0f, kNormalises ? scales.mean[i] : 0.0f);
    }

    void find_scales(int t, std::int64_t token, std::int64_t begin, int count, Scales& scales) const {
        for (int i = 0; i < count; ++i)
            sum_row(row_of<const T>(run_.grad[t], token, begin + i), row_of<const T>(run_.in[t], token, begin + i),
                    run_.weights[t], &scales.inverse[i], &scales.mean[i]);
        for (int i = count; i < kGroup; ++i) scales.inverse[i] = scales.mean[i] = 0.0f;
        const Vec channels = broadcast(static_cast<float>(run_.channels)), eps = broadcast(run_.eps);
        for (int i = 0; i < count; i += kWidth) {
            const Vec inverse = inverse_rms(load(scales.inverse + i), channels, eps);
            store(scales.inverse + i, inverse);
            store(scales.mean + i, load(scales.mean + i) * inverse / channels);
        }
    }

    // The sums of x^2 and of g w x.
    void sum_row(const T* grad, const T* x, const float* weight, float* squares, float* products) const {
        Vec square = zero(), product = zero();
        const auto add = [&](Vec value, Vec g, std::int64_t channel) {
            square = fmadd(value, value, square);
            product = fmadd(turn_back(g, channel) * load_weight(row_, weight, channel), value, product);
        };
        if (row_.is_short()) {
            add(load_first(x, row_.short_count()), load_first(grad, row_.short_count()), 0);
        } else {
            for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
                add(load(x + channel), load(grad + channel), channel);
            if (row_.repeated != 0) add(without_repeated(row_, load(x + row_.last)), load(grad + row_.last), row_.last);
        }
        *squares = reduce_add(square);
        *products = reduce_add(product);
    }

    void write_row(int t, std::int64_t token, std::int64_t head, float inverse, float mean) const {
        const T* grad = row_of<const T>(run_.grad[t], token, head);
        const T* x = row_of<const T>(run_.in[t], token, head);
        T* out = row_of<T>(run_.out[t], token, head);
        float* sums = sums_[t];
        const Vec scale = broadcast(inverse), minus_mean = broadcast(-mean);
        const auto differentiate = [&](Vec value, Vec g, std::int64_t channel, float* sum) {
            g = turn_back(g, channel);
            if (!kNormalises) return g;
            const Vec normalised = value * scale;
            store(sum, fmadd(g, normalised, load(sum)));
            return fmadd(normalised, minus_mean, g * load_weight(row_, run_.weights[t], channel)) * scale;
        };
        if (row_.is_short()) {
            const int count = row_.short_count();
            return store_first(out, differentiate(load_first(x, count), load_first(grad, count), 0, sums), count);
        }
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
            store(out + channel, differentiate(load(x + channel), load(grad + channel), channel, sums + channel));
        // The sums of the last vector have a vector of their own, from which add_sums leaves out the repeated lanes.
        if (row_.repeated != 0)
            store(out + row_.last,
                  differentiate(load(x + row_.last), load(grad + row_.last), row_.last, sums + row_.whole));
    }

    FOURREAL_ALWAYS_INLINE Vec turn_back(Vec grad, std::int64_t channel) const {
        return kRotates ? angles_.turn(grad, channel) : grad;
    }

    void clear_sums() const {
        for (int t = 0; t < kQueryAndKey; ++t)
            for (std::int64_t i = 0; i < run_.table_stride; ++i) sums_[t][i] = 0.0f;
    }

    void add_sums() const {
        for (int t = 0; t < kQueryAndKey; ++t) {
            const std::int64_t shift = row_.is_short() ? 0 : row_.repeated;
            for (std::int64_t i = 0; i < row_.whole; ++i) run_.weight_grads[t][i] += sums_[t][i];
            for (std::int64_t i = row_.whole; i < row_.channels; ++i) run_.weight_grads[t][i] += sums_[t][i + shift];
        }
    }

    const NormRopeBackwardRun& run_;
    const RowShape row_;
    AngleTables angles_;
    float* const sums_[kQueryAndKey];
};

}  // namespace

void norm_rope_backward_run(const NormRopeBackwardRun& run) {
    with_parts(run, [&](auto type, auto normalises, auto rotates) {
        BackwardKernel<decltype(type), normalises, rotates>{run}();
    });
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
