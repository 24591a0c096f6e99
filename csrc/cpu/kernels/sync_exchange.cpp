#include "kernels/sync_exchange.hpp"

#include "kernels/sync_exchange_lanes.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

constexpr bool is_dense(Mix mix) { return mix != Mix::kChannelHard && mix != Mix::kChannelSoft; }

// One row's exchanged streams, a vector at a time. Products and sums are rounded one by one, so that they have the same bits
// for every instruction set.
template <typename T, Mix kMix, bool kBranches>
struct RowMix {
    using Scalar = typename Lanes<T>::Scalar;
    using Wide = typename Lanes<T>::Wide;

    const T* view;
    const T* time;
    const T* view_branch;
    const T* time_branch;
    const Scalar* mixed;
    std::int64_t channels;
    const Scalar* from[2][2];
    const Scalar* offset[2];
    const Scalar* branch_gate[2];
    std::int64_t rows_ahead;
    std::int64_t ahead[2];         // elements from a row of a stream to the one to prefetch
    std::int64_t branch_ahead[2];  // 0 where there is none: that prefetch does nothing

    explicit RowMix(const ExchangeRun& run) : channels(run.channels), rows_ahead(prefetch_rows<T>(run.channels)) {
        for (int o = 0; o < 2; ++o) {
            for (int s = 0; s < 2; ++s) from[o][s] = static_cast<const Scalar*>(run.factors.mix[o][s]);
            offset[o] = static_cast<const Scalar*>(run.factors.offset[o]);
            branch_gate[o] = static_cast<const Scalar*>(run.factors.branch_gate[o]);
        }
    }

    FOURREAL_ALWAYS_INLINE void start(const ExchangeRun& run, std::int64_t row) {
        view = row_of<T>(run.streams[0], row);
        time = row_of<T>(run.streams[1], row);
        if (kBranches) {
            view_branch = row_of<T>(run.branches[0], row);
            time_branch = row_of<T>(run.branches[1], row);
        }
        if (is_dense(kMix)) mixed = row_of<Scalar>(run.mixed, row);
        const std::int64_t rows = row + rows_ahead < run.rows ? rows_ahead : 0;
        for (int s = 0; s < 2; ++s) {
            ahead[s] = rows * run.streams[s].stride;
            if (kBranches) branch_ahead[s] = rows * run.branches[s].stride;
        }
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE Wide stream(const Access& access, int s, std::int64_t c) const {
        const T* from_stream = (s == 0 ? view : time) + c;
        prefetch(from_stream + ahead[s]);
        const Wide x = access.get(from_stream);
        if (!kBranches) return x;
        const T* from_branch = (s == 0 ? view_branch : time_branch) + c;
        prefetch(from_branch + branch_ahead[s]);
        return x + access.get(branch_gate[s] + c) * access.get(from_branch);
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE Wide of_both(const Access& access, int o, Wide x_view, Wide x_time, std::int64_t c) const {
        return access.get(from[o][0] + c) * x_view + access.get(from[o][1] + c) * x_time + access.get(offset[o] + c);
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE Wide of_product(const Access& access, int o, std::int64_t c) const {
        return access.get(from[o][0] + c) * access.get(mixed + o * channels + c) + access.get(offset[o] + c);
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void get(const Access& access, std::int64_t c, Wide& y_view, Wide& y_time) const {
        if constexpr (kMix == Mix::kChannelHard) {
            y_view = y_time = of_both(access, 0, stream(access, 0, c), stream(access, 1, c), c);
        } else if constexpr (kMix == Mix::kChannelSoft) {
            const Wide x_view = stream(access, 0, c), x_time = stream(access, 1, c);
            y_view = x_view + of_both(access, 0, x_view, x_time, c);
            y_time = x_time + of_both(access, 1, x_view, x_time, c);
        } else if constexpr (kMix == Mix::kDenseHard) {
            y_view = y_time = of_product(access, 0, c);
        } else if constexpr (kMix == Mix::kDenseSoft) {
            y_view = stream(access, 0, c) + of_product(access, 0, c);
            y_time = stream(access, 1, c) + of_product(access, 1, c);
        } else {
            y_view = of_product(access, 0, c);
            y_time = of_product(access, 1, c);
        }
    }
};

template <typename T, Mix kMix>
struct WriteRow {
    RowMix<T, kMix, false> mix;
    T* out_view;
    T* out_time;

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) const {
        typename Lanes<T>::Wide y_view, y_time;
        mix.get(access, c, y_view, y_time);
        access.put(out_view + c, y_view);
        access.put(out_time + c, y_time);
    }
};

template <typename T, Mix kMix>
void write_rows(const ExchangeRun& run) {
    WriteRow<T, kMix> step{RowMix<T, kMix, false>(run), nullptr, nullptr};
    for (std::int64_t row = 0; row < run.rows; ++row) {
        step.mix.start(run, row);
        step.out_view = row_of<T>(run.outs[0], row);
        step.out_time = row_of<T>(run.outs[1], row);
        for_each_vector<Lanes<T>::kCount>(run.channels, step);
    }
}

// The norm reads a row three times: it is kept, unrounded, in `row`, which stays in the first cache.
template <typename T, Mix kMix>
struct KeepRow {
    using Scalar = typename Lanes<T>::Scalar;
    using Wide = typename Lanes<T>::Wide;
    RowMix<T, kMix, true> mix;
    Scalar* row[2];
    Wide sums[2];

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) {
        Wide y_view, y_time;
        mix.get(access, c, y_view, y_time);
        store(row[0] + c, y_view);
        store(row[1] + c, y_time);
        sums[0] = sums[0] + y_view;
        sums[1] = sums[1] + y_time;
    }
};

template <typename T>
struct SumSquares {
    using Wide = typename Lanes<T>::Wide;
    const typename Lanes<T>::Scalar* row[2];
    Wide mean[2];
    Wide squares[2];

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) {
        for (int s = 0; s < 2; ++s) {
            const Wide centred = access.keep(load(row[s] + c) - mean[s]);
            squares[s] = fmadd(centred, centred, squares[s]);
        }
    }
};

template <typename T>
struct WriteNorm {
    using Scalar = typename Lanes<T>::Scalar;
    using Wide = typename Lanes<T>::Wide;
    const Scalar* row[2];
    Wide mean[2];
    Wide inverse[2];
    T* outs[2];
    T* norms[2];
    const Scalar* scale[2];
    const Scalar* shift[2];

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) const {
        for (int s = 0; s < 2; ++s) {
            const Wide x = load(row[s] + c);
            access.put(outs[s] + c, x);
            const Wide normalised = (x - mean[s]) * inverse[s];
            access.put(norms[s] + c, fmadd(normalised, access.get(scale[s] + c), access.get(shift[s] + c)));
        }
    }
};

