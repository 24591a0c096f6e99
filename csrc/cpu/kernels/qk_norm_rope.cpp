#include <cmath>

#include "kernels/qk_norm_rope_rows.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// Rows of q and k of one head together. Taken one tensor after the other, rows of k would be read right after rows of q
// at the same place in a page were written, which processors take for a dependence. With kVectors vectors in a row, each
// is held in registers between its sum and its turn; 0 is any number of them.
template <typename T, bool kNormalises, bool kRotates, int kVectors>
class ForwardKernel {
public:
    explicit ForwardKernel(const NormRopeForwardRun& run) : run_(run), row_(run.channels), angles_(run, false) {}

    void operator()() {
        for (std::int64_t token = 0; token < run_.tokens; ++token) {
            if (kRotates) angles_.load_token(token);
            for (std::int64_t head = 0; head < run_.heads; ++head) do_head(token, head);
        }
    }

private:
    FOURREAL_ALWAYS_INLINE void do_head(std::int64_t token, std::int64_t head) const {
        const T* in[kQueryAndKey];
        T* out[kQueryAndKey];
        for (int t = 0; t < kQueryAndKey; ++t) {
            in[t] = row_of<const T>(run_.in[t], token, head);
            out[t] = row_of<T>(run_.out[t], token, head);
        }
        if constexpr (kVectors > 0) {
            do_registers(in, out);
        } else {
            for (int t = 0; t < kQueryAndKey; ++t)
                write_row(in[t], out[t], run_.weights[t], kNormalises ? inverse_rms_of(sum_of_squares(in[t])) : 1.0f);
        }
    }

    FOURREAL_ALWAYS_INLINE void do_registers(const T* const (&in)[kQueryAndKey], T* const (&out)[kQueryAndKey]) const {
        Vec x[kQueryAndKey][kVectors];
        for (int t = 0; t < kQueryAndKey; ++t)
            for (int j = 0; j < kVectors; ++j) x[t][j] = load(in[t] + channel_of(j));
        for (int t = 0; t < kQueryAndKey; ++t) {
            const Vec scale = broadcast(kNormalises ? inverse_rms_of(sum_of_squares(x[t])) : 1.0f);
            for (int j = 0; j < kVectors; ++j)
                store(out[t] + channel_of(j), transform(x[t][j], scale, run_.weights[t], channel_of(j)));
        }
    }

    // The last vector ends with the row.
    FOURREAL_ALWAYS_INLINE std::int64_t channel_of(int j) const { return j + 1 < kVectors ? j * kWidth : row_.last; }

    FOURREAL_ALWAYS_INLINE float inverse_rms_of(float sum_of_squares) const {
        return 1.0f / std::sqrt(sum_of_squares / static_cast<float>(run_.channels) + run_.eps);
    }

    template <int kCount>
    FOURREAL_ALWAYS_INLINE float sum_of_squares(const Vec (&x)[kCount]) const {
        const Vec last = without_repeated(row_, x[kCount - 1]);
        Vec sum = last * last;
        for (int j = 0; j + 1 < kCount; ++j) sum = fmadd(x[j], x[j], sum);
        return reduce_add(sum);
    }

    float sum_of_squares(const T* x) const {
        if (row_.is_short()) {
            const Vec value = load_first(x, row_.short_count());
            return reduce_add(value * value);
        }
        Vec sum = zero();
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth) {
            const Vec value = load(x + channel);
            sum = fmadd(value, value, sum);
        }
        if (row_.repeated != 0) {
            const Vec value = without_repeated(row_, load(x + row_.last));
            sum = fmadd(value, value, sum);
        }
        return reduce_add(sum);
    }

    void write_row(const T* x, T* out, const float* weight, float inverse) const {
        const Vec scale = broadcast(inverse);
        if (row_.is_short())
            return store_first(out, transform(load_first(x, row_.short_count()), scale, weight, 0), row_.short_count());
        // Before the stores: in place, they write some of it.
        const Vec last = row_.repeated != 0 ? load(x + row_.last) : zero();
        for (std::int64_t channel = 0; channel < row_.whole; channel += kWidth)
            store(out + channel, transform(load(x + channel), scale, weight, channel));
        if (row_.repeated != 0) store(out + row_.last, transform(last, scale, weight, row_.last));
    }

    // The inverse comes last: nothing else has to wait for the sum over the row.
    FOURREAL_ALWAYS_INLINE Vec transform(Vec x, Vec inverse, const float* weight, std::int64_t channel) const {
        if (kNormalises) x = x * load_weight(row_, weight, channel);
        if (kRotates) x = angles_.turn(x, channel);
        return kNormalises ? x * inverse : x;
    }

    const NormRopeForwardRun& run_;
    const RowShape row_;
    AngleTables angles_;
};

template <typename T, bool kNormalises, bool kRotates>
void run_forward(const NormRopeForwardRun& run) {
    if constexpr (kNormalises && kRotates) {
        switch ((run.channels + kWidth - 1) / kWidth) {
            case 3: return ForwardKernel<T, true, true, 3>{run}();  // head dims of 40, 64 and 128 in AVX-512
            case 4: return ForwardKernel<T, true, true, 4>{run}();
            case 8: return ForwardKernel<T, true, true, 8>{run}();
            default: break;
        }
    }
    ForwardKernel<T, kNormalises, kRotates, 0>{run}();
}

}  // namespace

void norm_rope_forward_run(const NormRopeForwardRun& run) {
    with_parts(run, [&](auto type, auto normalises, auto rotates) { run_forward<decltype(type), normalises, rotates>(run); });
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
