// What stands around the matrix product of the dense exchange, a chunk of rows at a time: rows into its left operand,
// and its result into the streams. Operand and result are contiguous and small enough to stay in the L2 cache. Bytes
// from and to memory: 2 * M * C elements read by the first, and 2 (kHard, kSplit) or 4 (kSoft) by the second.
#include "fourreal/sync_exchange.hpp"

#include "exchange_mix.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 4096;

struct Launch {
    RowTensors<4> tensors;
    RowChunk chunk;
    std::int64_t channels;
    std::uint32_t tiles;
};

// Calls body(pack, sample, its first row in the chunk's arrays) for each pack and batch entry of the thread.
template <typename T, int kWidth, typename Body>
__device__ void for_packs(const Launch& launch, const Body& body) {
    for (std::int64_t pair = blockIdx.y; pair < launch.chunk.samples * launch.tiles; pair += gridDim.y) {
        const std::int64_t local = pair / launch.tiles;
        const WholePack<T, kWidth> pack{(pair % launch.tiles * blockDim.x + threadIdx.x) * kWidth, launch.channels};
        if (pack.first < launch.channels) body(pack, launch.chunk.first_sample + local, local * launch.chunk.rows);
    }
}

struct StageLaunch : Launch {
    enum Tensor : int { kStream = 0, kBranch = 2 };
    const void* branch_gate;
    const void* input_scale;
    void* staged;
    bool has_branches;
    bool sum;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) stage_kernel(const StageLaunch launch) {
    for_packs<T, kWidth>(launch, [&](const auto& pack, std::int64_t sample, std::int64_t first_of_sample) {
        const T* const gates = static_cast<const T*>(launch.branch_gate);
        const T* const scales = static_cast<const T*>(launch.input_scale);
        float gate[2][kWidth];
        float scale[2][kWidth];
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            const std::int64_t of_sample = (2 * sample + s) * launch.channels;
            load_parameter(pack, gates ? gates + of_sample : nullptr, 1.0f, gate[s]);
            load_parameter(pack, scales ? scales + of_sample : nullptr, 1.0f, scale[s]);
        }
        const std::uint32_t rows = static_cast<std::uint32_t>(launch.chunk.rows);
        for (std::uint32_t row = blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += gridDim.x * blockDim.y) {
            const RowPosition at = launch.tensors.position(static_cast<std::uint32_t>(launch.chunk.first_row) + row);
            Pack<T, kWidth> streams[2];
            Pack<T, kWidth> branches[2];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                streams[s] = pack.load(launch.tensors.row<T>(StageLaunch::kStream + s, sample, at));
                if (launch.has_branches)
                    branches[s] = pack.load(launch.tensors.row<T>(StageLaunch::kBranch + s, sample, at));
            }
            float x[2][kWidth];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                to_floats(streams[s], x[s]);
                float branch[kWidth] = {};
                if (launch.has_branches) to_floats(branches[s], branch);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) x[s][i] = fmaf(gate[s][i], branch[i], x[s][i]) * scale[s][i];
            }
            T* const staged = static_cast<T*>(launch.staged);
            const std::int64_t to = (first_of_sample + row) * launch.channels;
            if (launch.sum) {
#pragma unroll
                for (int i = 0; i < kWidth; ++i) x[0][i] += x[1][i];
                pack.store(staged + to, x[0]);
            } else {
                pack.store(staged + 2 * to, x[0]);
                pack.store(staged + 2 * to + launch.channels, x[1]);
            }
        }
    });
}

struct FinishLaunch : Launch {
    enum Tensor : int { kStream = 0, kOut = 2 };
    const void* mixed;
    ExchangeParameters parameters;
    int outputs;
    bool residual;
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) finish_kernel(const FinishLaunch launch) {
    for_packs<T, kWidth>(launch, [&](const auto& pack, std::int64_t sample, std::int64_t first_of_sample) {
        const int outputs = launch.outputs;
        const ProductEnd<kWidth> ends[2] = {
            load_product_end(launch.parameters, pack, sample, outputs, 0),
            load_product_end(launch.parameters, pack, sample, outputs, outputs - 1)};
        const std::uint32_t rows = static_cast<std::uint32_t>(launch.chunk.rows);
        for (std::uint32_t row = blockIdx.x * blockDim.y + threadIdx.y; row < rows; row += gridDim.x * blockDim.y) {
            const RowPosition at = launch.tensors.position(static_cast<std::uint32_t>(launch.chunk.first_row) + row);
            const T* const mixed =
                static_cast<const T*>(launch.mixed) + (first_of_sample + row) * outputs * launch.channels;
            Pack<T, kWidth> products[2];
            Pack<T, kWidth> streams[2];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                if (s < outputs) products[s] = pack.load(mixed + s * launch.channels);
                if (launch.residual)
                    streams[s] = pack.load(launch.tensors.row<T>(FinishLaunch::kStream + s, sample, at));
            }
            if (outputs == 1) products[1] = products[0];
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                float y[kWidth];
                float stream[kWidth] = {};
                to_floats(products[s], y);
                if (launch.residual) to_floats(streams[s], stream);
#pragma unroll
                for (int i = 0; i < kWidth; ++i) y[i] = ends[s].apply(i, y[i], stream[i]);
                pack.store(launch.tensors.row<T>(FinishLaunch::kOut + s, sample, at), y);
            }
        }
    });
}

template <typename Kernel, typename Given>
int launch_tiles(Kernel kernel, Given launch, int width, void* stream) {
    const TileGeometry geometry =
        tile_geometry(launch.chunk.samples, launch.chunk.rows, launch.channels, width, kThreads, 2, kMostBlocks);
    launch.tiles = geometry.tiles;
    FOURREAL_LAUNCH(kernel, geometry.grid, geometry.block, 0, static_cast<cudaStream_t>(stream), launch);
    return static_cast<int>(cudaGetLastError());
}

bool can_run(const GridSizes& sizes, const RowChunk& chunk) {
    return rows_of_sample(sizes) <= kMostRows && chunk.first_row + chunk.rows <= rows_of_sample(sizes) &&
           chunk.first_sample + chunk.samples <= sizes[kBatch];
}

}  // namespace

int sync_exchange_stage(const StageRows& args, void* stream) {
    if (args.chunk.samples * args.chunk.rows * args.sizes[kChannel] == 0) return cudaSuccess;
    if (!can_run(args.sizes, args.chunk)) return cudaErrorInvalidValue;
    const StreamTensor* const branches = args.branches ? args.branches : args.streams;
    StageLaunch launch{};
    launch.tensors = row_tensors<4>(args.sizes, {args.streams[0], args.streams[1], branches[0], branches[1]});
    launch.chunk = args.chunk;
    launch.channels = args.sizes[kChannel];
    launch.branch_gate = args.branch_gate;
    launch.input_scale = args.input_scale;
    launch.staged = args.staged;
    launch.has_branches = args.branches != nullptr;
    launch.sum = args.sum;
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (rows_are_aligned<T>(launch.tensors, launch.channels) && is_aligned(args.branch_gate) &&
            is_aligned(args.input_scale) && is_aligned(args.staged))
            return launch_tiles(stage_kernel<T, kPackWidth<T>>, launch, kPackWidth<T>, stream);
        return launch_tiles(stage_kernel<T, 1>, launch, 1, stream);
    });
}

int sync_exchange_finish(const FinishRows& args, void* stream) {
    if (args.chunk.samples * args.chunk.rows * args.sizes[kChannel] == 0) return cudaSuccess;
    if (!can_run(args.sizes, args.chunk)) return cudaErrorInvalidValue;
    FinishLaunch launch{};
    launch.tensors = row_tensors<4>(args.sizes, {args.streams[0], args.streams[1], args.outs[0], args.outs[1]});
    launch.chunk = args.chunk;
    launch.channels = args.sizes[kChannel];
    launch.mixed = args.mixed;
    launch.parameters.bias = args.bias;
    launch.parameters.gate = args.gate;
    launch.outputs = args.kind == FinishKind::kHard ? 1 : 2;
    launch.residual = args.kind == FinishKind::kSoft;
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (rows_are_aligned<T>(launch.tensors, launch.channels) && parameters_are_aligned(launch.parameters) &&
            is_aligned(args.mixed))
            return launch_tiles(finish_kernel<T, kPackWidth<T>>, launch, kPackWidth<T>, stream);
        return launch_tiles(finish_kernel<T, 1>, launch, 1, stream);
    });
}

}  // namespace fourreal::cuda
