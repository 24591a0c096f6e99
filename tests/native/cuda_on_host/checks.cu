// Kernels that use, or misuse, what the shim offers: `checks NAME` runs one and prints its results or how it fails.
#include <cstdio>
#include <cstring>
#include <vector>

#include "launch.cuh"

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr int kWarps = 3;

// One sum per block of a three-dimensional grid: shuffles within warps, shared memory and barriers between them.
__global__ void __launch_bounds__(96) block_sums(const float* values, float* sums) {
    __shared__ float warp_sums[kWarps];
    FOURREAL_DYNAMIC_SHARED(float, staged);
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    staged[thread] = values[block * threads + thread];
    __syncthreads();
    float sum = staged[threads - 1 - thread];
    for (int offset = warpSize / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
    if (thread % warpSize == 0) warp_sums[thread / warpSize] = sum;
    __syncthreads();
    if (thread == 0) {
        for (int warp = 1; warp < kWarps; ++warp) sum += warp_sums[warp];
        sums[block] = sum;
    }
}

int sums() {
    const dim3 grid(2, 3, 2), block(4, 8, 3);
    std::vector<float> values(12 * 96), results(12, -1.0f);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
    FOURREAL_LAUNCH(block_sums, grid, block, 96 * sizeof(float), nullptr, values.data(), results.data());
    for (int b = 0; b < 12; ++b)
        if (results[b] != 96.0f * 96.0f * b + 95.0f * 48.0f) return 1;
    return cudaGetLastError();
}

template <typename T>
__global__ void all_shuffles(T* out) {
    const int lane = threadIdx.x;
    const T value = static_cast<T>(lane) / 4 + static_cast<T>(lane) * 1000;
    out[lane] = __shfl_sync(kAll, value, 5);
    out[32 + lane] = __shfl_sync(kAll, value, lane + 9, 8);
    out[64 + lane] = __shfl_up_sync(kAll, value, 3, 16);
    out[96 + lane] = __shfl_down_sync(kAll, value, 3, 16);
    out[128 + lane] = __shfl_xor_sync(kAll, value, 6);
    out[160 + lane] = __shfl_xor_sync(kAll, value, 12, 8);
    __syncwarp();
    if (lane < 16) out[192 + lane] = __shfl_down_sync(0xffffu, value, 1, 16);
}

// From which lane each result comes.
int source(int form, int lane) {
    switch (form) {
        case 0: return 5;
        case 1: return lane / 8 * 8 + (lane + 9) % 8;
        case 2: return lane % 16 >= 3 ? lane - 3 : lane;
        case 3: return lane % 16 < 13 ? lane + 3 : lane;
        case 4: return lane ^ 6;
        case 5: return (lane ^ 12) < lane / 8 * 8 + 8 ? lane ^ 12 : lane;
        default: return lane < 15 ? lane + 1 : lane;
    }
}

template <typename T>
int shuffles_of() {
    std::vector<T> out(208);
    FOURREAL_LAUNCH(all_shuffles<T>, 1, 32, 0, nullptr, out.data());
    for (int i = 0; i < 208; ++i) {
        const int lane = source(i / 32, i % 32);
        if (out[i] != static_cast<T>(lane) / 4 + static_cast<T>(lane) * 1000) return 1;
    }
    return 0;
}

int shuffles() {
    return shuffles_of<int>() + shuffles_of<unsigned>() + shuffles_of<float>() + shuffles_of<double>() +
           shuffles_of<long long>() + shuffles_of<unsigned long long>();
}

__global__ void vote(unsigned* out) {
    const unsigned thread = threadIdx.x;
    const unsigned odd = __ballot_sync(kAll, thread % 2);
    const int any = __any_sync(kAll, thread == 40);
    if (thread % 32 == 0) {
        out[thread / 32] = odd;
        out[2 + thread / 32] = any;
    }
}

int votes() {
    unsigned out[4] = {};
    FOURREAL_LAUNCH(vote, 1, 64, 0, nullptr, out);
    return out[0] == 0xaaaaaaaau && out[1] == 0xaaaaaaaau && out[2] == 0 && out[3] == 1 ? 0 : 1;
}

__global__ void read_before_writing(float* out) {
    __shared__ float fixed[2];
    FOURREAL_DYNAMIC_SHARED(float, dynamic);
    out[2 * blockIdx.x] = fixed[1];
    out[2 * blockIdx.x + 1] = dynamic[7];
    fixed[1] = dynamic[7] = 1.0f;
}

int poison() {
    float out[6] = {};
    FOURREAL_LAUNCH(read_before_writing, 3, 1, 8 * sizeof(float), nullptr, out);
    for (float value : out)
        if (value == value) return 1;
    return 0;
}

__global__ void note_order(int* order, int* count) { order[(*count)++] = static_cast<int>(threadIdx.x); }

int both_orders() {
    int order[6] = {}, count = 0;
    FOURREAL_LAUNCH(note_order, 2, 3, 0, nullptr, order, &count);
    const int expected[6] = {0, 1, 2, 2, 1, 0};
    return std::memcmp(order, expected, sizeof(order)) == 0 ? 0 : 1;
}

__global__ void nothing(int) {}

int refused_launches() {
    FOURREAL_LAUNCH(nothing, 1, 1025, 0, nullptr, 0);
    if (cudaGetLastError() != cudaErrorInvalidConfiguration || cudaGetLastError() != cudaSuccess) return 1;
    FOURREAL_LAUNCH(nothing, dim3(1, 65536), 32, 0, nullptr, 0);
    if (cudaGetLastError() != cudaErrorInvalidConfiguration) return 1;
    FOURREAL_LAUNCH(nothing, 1, 32, 232449, nullptr, 0);
    return cudaGetLastError() == cudaErrorInvalidValue ? 0 : 1;
}

__global__ void return_before_barrier(unsigned thread) {
    if (threadIdx.x == thread) return;
    __syncthreads();
}

__global__ void two_barriers(unsigned threads) {
    if (threadIdx.x < threads) __syncthreads();
    else __syncthreads();
}

__global__ void shuffle_in_half_a_warp(float* out) {
    if (threadIdx.x < 16) out[0] = __shfl_xor_sync(kAll, 1.0f, 1);
}

__global__ void shuffle_in_a_short_warp(float* out) { out[0] = __shfl_xor_sync(kAll, 1.0f, 1); }

__global__ void shuffle_outside_of_the_mask(float* out) { out[0] = __shfl_xor_sync(0xffffu, 1.0f, 1); }

__global__ void shuffle_against_a_barrier(float* out) {
    if (threadIdx.x < 16) out[0] = __shfl_xor_sync(kAll, 1.0f, 1);
    else __syncthreads();
}

// By a pointer: UndefinedBehaviorSanitizer knows the bounds of arrays itself.
__attribute__((noinline)) void write(float* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = 1.0f;
}

__global__ void write_beyond_dynamic(int count) {
    FOURREAL_DYNAMIC_SHARED(float, values);
    write(values, count);
}

__global__ void write_beyond_static(int count) {
    __shared__ float values[24];
    __syncthreads();
    write(values, count);
}

__global__ void write_beyond_local(int count) {
    float values[24];
    __syncthreads();
    write(values, count);
}

template <typename... Arguments>
int survive(void (*kernel)(Arguments...), int threads, Arguments... arguments) {
    FOURREAL_LAUNCH(kernel, 1, threads, 24 * sizeof(float), nullptr, arguments...);
    return 0;
}

int run(const char* name) {
    float out = 0.0f;
    const auto is = [name](const char* other) { return std::strcmp(name, other) == 0; };
    if (is("sums")) return sums();
    if (is("shuffles")) return shuffles();
    if (is("votes")) return votes();
    if (is("poison")) return poison();
    if (is("both orders")) return both_orders();
    if (is("refused launches")) return refused_launches();
    if (is("return before a barrier")) return survive(return_before_barrier, 64, 7u);
    if (is("two barriers")) return survive(two_barriers, 64, 32u);
    if (is("half a warp")) return survive(shuffle_in_half_a_warp, 32, &out);
    if (is("short warp")) return survive(shuffle_in_a_short_warp, 16, &out);
    if (is("outside of the mask")) return survive(shuffle_outside_of_the_mask, 32, &out);
    if (is("shuffle against barrier")) return survive(shuffle_against_a_barrier, 32, &out);
    if (is("beyond dynamic")) return survive(write_beyond_dynamic, 1, 25);
    if (is("beyond static")) return survive(write_beyond_static, 2, 25);
    if (is("beyond local")) return survive(write_beyond_local, 2, 25);
    if (is("within")) return survive(write_beyond_dynamic, 1, 24) + survive(write_beyond_static, 2, 24);
    return 2;
}

}  // namespace

int main(int count, char** arguments) {
    const int failed = count == 2 ? run(arguments[1]) : 2;
    std::puts(failed ? "failed" : "passed");
    return failed;
}
