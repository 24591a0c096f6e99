#include "kernels/sync_exchange_lanes.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

template <typename T, bool kSoft>
struct BackwardRow {
    using Scalar = typename Lanes<T>::Scalar;
    using Wide = typename Lanes<T>::Wide;
    static constexpr int kOutputs = kSoft ? 2 : 1;
    const T* grads[2];
    const T* streams[2];
    T* outs[2];
    const Scalar* mix[2][2];
    Scalar* sums;
    std::int64_t sums_stride;
    std::int64_t grads_ahead[2];    // elements to the row to prefetch, 0 where there is none
    std::int64_t streams_ahead[2];

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void add(const Access& access, int index, std::int64_t c, Wide x) const {
        Scalar* sum = sums + index * sums_stride + c;
        store(sum, load(sum) + access.keep(x));
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) const {
        for (int s = 0; s < 2; ++s) {
            prefetch(grads[s] + c + grads_ahead[s]);
            prefetch(streams[s] + c + streams_ahead[s]);
        }
        const Wide x[2] = {access.get(streams[0] + c), access.get(streams[1] + c)};
        Wide g[2] = {access.get(grads[0] + c), access.get(grads[1] + c)};
        if (!kSoft) g[0] = g[0] + g[1];
        for (int s = 0; s < 2; ++s) {
            Wide dx = access.get(mix[0][s] + c) * g[0];
            if (kSoft) dx = g[s] + (dx + access.get(mix[1][s] + c) * g[1]);
            access.put(outs[s] + c, dx);
        }
        for (int o = 0; o < kOutputs; ++o) {
            add(access, o, c, g[o]);
            for (int s = 0; s < 2; ++s) add(access, kOutputs + 2 * o + s, c, g[o] * x[s]);
        }
    }
};

template <typename T, bool kSoft>
void backward_rows(const BackwardRun& run) {
    using Scalar = typename Lanes<T>::Scalar;
    BackwardRow<T, kSoft> step{};
    for (int o = 0; o < 2; ++o)
        for (int s = 0; s < 2; ++s) step.mix[o][s] = static_cast<const Scalar*>(run.mix[o][s]);
    step.sums = static_cast<Scalar*>(run.sums);
    step.sums_stride = run.sums_stride;
    const std::int64_t rows_ahead = prefetch_rows<T>(run.channels);
    for (std::int64_t row = 0; row < run.rows; ++row) {
        const std::int64_t ahead = row + rows_ahead < run.rows ? rows_ahead : 0;
        for (int s = 0; s < 2; ++s) {
            step.grads_ahead[s] = ahead * run.grads[s].stride;
            step.streams_ahead[s] = ahead * run.streams[s].stride;
            step.grads[s] = row_of<T>(run.grads[s], row);
            step.streams[s] = row_of<T>(run.streams[s], row);
            step.outs[s] = row_of<T>(run.outs[s], row);
        }
        for_each_vector<Lanes<T>::kCount>(run.channels, step);
    }
}

template <typename T>
struct BackwardKernel {
    static void run(const BackwardRun& run) {
        if (run.soft)
            backward_rows<T, true>(run);
        else
            backward_rows<T, false>(run);
    }
};

}  // namespace

void exchange_rows_backward(const BackwardRun& run) { for_dtype<BackwardKernel>(run); }

}  // namespace fourreal::cpu::FOURREAL_SIMD
