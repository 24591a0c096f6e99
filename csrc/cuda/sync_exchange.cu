#include "fourreal/sync_exchange.hpp"

#include <algorithm>
#include <cstdint>

#include <cuda_runtime.h>

#include "launch.cuh"
#include "numbers.cuh"
#include "vector_access.cuh"

namespace fourreal::cuda {
namespace {

enum Operand : int { kViewIn = 0, kTimeIn = 1, kViewOut = 2, kTimeOut = 3 };
constexpr int kOperands = 4;

constexpr int kThreads = 256;
constexpr int kMaxLanes = 128;        // threads along the channels; the others of a block take further rows
constexpr std::int64_t kMaxBlocks = 8192;  // several waves on any device, so that it need not be asked for its size
constexpr std::int64_t kMaxGridY = 65535;

struct Launch {
    const void* inputs[2];
    void* outputs[2];
    const float* weight;
    const float* bias;
    const float* input_scale;
    const float* gate;
    std::int64_t batch;
    std::int64_t rows;
    std::int64_t channels;
    std::int64_t channel_tiles;
    std::int64_t batch_strides[kOperands];
    RowLayout<kOperands> layout;
};

// Per channel y = from_view * view + from_time * time + offset: gate, weight, scale and bias multiplied out.
template <int kWidth>
struct Coefficients {
    float from_view[kWidth];
    float from_time[kWidth];
    float offset[kWidth];

    __device__ Coefficients(const Launch& launch, std::int64_t b, std::int64_t first_channel) {
        const std::int64_t channels = launch.channels;
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
            const std::int64_t c = first_channel + i;
            const float gate = launch.gate ? launch.gate[b * channels + c] : 1.0f;
            const float* scale = launch.input_scale ? launch.input_scale + b * 2 * channels : nullptr;
            from_view[i] = gate * launch.weight[c] * (scale ? scale[c] : 1.0f);
            from_time[i] = gate * launch.weight[channels + c] * (scale ? scale[channels + c] : 1.0f);
            offset[i] = launch.bias ? gate * launch.bias[c] : 0.0f;
        }
    }

    template <typename T>
    __device__ Pack<T, kWidth> apply(const Pack<T, kWidth>& view, const Pack<T, kWidth>& time) const {
        Pack<T, kWidth> y;
#pragma unroll
        for (int i = 0; i < kWidth; ++i)
            y.item[i] = from_float<T>(from_view[i] * to_float(view.item[i]) +
                                      from_time[i] * to_float(time.item[i]) + offset[i]);
        return y;
    }
};

// Rows that a thread loads before it stores the first; one with 64-bit row numbers, whose divisions take many registers.
template <typename Index>
__host__ __device__ constexpr int rows_in_flight() {
    return sizeof(Index) == 4 ? 2 : 1;
}

// The position of a row along the three merged axes; computed once for all four tensors, as it takes two divisions.
struct RowPosition {
    std::int64_t outer;
    std::int64_t middle;
    std::int64_t inner;

    template <typename Index>
    __device__ RowPosition(const RowLayout<kOperands>& layout, Index row) {
        const Index inner_size = static_cast<Index>(layout.sizes[2]);
        const Index middle_size = static_cast<Index>(layout.sizes[1]);
        const Index rest = row / inner_size;
        outer = rest / middle_size;
        middle = rest % middle_size;
        inner = row % inner_size;
    }

