// Sizes and strides of a grid of frames, shared by the CPU and CUDA kernels. Framework-free C++17.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FOURREAL_HOST_DEVICE __host__ __device__
#else
#define FOURREAL_HOST_DEVICE
#endif

namespace fourreal {

// Activations are (B, V, T, N, C): batch, views, timesteps, tokens per frame, channels.
enum Axis : int { kBatch = 0, kView = 1, kTime = 2, kToken = 3, kChannel = 4 };
constexpr int kAxes = 5;
constexpr const char* kAxisNames[kAxes] = {"batch", "view", "time", "token", "channel"};

// One number per axis: a size, or a stride in elements. 64-bit, because B*V*T*N*C passes 2^31 early.
struct GridExtents {
    std::int64_t axis[kAxes];

    FOURREAL_HOST_DEVICE std::int64_t& operator[](int index) { return axis[index]; }
    FOURREAL_HOST_DEVICE std::int64_t operator[](int index) const { return axis[index]; }
};
using GridSizes = GridExtents;
using GridStrides = GridExtents;

inline std::int64_t element_count(const GridSizes& sizes) {
    std::int64_t count = 1;
    for (std::int64_t size : sizes.axis) count *= size;
    return count;
}

// The rows (v, t, n) of one batch entry.
inline std::int64_t rows_of_sample(const GridSizes& sizes) { return sizes[kView] * sizes[kTime] * sizes[kToken]; }

// The rows (v, t, n) of one batch entry for kOperands tensors of equal sizes, with neighbouring axes merged where every
// tensor allows it. Axis 2 is the innermost; an unused outer axis has size 1.
template <int kOperands>
struct RowLayout {
    static constexpr int kDims = 3;
    std::int64_t sizes[kDims];
    std::int64_t strides[kOperands][kDims];

    FOURREAL_HOST_DEVICE std::int64_t rows() const { return sizes[0] * sizes[1] * sizes[2]; }
};

template <int kOperands>
RowLayout<kOperands> merge_rows(const GridSizes& sizes, const GridStrides (&strides)[kOperands]) {
    using Layout = RowLayout<kOperands>;
    Layout layout;
    for (int dim = 0; dim < Layout::kDims; ++dim) {
        layout.sizes[dim] = 1;
        for (int k = 0; k < kOperands; ++k) layout.strides[k][dim] = 0;
    }
    int dim = Layout::kDims - 1;  // the merged axis being grown, from the innermost outwards
    for (int axis = kToken; axis >= kView; --axis) {
        if (sizes[axis] == 1) continue;
        if (layout.sizes[dim] != 1) {
            bool mergeable = true;
            for (int k = 0; k < kOperands; ++k)
                mergeable = mergeable && strides[k][axis] == layout.strides[k][dim] * layout.sizes[dim];
            if (mergeable) {
                layout.sizes[dim] *= sizes[axis];
                continue;
            }
            --dim;
        }
        layout.sizes[dim] = sizes[axis];
        for (int k = 0; k < kOperands; ++k) layout.strides[k][dim] = strides[k][axis];
    }
    return layout;
}

}  // namespace fourreal