template <typename T, Mix kMix>
void write_norm_rows(const ExchangeRun& run) {
    using Scalar = typename Lanes<T>::Scalar;
    constexpr int kCount = Lanes<T>::kCount;
    const Scalar count = static_cast<Scalar>(run.channels);
    const Scalar eps = static_cast<Scalar>(run.eps);
    KeepRow<T, kMix> keep{RowMix<T, kMix, true>(run), {}, {}};
    SumSquares<T> squares{};
    WriteNorm<T> write{};
    for (int s = 0; s < 2; ++s) {
        keep.row[s] = static_cast<Scalar*>(run.scratch) + s * padded_channels(run.channels);
        squares.row[s] = write.row[s] = keep.row[s];
        write.scale[s] = static_cast<const Scalar*>(run.factors.norm_scale[s]);
        write.shift[s] = static_cast<const Scalar*>(run.factors.norm_shift[s]);
    }
    for (std::int64_t row = 0; row < run.rows; ++row) {
        keep.mix.start(run, row);
        keep.sums[0] = keep.sums[1] = Lanes<T>::all(0);
        for_each_vector<kCount>(run.channels, keep);
        for (int s = 0; s < 2; ++s) {
            squares.mean[s] = write.mean[s] = Lanes<T>::all(reduce_add(keep.sums[s]) / count);
            squares.squares[s] = Lanes<T>::all(0);
            write.outs[s] = row_of<T>(run.outs[s], row);
            write.norms[s] = row_of<T>(run.norms[s], row);
        }
        for_each_vector<kCount>(run.channels, squares);
        for (int s = 0; s < 2; ++s)
            write.inverse[s] = Lanes<T>::all(1 / Lanes<T>::root(reduce_add(squares.squares[s]) / count + eps));
        for_each_vector<kCount>(run.channels, write);
    }
}

template <typename T, Mix kMix>
void rows_of_mix(const ExchangeRun& run) {
    if (run.normalise)
        write_norm_rows<T, kMix>(run);
    else
        write_rows<T, kMix>(run);
}

template <typename T>
struct ExchangeKernel {
    static void run(const ExchangeRun& run) {
        switch (run.mix) {
            case Mix::kChannelHard: return rows_of_mix<T, Mix::kChannelHard>(run);
            case Mix::kChannelSoft: return rows_of_mix<T, Mix::kChannelSoft>(run);
            case Mix::kDenseHard: return rows_of_mix<T, Mix::kDenseHard>(run);
            case Mix::kDenseSoft: return rows_of_mix<T, Mix::kDenseSoft>(run);
            case Mix::kDenseSplit: return write_rows<T, Mix::kDenseSplit>(run);
        }
    }
};

}  // namespace

void exchange_rows(const ExchangeRun& run) { for_dtype<ExchangeKernel>(run); }

}  // namespace fourreal::cpu::FOURREAL_SIMD
