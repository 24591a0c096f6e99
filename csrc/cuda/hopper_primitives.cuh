// The instructions of Hopper (sm_90a) that the attention kernels and their micro-tests use, one function each.
//
// Addresses of shared memory are 32-bit numbers. Tests define FOURREAL_HOPPER_EMULATION as a header that has the same
// functions for the host.
#pragma once

#if defined(FOURREAL_HOPPER_EMULATION)
#include FOURREAL_HOPPER_EMULATION
#else

#include <cstdint>

#include <cuda_runtime.h>

#include "fourreal/dtype.hpp"
#include "hopper_tensor_map.hpp"
#include "hopper_wgmma.cuh"

#define FOURREAL_DEVICE __device__ __forceinline__

namespace fourreal::cuda {

// Read anew at every call: what follows from it need not be kept in registers.
FOURREAL_DEVICE int thread_index() {
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}
FOURREAL_DEVICE int block_index() { return static_cast<int>(blockIdx.x); }
FOURREAL_DEVICE int block_count() { return static_cast<int>(gridDim.x); }

// A number that is the same in all lanes of a warp, as one register of the warp.
FOURREAL_DEVICE int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// The dynamic shared memory from its first multiple of 1024 bytes on.
FOURREAL_DEVICE std::uint32_t shared_base() {
    extern __shared__ __align__(1024) unsigned char shared_bytes[];
    return (static_cast<std::uint32_t>(__cvta_generic_to_shared(shared_bytes)) + 1023u) & ~1023u;
}

FOURREAL_DEVICE void store_shared(std::uint32_t address, std::uint32_t value) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

FOURREAL_DEVICE std::uint32_t load_shared(std::uint32_t address) {
    std::uint32_t value;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
    return value;
}

// Two neighbouring floats, aligned to 8 bytes.
FOURREAL_DEVICE void load_shared_pair(float (&pair)[2], std::uint32_t address) {
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair[0]), "=f"(pair[1]) : "r"(address) : "memory");
}

// ---- Barriers ----

FOURREAL_DEVICE void block_sync() { __syncthreads(); }
FOURREAL_DEVICE void warp_sync() { __syncwarp(); }

// Barriers 1 to 15 of a block; all `threads` take part, a multiple of 32.
FOURREAL_DEVICE void named_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Counts as having come to the barrier, without waiting there.
FOURREAL_DEVICE void named_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// An mbarrier's phase ends when `arrivals` threads have arrived and all bytes that were announced have been copied.
FOURREAL_DEVICE void barrier_init(std::uint32_t barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised mbarriers known to the copy engine; a block_sync() makes them known to the other threads.
FOURREAL_DEVICE void fence_barrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

FOURREAL_DEVICE void barrier_arrive(std::uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

FOURREAL_DEVICE void barrier_arrive_expecting(std::uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Returns once the phase of this parity has ended; the phase before the first has parity 1.
FOURREAL_DEVICE void barrier_wait(std::uint32_t barrier, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(barrier),
        "r"(parity)
        : "memory");
}

// ---- Copies of boxes ----

FOURREAL_DEVICE void prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<std::uint64_t>(map)) : "memory");
}

// Coordinates are those of the box's first element, dim 0 first.
FOURREAL_DEVICE void tensor_load(std::uint32_t target, const TensorMap* map, std::uint32_t barrier, int c0, int c1,
                                 int c2, int c3, int c4) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
        "[%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(target),
        "l"(reinterpret_cast<std::uint64_t>(map)), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
}

FOURREAL_DEVICE void tensor_store(const TensorMap* map, std::uint32_t source, int c0, int c1, int c2, int c3, int c4) {
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
            reinterpret_cast<std::uint64_t>(map)),
        "r"(source), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
        : "memory");
}

// `bytes` in a row, all a multiple of 16.
FOURREAL_DEVICE void bulk_load(std::uint32_t target, const void* source, int bytes, std::uint32_t barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
        "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier)
        : "memory");
}

// 16 bytes of global memory, aligned to 16.
FOURREAL_DEVICE void load_words(std::uint32_t (&words)[4], const void* source) {
    const uint4 loaded = *static_cast<const uint4*>(source);
    words[0] = loaded.x, words[1] = loaded.y, words[2] = loaded.z, words[3] = loaded.w;
}

// Makes this thread's writes to shared memory visible to wgmma and to stores of boxes.
FOURREAL_DEVICE void fence_shared_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Waits until the thread's stores of boxes have read their shared memory.
FOURREAL_DEVICE void wait_stores_read() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// ---- Registers and arithmetic ----

// The same number, of which the compiler does not know that: what follows from it is computed again instead of kept.
FOURREAL_DEVICE int recompute(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

template <int kRegisters>
FOURREAL_DEVICE void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
FOURREAL_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

FOURREAL_DEVICE float shuffle_xor(float value, int lanes) { return __shfl_xor_sync(0xffffffffu, value, lanes); }

FOURREAL_DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

FOURREAL_DEVICE float log2_precise(float x) { return log2f(x); }

// Two floats rounded to nearest even, the first in the lower half.
template <typename T>
FOURREAL_DEVICE std::uint32_t pack_pair(float low, float high);
template <>
FOURREAL_DEVICE std::uint32_t pack_pair<BFloat16>(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <>
FOURREAL_DEVICE std::uint32_t pack_pair<Float16>(float low, float high) {
    std::uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// The two numbers of a pair.
template <typename T>
FOURREAL_DEVICE void unpack_pair(float (&values)[2], std::uint32_t pair);
template <>
FOURREAL_DEVICE void unpack_pair<BFloat16>(float (&values)[2], std::uint32_t pair) {
    values[0] = __uint_as_float(pair << 16);
    values[1] = __uint_as_float(pair & 0xffff0000u);
}
template <>
FOURREAL_DEVICE void unpack_pair<Float16>(float (&values)[2], std::uint32_t pair) {
    asm("{\n.reg .f16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}\n"
        : "=f"(values[0]), "=f"(values[1])
        : "r"(pair));
}

}  // namespace fourreal::cuda

#endif