    __device__ std::int64_t offset(const std::int64_t (&strides)[3]) const {
        return outer * strides[0] + middle * strides[1] + inner * strides[2];
    }
};

// threadIdx.x walks packs of channels, threadIdx.y and blockIdx.x rows, blockIdx.y (batch entry, tile of channels).
// A thread keeps its channels' coefficients in registers while it walks rows.
template <typename T, int kWidth, typename Index>
__global__ void __launch_bounds__(kThreads) hard_channel_kernel(const Launch launch) {
    using Vector = Pack<T, kWidth>;
    constexpr int kRowsInFlight = rows_in_flight<Index>();
    for (std::int64_t pair = blockIdx.y; pair < launch.batch * launch.channel_tiles; pair += gridDim.y) {
        const std::int64_t b = pair / launch.channel_tiles;
        const std::int64_t pack = (pair % launch.channel_tiles) * blockDim.x + threadIdx.x;
        const std::int64_t channel = pack * kWidth;
        if (channel >= launch.channels) continue;

        const Coefficients<kWidth> coefficients(launch, b, channel);
        const T* view = static_cast<const T*>(launch.inputs[0]) + b * launch.batch_strides[kViewIn] + channel;
        const T* time = static_cast<const T*>(launch.inputs[1]) + b * launch.batch_strides[kTimeIn] + channel;
        T* out_view = static_cast<T*>(launch.outputs[0]) + b * launch.batch_strides[kViewOut] + channel;
        T* out_time = static_cast<T*>(launch.outputs[1]) + b * launch.batch_strides[kTimeOut] + channel;

        const auto& strides = launch.layout.strides;
        const Index rows = static_cast<Index>(launch.rows);
        const Index step = static_cast<Index>(gridDim.x) * blockDim.y;
        for (Index first = static_cast<Index>(blockIdx.x) * blockDim.y + threadIdx.y; first < rows;
             first += step * kRowsInFlight) {
            Vector from_view[kRowsInFlight];
            Vector from_time[kRowsInFlight];
#pragma unroll
            for (int k = 0; k < kRowsInFlight; ++k) {
                const Index row = first + k * step;
                if (row >= rows) continue;
                const RowPosition position(launch.layout, row);
                from_view[k] = load_pack<T, kWidth>(view + position.offset(strides[kViewIn]));
                from_time[k] = load_pack<T, kWidth>(time + position.offset(strides[kTimeIn]));
            }
#pragma unroll
            for (int k = 0; k < kRowsInFlight; ++k) {
                const Index row = first + k * step;
                if (row >= rows) continue;
                const Vector y = coefficients.apply(from_view[k], from_time[k]);
                const RowPosition position(launch.layout, row);
                store_pack(out_view + position.offset(strides[kViewOut]), y);
                store_pack(out_time + position.offset(strides[kTimeOut]), y);
            }
        }
    }
}

std::int64_t ceil_div(std::int64_t value, std::int64_t divisor) { return (value + divisor - 1) / divisor; }

template <typename T, int kWidth, typename Index>
int launch_kernel(Launch launch, cudaStream_t stream) {
    const std::int64_t packs = launch.channels / kWidth;
    launch.channel_tiles = ceil_div(packs, kMaxLanes);
    const std::int64_t lanes = ceil_div(packs, launch.channel_tiles);
    const std::int64_t block_rows = std::min(std::max<std::int64_t>(1, kThreads / lanes), launch.rows);
    const std::int64_t pairs = std::min(launch.batch * launch.channel_tiles, kMaxGridY);
    const std::int64_t row_blocks = std::min(ceil_div(launch.rows, block_rows * rows_in_flight<Index>()),
                                             std::max<std::int64_t>(1, kMaxBlocks / pairs));
    const dim3 grid(static_cast<unsigned>(row_blocks), static_cast<unsigned>(pairs));
    const dim3 block(static_cast<unsigned>(lanes), static_cast<unsigned>(block_rows));
    constexpr auto kernel = hard_channel_kernel<T, kWidth, Index>;
    FOURREAL_LAUNCH(kernel, grid, block, 0, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

template <typename T, int kWidth>
int launch_width(const Launch& launch, cudaStream_t stream) {
    // 32-bit row numbers divide several times faster; the limit keeps the kernel's `first + step` from wrapping.
    if (launch.rows <= (std::int64_t{1} << 31)) return launch_kernel<T, kWidth, std::uint32_t>(launch, stream);
    return launch_kernel<T, kWidth, std::int64_t>(launch, stream);
}

template <typename T>
bool vectors_fit(const Launch& launch) {
    constexpr std::int64_t kWidth = kVectorBytes / sizeof(T);
    std::uintptr_t addresses = 0;
    for (int i = 0; i < 2; ++i)
        addresses |= reinterpret_cast<std::uintptr_t>(launch.inputs[i]) |
                     reinterpret_cast<std::uintptr_t>(launch.outputs[i]);
    if (addresses % kVectorBytes != 0 || launch.channels % kWidth != 0) return false;
    for (int k = 0; k < kOperands; ++k) {
        if (launch.batch > 1 && launch.batch_strides[k] % kWidth != 0) return false;
        for (std::int64_t stride : launch.layout.strides[k])
            if (stride % kWidth != 0) return false;
    }
    return true;
}

template <typename T>
int launch_dtype(const Launch& launch, cudaStream_t stream) {
    if (vectors_fit<T>(launch)) return launch_width<T, kVectorBytes / sizeof(T)>(launch, stream);
    return launch_width<T, 1>(launch, stream);
}

Launch prepare(const HardChannelExchange& args) {
    const GridStrides strides[kOperands] = {args.view_strides, args.time_strides, args.out_view_strides,
                                            args.out_time_strides};
    Launch launch{};
    launch.inputs[0] = args.view;
    launch.inputs[1] = args.time;
    launch.outputs[0] = args.out_view;
    launch.outputs[1] = args.out_time;
    launch.weight = static_cast<const float*>(args.weight);
    launch.bias = static_cast<const float*>(args.bias);
    launch.input_scale = static_cast<const float*>(args.input_scale);
    launch.gate = static_cast<const float*>(args.gate);
    launch.batch = args.sizes[kBatch];
    launch.channels = args.sizes[kChannel];
    launch.layout = merge_rows<kOperands>(args.sizes, strides);
    launch.rows = launch.layout.rows();
    for (int k = 0; k < kOperands; ++k) launch.batch_strides[k] = strides[k][kBatch];
    return launch;
}

}  // namespace

int sync_exchange_hard_channel(const HardChannelExchange& args, void* stream) {
    if (element_count(args.sizes) == 0) return cudaSuccess;
    const Launch launch = prepare(args);
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    switch (args.dtype) {
        case DType::kFloat32: return launch_dtype<float>(launch, cuda_stream);
        case DType::kFloat16: return launch_dtype<__half>(launch, cuda_stream);
        case DType::kBFloat16: return launch_dtype<__nv_bfloat16>(launch, cuda_stream);
        case DType::kFloat64: break;
    }
    return cudaErrorInvalidValue;
}

}  // namespace fourreal::cuda
