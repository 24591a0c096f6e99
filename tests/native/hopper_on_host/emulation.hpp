// The functions of hopper_primitives.cuh, hopper_wgmma.cuh, hopper_tensor_map.hpp and hopper_launch.cuh on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "block.hpp"
#include "fourreal/dtype.hpp"
#include "hopper_tensor_map.hpp"
#include "memory.hpp"
#include "products.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define FOURREAL_DEVICE inline

namespace hopper_on_host {

inline int multiprocessors = 2;
inline int order_of_launches = kEager;

}  // namespace hopper_on_host

namespace fourreal::cuda {

namespace host = hopper_on_host;

inline int thread_index() { return host::block->current; }
inline int block_index() { return host::block->index; }
inline int block_count() { return host::block->count; }
inline int uniform(int value) { return value; }
inline int recompute(int value) { return value; }
inline std::uint32_t shared_base() { return (host::kSharedWindow + 1023u) & ~1023u; }

inline void store_shared(std::uint32_t address, std::uint32_t value) {
    host::require(address % 4 == 0, "a store that is not aligned to 4 bytes");
    std::memcpy(host::bytes_at(host::block->shared, address, 4), &value, 4);
    host::block->unfenced[static_cast<std::size_t>(thread_index())].push_back(address);
}

inline std::uint32_t load_shared(std::uint32_t address) {
    std::uint32_t value;
    std::memcpy(&value, host::bytes_at(host::block->shared, address, 4), 4);
    return value;
}

inline void load_shared_pair(float (&pair)[2], std::uint32_t address) {
    host::require(address % 8 == 0, "a pair that is not aligned to 8 bytes");
    std::memcpy(pair, host::bytes_at(host::block->shared, address, 8), 8);
}

// Returns whether the barrier is complete.
inline bool named_arrive(int barrier, int threads) {
    auto& named = host::block->named[barrier];
    if (++named.arrived < threads) return false;
    named.arrived = 0;
    ++named.generation;
    return true;
}

inline void named_sync(int barrier, int threads) {
    auto& named = host::block->named[barrier];
    const int generation = named.generation;
    if (named_arrive(barrier, threads)) return;
    host::wait_until("bar.sync", [&named, generation] { return named.generation != generation; });
}

inline void block_sync() { named_sync(0, static_cast<int>(host::block->fibers.size())); }
inline void warp_sync() {
    host::meet("__syncwarp", 0, [] {});
}

inline void barrier_init(std::uint32_t barrier, int arrivals) {
    host::BarrierState state{};
    state.pending = state.expected = static_cast<std::uint32_t>(arrivals);
    host::store_barrier(barrier, state);
}

inline void fence_barrier_init() {}

inline void barrier_arrive_expecting(std::uint32_t barrier, int bytes) {
    host::BarrierState state = host::load_barrier(barrier);
    host::require(state.pending > 0, "more arrivals at an mbarrier than its phase has");
    state.bytes += bytes;
    --state.pending;
    host::store_barrier(barrier, state);
}

inline void barrier_arrive(std::uint32_t barrier) { barrier_arrive_expecting(barrier, 0); }

inline void barrier_wait(std::uint32_t barrier, int parity) {
    host::require(parity == 0 || parity == 1, "a parity that is neither 0 nor 1");
    host::wait_until("an mbarrier", [=] { return static_cast<int>(host::load_barrier(barrier).phase) != parity; });
}

inline void prefetch_map(const TensorMap* map) { host::decode(map); }

inline void tensor_load(std::uint32_t target, const TensorMap* map, std::uint32_t barrier, int c0, int c1, int c2,
                        int c3, int c4) {
    const host::HostTensorMap decoded = host::decode(map);
    host::asynchronously([=] { host::load_box(decoded, target, barrier, {c0, c1, c2, c3, c4}); });
}

inline void bulk_load(std::uint32_t target, const void* source, int bytes, std::uint32_t barrier) {
    const bool aligned = (target | reinterpret_cast<std::uintptr_t>(source) | static_cast<unsigned>(bytes)) % 16 == 0;
    host::require(aligned && bytes > 0, "a bulk copy of addresses or bytes that are no multiples of 16");
    host::asynchronously([=] { host::load_bytes(target, source, bytes, barrier); });
}

inline void load_words(std::uint32_t (&words)[4], const void* source) {
    host::require(reinterpret_cast<std::uintptr_t>(source) % 16 == 0, "a load that is not aligned to 16 bytes");
    std::memcpy(words, source, 16);
}

// Stores of boxes are made when the thread waits for them, by then all of them.
inline std::vector<std::pair<int, std::function<void()>>> stores;

inline void tensor_store(const TensorMap* map, std::uint32_t source, int c0, int c1, int c2, int c3, int c4) {
    const host::HostTensorMap decoded = host::decode(map);
    const auto store = [=] { host::store_box(decoded, source, {c0, c1, c2, c3, c4}); };
    if (host::block->order == host::kEager) return store();
    stores.emplace_back(thread_index(), store);
}

inline void wait_stores_read() {
    std::vector<std::pair<int, std::function<void()>>> others;
    for (auto& [thread, store] : stores) {
        if (thread == thread_index())
            store();
        else
            others.emplace_back(thread, store);
    }
    stores = std::move(others);
}

inline void fence_shared_writes() {
    std::vector<std::uint32_t>& written = host::block->unfenced[static_cast<std::size_t>(thread_index())];
    for (std::uint32_t at : written)
        std::memcpy(host::bytes_at(host::block->shared_async, at, 4), host::bytes_at(host::block->shared, at, 4), 4);
    written.clear();
}

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

inline float shuffle_xor(float value, int lanes) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const std::uint64_t* values = host::meet("__shfl_xor_sync", bits, [] {});
    const std::uint32_t other = static_cast<std::uint32_t>(values[(thread_index() % host::kWarp) ^ lanes]);
    std::memcpy(&value, &other, 4);
    return value;
}

