// A whole row held by the threads of a block: eight neighbouring channels a thread, in registers, and sums over the
// row.
#pragma once

#include "exchange_rows.cuh"

namespace fourreal::cuda {

constexpr int kRowWidth = 8;
constexpr int kMostRowThreads = 640;  // leaves a thread 96 registers
constexpr int kMostRowWarps = kMostRowThreads / 32;
constexpr std::int64_t kMostRowChannels = static_cast<std::int64_t>(kRowWidth) * kMostRowThreads;

// kRowWidth neighbouring channels of a row, all of which exist, moved 16 bytes at a time.
template <typename Type>
struct RowPack {
    using T = Type;
    static constexpr int kWidth = kRowWidth;
    static constexpr int kParts = kWidth / kPackWidth<T>;
    struct Values {
        Pack<T, kPackWidth<T>> part[kParts];
    };
    std::int64_t first;
    std::int64_t channels;

    __device__ Values load(const T* row) const {
        Values values;
#pragma unroll
        for (int p = 0; p < kParts; ++p)
            values.part[p] = load_pack<T, kPackWidth<T>>(row + first + p * kPackWidth<T>);
        return values;
    }

    __device__ void store(T* row, const float (&values)[kWidth]) const {
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
            float floats[kPackWidth<T>];
#pragma unroll
            for (int i = 0; i < kPackWidth<T>; ++i) floats[i] = values[p * kPackWidth<T> + i];
            store_pack(row + first + p * kPackWidth<T>, from_floats<T>(floats));
        }
    }

    static __device__ void to_floats(const Values& values, float (&into)[kWidth]) {
#pragma unroll
        for (int p = 0; p < kParts; ++p) {
            float floats[kPackWidth<T>];
            cuda::to_floats(values.part[p], floats);
#pragma unroll
            for (int i = 0; i < kPackWidth<T>; ++i) into[p * kPackWidth<T> + i] = floats[i];
        }
    }
};

// Threads of a row (x) and rows (y) of a block: a power of two within a warp, or whole warps for one row.
inline dim3 row_block(std::int64_t channels) {
    const std::int64_t packs = ceil_div(channels, kRowWidth);
    if (packs > 32) return dim3(static_cast<unsigned>(ceil_div(packs, 32) * 32));
    unsigned lanes = 1;
    while (lanes < packs) lanes *= 2;
    return dim3(lanes, 128 / lanes);
}

// Sums of every value over the threads of a row, for blocks of row_block(). All threads of the block call it.
// Successive calls take different `shared`, so that one barrier a call is enough.
template <int kCount>
__device__ void sum_over_row(float (&values)[kCount], float (*shared)[kCount]) {
    for (unsigned offset = (blockDim.x < 32 ? blockDim.x : 32) / 2; offset > 0; offset /= 2) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) values[v] += __shfl_xor_sync(0xffffffffu, values[v], offset);
    }
    if (blockDim.x <= 32) return;
    if (threadIdx.x % 32 == 0) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) shared[threadIdx.x / 32][v] = values[v];
    }
    __syncthreads();
#pragma unroll
    for (int v = 0; v < kCount; ++v) values[v] = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) {
#pragma unroll
        for (int v = 0; v < kCount; ++v) values[v] += shared[warp][v];
    }
}

}  // namespace fourreal::cuda
