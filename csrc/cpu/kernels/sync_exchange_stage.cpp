#include "kernels/sync_exchange_lanes.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

template <typename T>
struct StageRow {
    using Scalar = typename Lanes<T>::Scalar;
    using Wide = typename Lanes<T>::Wide;
    bool sum;
    bool has_branches;
    const T* streams[2];
    const T* branches[2];
    const Scalar* branch_gate[2];
    const Scalar* scale[2];
    Scalar* staged[2];

    template <typename Access>
    FOURREAL_ALWAYS_INLINE Wide stream(const Access& access, int s, std::int64_t c) const {
        Wide x = access.get(streams[s] + c);
        if (has_branches) {
            const Wide branch = access.get(branches[s] + c);
            x = x + (branch_gate[s] ? access.get(branch_gate[s] + c) * branch : branch);
        }
        return scale[s] ? x * access.get(scale[s] + c) : x;
    }

    template <typename Access>
    FOURREAL_ALWAYS_INLINE void operator()(const Access& access, std::int64_t c) const {
        const Wide x_view = stream(access, 0, c), x_time = stream(access, 1, c);
        access.put(staged[0] + c, sum ? x_view + x_time : x_view);
        if (!sum) access.put(staged[1] + c, x_time);
    }
};

template <typename T>
struct StageKernel {
    static void run(const StageRun& run) {
        using Scalar = typename Lanes<T>::Scalar;
        StageRow<T> step{};
        step.sum = run.sum;
        step.has_branches = run.has_branches;
        for (int s = 0; s < 2; ++s) {
            step.branch_gate[s] = static_cast<const Scalar*>(run.branch_gate[s]);
            step.scale[s] = static_cast<const Scalar*>(run.scale[s]);
        }
        for (std::int64_t row = 0; row < run.rows; ++row) {
            for (int s = 0; s < 2; ++s) {
                step.streams[s] = row_of<T>(run.streams[s], row);
                if (run.has_branches) step.branches[s] = row_of<T>(run.branches[s], row);
            }
            step.staged[0] = row_of<Scalar>(run.staged, row);
            if (!run.sum) step.staged[1] = step.staged[0] + run.channels;
            for_each_vector<Lanes<T>::kCount>(run.channels, step);
        }
    }
};

}  // namespace

void stage_rows(const StageRun& run) { for_dtype<StageKernel>(run); }

}  // namespace fourreal::cpu::FOURREAL_SIMD