inline float exp2_fast(float x) { return std::exp2(x); }
inline float log2_precise(float x) { return std::log2(x); }

template <typename T>
std::uint32_t pack_pair(float low, float high) {
    return static_cast<std::uint32_t>(store<T>(high)) << 16 | static_cast<std::uint32_t>(store<T>(low));
}

template <typename T>
void unpack_pair(float (&values)[2], std::uint32_t pair) {
    values[0] = load(static_cast<T>(pair & 0xffffu));
    values[1] = load(static_cast<T>(pair >> 16));
}

template <typename Register, int kCount>
void pin_registers(Register (&)[kCount]) {}

inline void wgmma_fence() { host::products[static_cast<std::size_t>(thread_index())].fenced = true; }

inline void wgmma_commit() {
    host::ThreadProducts& own = host::products[static_cast<std::size_t>(thread_index())];
    own.groups.push_back(std::move(own.open));
    own.open.clear();
    own.fenced = false;
    // As early as the hardware may: at once; or as late as it may: when the threads wait.
    const std::size_t warp = static_cast<std::size_t>(thread_index() / host::kWarp);
    if (host::block->order == host::kEager)
        host::meet("wgmma.commit_group", 0, [warp] { host::finish_groups(warp, 0); });
}

template <int kPending, int kCount>
void wgmma_wait(float (&)[kCount]) {
    const std::size_t warp = static_cast<std::size_t>(thread_index() / host::kWarp);
    host::meet("wgmma.wait_group", kPending,
               [warp] { host::block->products.push_back([warp] { host::finish_groups(warp, kPending); }); });
    const host::ThreadProducts& own = host::products[static_cast<std::size_t>(thread_index())];
    host::wait_until("wgmma.wait_group", [&own] { return own.groups.size() <= static_cast<std::size_t>(kPending); });
}

template <typename T, int kColumns>
struct Wgmma {
    static constexpr auto kToFloat = host::ToFloat<T>::type::value ? host::bfloat16_value : host::float16_value;

    static void shared(float (&d)[kColumns / 2], std::uint64_t a, std::uint64_t b, int accumulate) {
        host::issue({d, kColumns, a, b, nullptr, accumulate != 0, kToFloat});
    }
    static void registers(float (&d)[kColumns / 2], const std::uint32_t* a, std::uint64_t b, int accumulate) {
        host::issue({d, kColumns, 0, b, a, accumulate != 0, kToFloat});
    }
};

// The documented demands of cuTensorMapEncodeTiled; 1 is cudaErrorInvalidValue.
inline int encode_tensor_map(TensorMap* map, DType, const void* data, const TensorMapLayout& layout) {
    host::HostTensorMap encoded{};
    encoded.data = static_cast<unsigned char*>(const_cast<void*>(data));
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) return 1;
    for (int dim = 0; dim < kMapDims; ++dim) {
        if (layout.sizes[dim] == 0 || layout.sizes[dim] > std::uint64_t{1} << 32) return 1;
        if (layout.box[dim] == 0 || layout.box[dim] > 256 || (dim > 1 && layout.box[dim] != 1)) return 1;
        encoded.sizes[dim] = layout.sizes[dim];
        encoded.strides[dim] = dim == 0 ? 2 : layout.strides[dim - 1] * 2;
        if (dim > 0 && (encoded.strides[dim] % 16 != 0 || encoded.strides[dim] >= std::uint64_t{1} << 40 ||
                        encoded.strides[dim] == 0))
            return 1;
    }
    if (layout.box[0] * 2 > 128) return 1;  // the inner box of the 128-byte swizzle
    encoded.box_columns = static_cast<std::uint8_t>(layout.box[0]);
    encoded.box_rows = static_cast<std::uint16_t>(layout.box[1]);
    encoded.mark = host::kMark;
    std::memcpy(map, &encoded, sizeof(encoded));
    return 0;
}

template <int kBlocksOfMultiprocessor = 1, typename Kernel, typename Parameters>
int launch_persistent(Kernel kernel, int most_blocks, int threads, int shared_bytes, void*,
                      const Parameters& parameters) {
    const int at_once = kBlocksOfMultiprocessor * host::multiprocessors;
    const int blocks = most_blocks < at_once ? most_blocks : at_once;
    for (int index = 0; index < blocks; ++index) {
        host::products.assign(static_cast<std::size_t>(threads), {});
        host::issued.clear();
        host::run_block(index, blocks, threads, shared_bytes, static_cast<host::Order>(host::order_of_launches),
                        [&] { kernel(parameters); });
        host::require(stores.empty(), "stores of boxes that no thread has waited for");
    }
    return 0;
}

}  // namespace fourreal::cuda
