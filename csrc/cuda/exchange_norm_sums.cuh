// Sums over rows that the backward of the fused exchange gathers: a thread keeps those of its channels in shared
// memory.
#pragma once

#include "exchange_row_pack.cuh"

namespace fourreal::cuda {

using Lane = float[kRowWidth];

// Which sums over rows a list holds: dx of each output, dx * y_s of each output, then by stream dn, dn * xhat, dy *
// branch.
template <int kOutputs>
struct Lists {
    static constexpr int kProducts = kOutputs;
    static constexpr int kShift = 3 * kOutputs;
    static constexpr int kScale = kShift + 2;
    static constexpr int kBranchGate = kScale + 2;
    static constexpr int kCount = kBranchGate + 2;
};

// The sums of one thread: two vectors of four channels a list, apart from those of its neighbours by 16 bytes.
struct RowSums {
    float4* slots;
    unsigned threads;
    unsigned thread;

    __device__ float4& slot(int list, int half, unsigned of) const { return slots[(2 * list + half) * threads + of]; }

    __device__ void add(int list, const Lane& values) const {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float4 sum = slot(list, half, thread);
            sum.x += values[4 * half];
            sum.y += values[4 * half + 1];
            sum.z += values[4 * half + 2];
            sum.w += values[4 * half + 3];
            slot(list, half, thread) = sum;
        }
    }

    __device__ void add_products(int list, const Lane& a, const Lane& b) const {
        Lane products;
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) products[i] = a[i] * b[i];
        add(list, products);
    }
};

}  // namespace fourreal::cuda
