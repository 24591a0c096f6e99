// What the exchange's kernels share: where the rows of several tensors lie, and which channels of a row a thread owns.
#pragma once

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include "fourreal/merged_axes.hpp"
#include "fourreal/sync_exchange.hpp"
#include "pack_floats.cuh"
#include "vector_access.cuh"

namespace fourreal::cuda {

constexpr std::int64_t kMostRows = (std::int64_t{1} << 31) - 1;  // of a batch entry: what Divisor takes
constexpr std::int64_t kMostGridY = 65535;

template <typename T>
constexpr int kPackWidth = kVectorBytes / sizeof(T);

// The position of a row of a batch entry along its three merged axes; one serves every tensor of a launch.
struct RowPosition {
    std::uint32_t outer;
    std::uint32_t middle;
    std::uint32_t inner;
};

// Tensors of equal sizes with their own strides, as a kernel sees them.
template <int kCount>
struct RowTensors {
    void* data[kCount];
    std::int64_t batch_strides[kCount];
    std::int64_t strides[kCount][3];
    Divisor middle;
    Divisor inner;

    __device__ RowPosition position(std::uint32_t row) const {
        const std::uint32_t rest = inner.divide(row);
        const std::uint32_t outer = middle.divide(rest);
        return {outer, rest - outer * middle.divisor, row - rest * inner.divisor};
    }

    template <typename T>
    __device__ T* row(int tensor, std::int64_t sample, const RowPosition& at) const {
        const std::int64_t(&of)[3] = strides[tensor];
        return static_cast<T*>(data[tensor]) + sample * batch_strides[tensor] + at.outer * of[0] + at.middle * of[1] +
               at.inner * of[2];
    }
};

template <int kCount>
RowTensors<kCount> row_tensors(const GridSizes& sizes, const StreamTensor (&tensors)[kCount]) {
    GridStrides strides[kCount];
    for (int k = 0; k < kCount; ++k) strides[k] = tensors[k].strides;
    const RowLayout<kCount> layout = merge_rows<kCount>(sizes, strides);
    RowTensors<kCount> rows;
    for (int k = 0; k < kCount; ++k) {
        rows.data[k] = tensors[k].data;
        rows.batch_strides[k] = sizes[kBatch] == 1 ? 0 : strides[k][kBatch];
        std::copy(layout.strides[k], layout.strides[k] + 3, rows.strides[k]);
    }
    rows.middle = Divisor(layout.sizes[1]);
    rows.inner = Divisor(layout.sizes[2]);
    return rows;
}

inline bool is_aligned(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % kVectorBytes == 0; }

// Whether every row of every tensor, and every row of `channels` channels of a contiguous array, starts at 16 bytes.
template <typename T, int kCount>
bool rows_are_aligned(const RowTensors<kCount>& rows, std::int64_t channels) {
    bool aligned = channels % kPackWidth<T> == 0;
    for (int k = 0; k < kCount; ++k) {
        aligned = aligned && is_aligned(rows.data[k]) && rows.batch_strides[k] % kPackWidth<T> == 0;
        for (std::int64_t stride : rows.strides[k]) aligned = aligned && stride % kPackWidth<T> == 0;
    }
    return aligned;
}

// kWidth neighbouring channels of a row, all of which exist, moved by one access.
template <typename Type, int kPackWidth>
struct WholePack {
    using T = Type;
    static constexpr int kWidth = kPackWidth;
    using Values = Pack<T, kWidth>;
    std::int64_t first;
    std::int64_t channels;

    __device__ Values load(const T* row) const { return load_pack<T, kWidth>(row + first); }
    __device__ void store(T* row, const float (&values)[kWidth]) const {
        store_pack(row + first, from_floats<T>(values));
    }
    static __device__ void to_floats(const Values& values, float (&into)[kWidth]) { cuda::to_floats(values, into); }
};

// A parameter of one number per channel, or `absent` for each where there is none.
template <typename Access>
__device__ void load_parameter(const Access& pack, const typename Access::T* values, float absent,
                               float (&into)[Access::kWidth]) {
    if (values) {
        Access::to_floats(pack.load(values), into);
    } else {
#pragma unroll
        for (int i = 0; i < Access::kWidth; ++i) into[i] = absent;
    }
}

// threadIdx.x owns channels, threadIdx.y and blockIdx.x walk rows, blockIdx.y walks (batch entry, tile of channels).
struct TileGeometry {
    dim3 grid;
    dim3 block;
    std::uint32_t tiles;
};

constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t divisor) { return (value + divisor - 1) / divisor; }

inline std::int64_t channel_tiles(std::int64_t channels, std::int64_t width, std::int64_t most_lanes) {
    return ceil_div(ceil_div(channels, width), most_lanes);
}

// At most `most_blocks` (and one for each pair of batch entry and tile), each of which has `rows_in_flight` rows a
// thread.
inline TileGeometry tile_geometry(std::int64_t samples, std::int64_t rows, std::int64_t channels, std::int64_t width,
                                  std::int64_t threads, std::int64_t rows_in_flight, std::int64_t most_blocks) {
    const std::int64_t most_lanes = 128;
    const std::int64_t packs = ceil_div(channels, width);
    const std::int64_t tiles = channel_tiles(channels, width, most_lanes);
    const std::int64_t lanes = ceil_div(packs, tiles);
    const std::int64_t block_rows = std::min(std::max<std::int64_t>(1, threads / lanes), rows);
    const std::int64_t pairs = std::min(samples * tiles, kMostGridY);
    const std::int64_t row_blocks =
        std::min(ceil_div(rows, block_rows * rows_in_flight), std::max<std::int64_t>(1, most_blocks / pairs));
    return {dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(pairs)),
            dim3(static_cast<unsigned>(lanes), static_cast<unsigned>(block_rows)), static_cast<std::uint32_t>(tiles)};
}

// Calls `run` with a zero of the element type.
template <typename Run>
int for_element_type(DType dtype, const Run& run) {
    switch (dtype) {
        case DType::kFloat32: return run(float{});
        case DType::kFloat16: return run(__half{});
        case DType::kBFloat16: return run(__nv_bfloat16{});
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda
