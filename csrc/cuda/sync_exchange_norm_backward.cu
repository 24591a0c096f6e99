// Gradients of the fused exchange per channel in one pass: the upstream gradients, streams and branches are read once
// (8) and the gradients of streams and branches written once (4), 12 * M * C elements for M rows. The forward is
// computed again in registers. Sums over rows are kept by each thread for its own channels in shared memory, 32 bytes
// for each of them; every block leaves its own, to be added in a fixed order, so that results repeat bit for bit.
#include "fourreal/sync_exchange.hpp"

#include "exchange_mix.cuh"
#include "exchange_norm_sums.cuh"
#include "launch.cuh"

namespace fourreal::cuda {
namespace {

enum Tensor : int { kGrad = 0, kNormGrad = 2, kStream = 4, kBranch = 6, kOut = 8, kBranchOut = 10, kTensors = 12 };

constexpr int kThreads = 384;  // at most: leaves a thread 168 registers
constexpr std::int64_t kMostChannels = static_cast<std::int64_t>(kRowWidth) * kThreads;

struct Launch {
    RowTensors<kTensors> tensors;
    ExchangeParameters parameters;
    const void* branch_gate;
    const void* norm_scale;
    float* partial;
    std::int64_t samples;
    std::int64_t channels;
    std::uint32_t rows;
    float eps;
};

template <typename T>
__device__ const T* of_stream(const void* values, std::int64_t sample, int stream, std::int64_t channels) {
    return values ? static_cast<const T*>(values) + (2 * sample + stream) * channels : nullptr;
}

template <typename T>
__device__ void load_row(const Launch& launch, const RowPack<T>& pack, int tensor, std::int64_t sample,
                         const RowPosition& at, Lane& into) {
    pack.to_floats(pack.load(launch.tensors.row<T>(tensor, sample, at)), into);
}

// y = stream + branch_gate * branch, and the exchanged x.
template <ExchangeKind kKind, typename T>
__device__ void forward_row(const Launch& launch, const RowPack<T>& pack, std::int64_t sample, const RowPosition& at,
                            Lane (&y)[2], Lane (&x)[kOutputsOf<kKind>]) {
    constexpr int kOutputs = kOutputsOf<kKind>;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        Lane gate;
        Lane branch;
        load_parameter(pack, of_stream<T>(launch.branch_gate, sample, s, launch.channels), 1.0f, gate);
        load_row(launch, pack, kStream + s, sample, at, y[s]);
        load_row(launch, pack, kBranch + s, sample, at, branch);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) y[s][i] = fmaf(gate[i], branch[i], y[s][i]);
    }
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        const auto mix = load_mix(launch.parameters, pack, sample, kOutputs, out);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) {
            const float taken = mix.apply(i, y[0][i], y[1][i]);
            x[out][i] = kOutputs == 1 ? taken : y[out][i] + taken;
        }
    }
}

// x becomes (x - mean) / sqrt(variance + eps). All threads of the block call it; `owns` says whose values count.
template <int kOutputs>
__device__ void normalise(bool owns, const Launch& launch, Lane (&x)[kOutputs], float (&inverse)[kOutputs]) {
    __shared__ float shared[2][kMostRowWarps][kOutputs];
    const float per_channel = 1.0f / static_cast<float>(launch.channels);
    float mean[kOutputs] = {};
#pragma unroll
    for (int v = 0; v < kOutputs * kRowWidth; ++v) mean[v / kRowWidth] += owns ? x[v / kRowWidth][v % kRowWidth] : 0.0f;
    sum_over_row(mean, shared[0]);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        inverse[out] = 0.0f;
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) {
            x[out][i] = owns ? x[out][i] - mean[out] * per_channel : 0.0f;
            inverse[out] = fmaf(x[out][i], x[out][i], inverse[out]);
        }
    }
    sum_over_row(inverse, shared[1]);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        inverse[out] = rsqrtf(fmaf(inverse[out], per_channel, launch.eps));
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) x[out][i] *= inverse[out];
    }
}

// g = dn * (1 + norm_scale), for kHard that of both norms, as they are of one row; the shares of the norms' parameters.
template <int kOutputs, typename T>
__device__ void load_norm_gradients(const Launch& launch, const RowPack<T>& pack, std::int64_t sample,
                                    const RowPosition& at, const Lane (&xhat)[kOutputs], const RowSums& sums,
                                    Lane (&g)[kOutputs]) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        const int out = kOutputs == 1 ? 0 : s;
        Lane scale;
        Lane dn;
        load_parameter(pack, of_stream<T>(launch.norm_scale, sample, s, launch.channels), 0.0f, scale);
        load_row(launch, pack, kNormGrad + s, sample, at, dn);
        sums.add(Lists<kOutputs>::kShift + s, dn);
        sums.add_products(Lists<kOutputs>::kScale + s, dn, xhat[out]);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) g[out][i] = fmaf(dn[i], 1.0f + scale[i], s == out ? 0.0f : g[out][i]);
    }
}

// g becomes the gradient of the norm with respect to x: inverse * (g - mean(g) - xhat * mean(g * xhat)).
template <int kOutputs>
__device__ void norm_backward(const Launch& launch, const Lane (&xhat)[kOutputs], const float (&inverse)[kOutputs],
                              Lane (&g)[kOutputs]) {
    __shared__ float shared[kMostRowWarps][2 * kOutputs];
    const float per_channel = 1.0f / static_cast<float>(launch.channels);
    float means[2 * kOutputs] = {};
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) {
            means[2 * out] += g[out][i];
            means[2 * out + 1] = fmaf(g[out][i], xhat[out][i], means[2 * out + 1]);
        }
    }
    sum_over_row(means, shared);
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) {
            const float along = fmaf(xhat[out][i], means[2 * out + 1], means[2 * out]) * per_channel;
            g[out][i] = inverse[out] * (g[out][i] - along);
        }
    }
}

// From dx to the gradients of streams and branches, which are stored; the shares of the other parameters.
template <ExchangeKind kKind, typename T>
__device__ void exchange_backward(const Launch& launch, const RowPack<T>& pack, std::int64_t sample,
                                  const RowPosition& at, const Lane (&y)[2], const RowSums& sums,
                                  Lane (&dx)[kOutputsOf<kKind>]) {
    constexpr int kOutputs = kOutputsOf<kKind>;
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        Lane direct;
        load_row(launch, pack, kGrad + s, sample, at, direct);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) dx[kOutputs == 1 ? 0 : s][i] += direct[i];
    }
#pragma unroll
    for (int out = 0; out < kOutputs; ++out) {
        sums.add(out, dx[out]);
#pragma unroll
        for (int s = 0; s < 2; ++s) sums.add_products(Lists<kOutputs>::kProducts + 2 * out + s, dx[out], y[s]);
    }
#pragma unroll
    for (int s = 0; s < 2; ++s) {
        Lane dy = {};
#pragma unroll
        for (int out = 0; out < kOutputs; ++out) {
            Lane factors;
            load_factors(launch.parameters, pack, sample, kOutputs, out, s, factors);
#pragma unroll
            for (int i = 0; i < kRowWidth; ++i) dy[i] = fmaf(factors[i], dx[out][i], dy[i]);
        }
        Lane branch;
        Lane gate;
        load_row(launch, pack, kBranch + s, sample, at, branch);
        load_parameter(pack, of_stream<T>(launch.branch_gate, sample, s, launch.channels), 1.0f, gate);
#pragma unroll
        for (int i = 0; kOutputs == 2 && i < kRowWidth; ++i) dy[i] += dx[s][i];
        sums.add_products(Lists<kOutputs>::kBranchGate + s, dy, branch);
        pack.store(launch.tensors.row<T>(kOut + s, sample, at), dy);
#pragma unroll
        for (int i = 0; i < kRowWidth; ++i) dy[i] *= gate[i];
        pack.store(launch.tensors.row<T>(kBranchOut + s, sample, at), dy);
    }
}

// Adds the sums of the threads that share channels, in the order of their rows, and stores them.
template <int kOutputs>
__device__ void store_sums(const Launch& launch, const RowSums& sums, std::int64_t sample, std::int64_t channel) {
    constexpr int kLists = Lists<kOutputs>::kCount;
    __syncthreads();
    if (threadIdx.y == 0 && channel < launch.channels) {
        float* const to = launch.partial + (sample * gridDim.x + blockIdx.x) * kLists * launch.channels + channel;
        for (int slot = 0; slot < 2 * kLists; ++slot) {
            float4 total = {0.0f, 0.0f, 0.0f, 0.0f};
            for (unsigned y = 0; y < blockDim.y; ++y) {
                const float4 part = sums.slot(slot / 2, slot % 2, y * blockDim.x + threadIdx.x);
                total.x += part.x;
                total.y += part.y;
                total.z += part.z;
                total.w += part.w;
            }
            *reinterpret_cast<float4*>(to + slot / 2 * launch.channels + slot % 2 * 4) = total;
        }
    }
    __syncthreads();
}

// threadIdx.x owns channels, threadIdx.y and blockIdx.x walk rows, blockIdx.y batch entries.
template <typename T, ExchangeKind kKind>
__global__ void __launch_bounds__(kThreads) norm_backward_kernel(const Launch launch) {
    constexpr int kOutputs = kOutputsOf<kKind>;
    FOURREAL_DYNAMIC_SHARED(float4, slots);
    const RowSums sums{slots, blockDim.x * blockDim.y, threadIdx.y * blockDim.x + threadIdx.x};
    const RowPack<T> pack{static_cast<std::int64_t>(threadIdx.x) * kRowWidth, launch.channels};
    for (std::int64_t sample = blockIdx.y; sample < launch.samples; sample += gridDim.y) {
        for (int slot = 0; slot < 2 * Lists<kOutputs>::kCount; ++slot)
            sums.slot(slot / 2, slot % 2, sums.thread) = {0.0f, 0.0f, 0.0f, 0.0f};
        for (std::uint32_t begin = blockIdx.x * blockDim.y; begin < launch.rows; begin += gridDim.x * blockDim.y) {
            const std::uint32_t row = begin + threadIdx.y;
            const bool owns = row < launch.rows && pack.first < launch.channels;
            const RowPosition at = launch.tensors.position(owns ? row : 0);
            Lane y[2];
            Lane x[kOutputs] = {};
            Lane g[kOutputs] = {};
            float inverse[kOutputs];
            if (owns) forward_row<kKind>(launch, pack, sample, at, y, x);
            normalise(owns, launch, x, inverse);
            if (owns) load_norm_gradients(launch, pack, sample, at, x, sums, g);
            norm_backward(launch, x, inverse, g);
            if (owns) exchange_backward<kKind>(launch, pack, sample, at, y, sums, g);
        }
        store_sums<kOutputs>(launch, sums, sample, pack.first);
    }
}

template <typename T, ExchangeKind kKind>
int launch_kernel(const Launch& launch, std::int64_t row_blocks, cudaStream_t stream) {
    const dim3 block = row_block(launch.channels);
    const dim3 grid(static_cast<unsigned>(row_blocks),
                    static_cast<unsigned>(std::min(launch.samples, kMostGridY)));
    const std::size_t shared = static_cast<std::size_t>(block.x) * block.y * Lists<kOutputsOf<kKind>>::kCount *
                               sizeof(Lane);
    constexpr auto kernel = norm_backward_kernel<T, kKind>;
    FOURREAL_LAUNCH(kernel, grid, block, shared, stream, launch);
    return static_cast<int>(cudaGetLastError());
}

}  // namespace

std::int64_t norm_backward_shared_bytes(ExchangeKind kind, std::int64_t channels) {
    const dim3 block = row_block(channels);
    const int lists = kind == ExchangeKind::kHard ? Lists<1>::kCount : Lists<2>::kCount;
    return static_cast<std::int64_t>(block.x) * block.y * lists * sizeof(Lane);
}

int sync_exchange_norm_backward(const NormExchangeBackward& args, void* stream) {
    if (element_count(args.sizes) == 0) return cudaSuccess;
    if (rows_of_sample(args.sizes) > kMostRows || args.sizes[kChannel] > kMostChannels || args.row_blocks < 1 ||
        args.row_blocks > kMostRows)
        return cudaErrorInvalidValue;
    Launch launch{};
    launch.tensors = row_tensors<kTensors>(
        args.sizes, {args.grads[0], args.grads[1], args.norm_grads[0], args.norm_grads[1], args.streams[0],
                     args.streams[1], args.branches[0], args.branches[1], args.outs[0], args.outs[1],
                     args.branch_outs[0], args.branch_outs[1]});
    launch.parameters = args.parameters;
    launch.branch_gate = args.branch_gate;
    launch.norm_scale = args.norm_scale;
    launch.partial = args.partial;
    launch.samples = args.sizes[kBatch];
    launch.channels = args.sizes[kChannel];
    launch.rows = static_cast<std::uint32_t>(rows_of_sample(args.sizes));
    launch.eps = static_cast<float>(args.eps);
    return for_element_type(args.dtype, [&](auto zero) {
        using T = decltype(zero);
        if (!rows_are_aligned<T>(launch.tensors, launch.channels) || launch.channels % kRowWidth != 0 ||
            !parameters_are_aligned(launch.parameters) || !is_aligned(args.branch_gate) ||
            !is_aligned(args.norm_scale) || !is_aligned(args.partial))
            return static_cast<int>(cudaErrorMisalignedAddress);
        const auto cuda_stream = static_cast<cudaStream_t>(stream);
        if (args.kind == ExchangeKind::kHard)
            return launch_kernel<T, ExchangeKind::kHard>(launch, args.row_blocks, cuda_stream);
        return launch_kernel<T, ExchangeKind::kSoft>(launch, args.row_blocks, cuda_stream);
    });
}

}  // namespace fourreal::cuda
