// What both kernels of the fused exchange are given: the one on vectors and the one on elements.
#pragma once

#include "exchange_row_pack.cuh"

namespace fourreal::cuda {

struct NormLaunch {
    enum Tensor : int { kStream = 0, kBranch = 2, kOut = 4, kNorm = 6, kTensors = 8 };  // the time stream's after each

    RowTensors<kTensors> tensors;
    ExchangeParameters parameters;
    ExchangeNorm norm;
    const void* mixed;
    RowChunk chunk;
    std::int64_t channels;
    float eps;

    __device__ RowPosition position(std::uint32_t row) const {
        return tensors.position(static_cast<std::uint32_t>(chunk.first_row) + row);
    }

    // Of output `out` in the product of a dense exchange.
    template <typename T>
    __device__ const T* product_row(std::int64_t sample, std::uint32_t row, int outputs, int out) const {
        const std::int64_t of_chunk = (sample - chunk.first_sample) * chunk.rows + row;
        return static_cast<const T*>(mixed) + (of_chunk * outputs + out) * channels;
    }

    // A parameter of one number per batch entry, stream and channel.
    template <typename Access>
    __device__ void load_per_sample(const Access& pack, const void* values, std::int64_t sample, int stream,
                                    float absent, float (&into)[Access::kWidth]) const {
        const auto* of_sample = static_cast<const typename Access::T*>(values);
        load_parameter(pack, of_sample ? of_sample + (2 * sample + stream) * channels : nullptr, absent, into);
    }

    // threadIdx.x owns channels, threadIdx.y and blockIdx.x walk rows, blockIdx.y batch entries.
    dim3 block() const { return row_block(channels); }

    dim3 grid() const {
        constexpr std::int64_t kMostBlocks = 8192;
        const std::int64_t samples = std::min(chunk.samples, kMostGridY);
        const std::int64_t row_blocks =
            std::min(ceil_div(chunk.rows, block().y), std::max<std::int64_t>(1, kMostBlocks / samples));
        return dim3(static_cast<unsigned>(row_blocks), static_cast<unsigned>(samples));
    }
};

// For rows that are not at 16 bytes, or channels that are not whole packs. Returns a cudaError_t.
int launch_norm_elements(const NormLaunch& launch, ExchangeKind kind, DType dtype, cudaStream_t stream);

}  // namespace fourreal::cuda
