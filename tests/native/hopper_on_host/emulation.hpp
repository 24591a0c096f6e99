// The functions of hopper_primitives.cuh on the host, after the PTX ISA: mbarriers, boxes through tensor maps with the 128-byte
// swizzle, wgmma with descriptors decoded from their bits, and the two views of shared memory between which
// fence.proxy.async moves writes.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "block.hpp"
#include "fourreal/dtype.hpp"
#include "hopper_tensor_map.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define FOURREAL_DEVICE inline

namespace hopper_on_host {

inline int multiprocessors = 2;
inline int order_of_launches = kEager;

inline unsigned char* bytes_at(std::vector<unsigned char>& memory, std::uint32_t address, std::size_t count) {
    require(address >= kSharedWindow && address + count <= memory.size(), "an address outside the block's shared memory");
    return memory.data() + address;
}

// ---- mbarriers ----

// The 64 bits of an mbarrier; the ISA leaves their meaning open.
struct BarrierState {
    std::uint32_t pending : 15;
    std::uint32_t expected : 15;
    std::uint32_t phase : 1;
    std::uint32_t invalid : 1;  // memory that was never initialised is all ones
    std::int32_t bytes;
};
static_assert(sizeof(BarrierState) == 8);

inline BarrierState load_barrier(std::uint32_t address) {
    require(address % 8 == 0, "an mbarrier is not aligned to 8 bytes");
    BarrierState state;
    std::memcpy(&state, bytes_at(block->shared, address, 8), 8);
    require(!state.invalid, "an mbarrier is used before it is initialised");
    return state;
}

inline void store_barrier(std::uint32_t address, BarrierState state) {
    if (state.pending == 0 && state.bytes == 0) {
        state.phase ^= 1u;
        state.pending = state.expected;
    }
    std::memcpy(bytes_at(block->shared, address, 8), &state, 8);
}

inline void complete_bytes(std::uint32_t barrier, int bytes) {
    BarrierState state = load_barrier(barrier);
    state.bytes -= bytes;
    store_barrier(barrier, state);
}

// ---- Tensor maps ----

struct HostTensorMap {
    unsigned char* data;
    std::uint64_t sizes[5];
    std::uint64_t strides[5];  // in bytes
    std::uint8_t box_columns, padding;
    std::uint16_t box_rows;
    std::uint32_t mark;
};
constexpr std::uint32_t kMark = 0x7e450a;
static_assert(sizeof(HostTensorMap) <= sizeof(fourreal::cuda::TensorMap));

inline HostTensorMap decode(const fourreal::cuda::TensorMap* map) {
    require(reinterpret_cast<std::uintptr_t>(map) % 64 == 0, "a tensor map is not aligned to 64 bytes");
    HostTensorMap result;
    std::memcpy(&result, map, sizeof(result));
    require(result.mark == kMark, "no tensor map");
    return result;
}

inline std::uint32_t swizzled(std::uint32_t address) { return address ^ (address >> 7 & 7u) << 4; }

// Calls visit(shared address, element or null outside the tensor) for every element of a box.
template <typename Visit>
void walk_box(const HostTensorMap& map, std::uint32_t shared, const int (&corner)[5], const Visit& visit) {
    require(shared % 128 == 0, "a box in shared memory is not aligned to 128 bytes");
    for (int row = 0; row < map.box_rows; ++row)
        for (int column = 0; column < map.box_columns; ++column) {
            const std::int64_t at[5] = {corner[0] + column, corner[1] + row, corner[2], corner[3], corner[4]};
            unsigned char* element = map.data;
            for (int dim = 0; dim < 5 && element; ++dim) {
                const bool inside = at[dim] >= 0 && static_cast<std::uint64_t>(at[dim]) < map.sizes[dim];
                element = inside ? element + static_cast<std::uint64_t>(at[dim]) * map.strides[dim] : nullptr;
            }
            visit(swizzled(shared + static_cast<std::uint32_t>(row * 128 + column * 2)), element);
        }
}

inline void load_box(const HostTensorMap& map, std::uint32_t target, std::uint32_t barrier, const int (&corner)[5]) {
    walk_box(map, target, corner, [](std::uint32_t address, const unsigned char* element) {
        const unsigned char zero[2] = {0, 0};
        std::memcpy(bytes_at(block->shared, address, 2), element ? element : zero, 2);
        std::memcpy(bytes_at(block->shared_async, address, 2), element ? element : zero, 2);
    });
    complete_bytes(barrier, map.box_columns * map.box_rows * 2);
}

inline void store_box(const HostTensorMap& map, std::uint32_t source, const int (&corner)[5]) {
    walk_box(map, source, corner, [](std::uint32_t address, unsigned char* element) {
        if (element) std::memcpy(element, bytes_at(block->shared_async, address, 2), 2);
    });
}

// ---- wgmma ----

struct Product {
    float* d;
    int columns;
    std::uint64_t a, b;
    const std::uint32_t* a_registers;  // null: a is a descriptor
    bool accumulate;
    float (*to_float)(std::uint16_t);
};

struct ThreadProducts {
    std::vector<Product> open;
    std::deque<std::vector<Product>> groups;
    bool fenced = false;
    int issued = 0;
};

inline std::vector<ThreadProducts> products;
// What every warp of a warpgroup has to issue: (warpgroup, number) -> descriptors.
inline std::map<std::pair<int, int>, std::pair<std::uint64_t, std::uint64_t>> issued;

struct Descriptor {
    std::uint32_t address, leading, stride;

    explicit Descriptor(std::uint64_t bits)
        : address(static_cast<std::uint32_t>(bits & 0x3fff) << 4),
          leading(static_cast<std::uint32_t>(bits >> 16 & 0x3fff) << 4),
          stride(static_cast<std::uint32_t>(bits >> 32 & 0x3fff) << 4) {
        require(bits >> 62 == 1, "a descriptor without the 128-byte swizzle");
        require((bits >> 49 & 7) == 0, "a descriptor with a base offset");
        require((bits & 0x1fff'c000'c000'c000) == 0, "a descriptor with bits between its fields");
    }
    // Row `row` of a K-major matrix, element `k` of its 16.
    std::uint32_t k_major(int row, int k) const {
        return swizzled(address + static_cast<std::uint32_t>(row / 8) * stride + static_cast<std::uint32_t>(row % 8 * 128 + k * 2));
    }
    // Element `k` of column `column` of an MN-major matrix.
    std::uint32_t mn_major(int column, int k) const {
        return swizzled(address + static_cast<std::uint32_t>(column / 64) * leading + static_cast<std::uint32_t>(k / 8) * stride +
                        static_cast<std::uint32_t>(column % 64 * 2 + k % 8 * 128));
    }
};

inline float element(const Product& product, std::uint32_t address) {
    std::uint16_t bits;
    std::memcpy(&bits, bytes_at(block->shared_async, address, 2), 2);
    return product.to_float(bits);
}

// The 16 rows of one warp of a product, all lanes' registers at hand.
inline void multiply_warp(const std::vector<Product>& lanes, int warp) {
    const Product& first = lanes[0];
    const Descriptor b_bits(first.b);
    static thread_local float a[16][16], b[16][256];
    for (int k = 0; k < 16; ++k)
        for (int column = 0; column < first.columns; ++column)
            b[k][column] = element(first, first.a_registers ? b_bits.mn_major(column, k) : b_bits.k_major(column, k));
    for (int row = 0; row < 16; ++row)
        for (int k = 0; k < 16; ++k) {
            if (!first.a_registers) {
                a[row][k] = element(first, Descriptor(first.a).k_major(warp % 4 * 16 + row, k));
                continue;
            }
            const Product& owner = lanes[static_cast<std::size_t>(row % 8 * 4 + k % 8 / 2)];
            const std::uint32_t pair = owner.a_registers[k / 8 * 2 + row / 8];
            a[row][k] = first.to_float(static_cast<std::uint16_t>(k % 2 ? pair >> 16 : pair));
        }
    for (int lane = 0; lane < kWarp; ++lane)
        for (int i = 0; i < first.columns / 2; ++i) {
            const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            float sum = 0.0f;
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            float& d = lanes[static_cast<std::size_t>(lane)].d[i];
            d = lanes[static_cast<std::size_t>(lane)].accumulate ? d + sum : sum;
        }
}

// Completes groups of a warp until `left` are pending.
inline void finish_groups(std::size_t warp, std::size_t left) {
    ThreadProducts* lanes = &products[warp * kWarp];
    while (lanes[0].groups.size() > left) {
        for (std::size_t i = 0; i < lanes[0].groups.front().size(); ++i) {
            std::vector<Product> together;
            for (int lane = 0; lane < kWarp; ++lane) {
                require(!lanes[lane].groups.empty() && lanes[lane].groups.front().size() == lanes[0].groups.front().size(),
                        "the lanes of a warp have issued different products");
                together.push_back(lanes[lane].groups.front()[i]);
                require(together[0].a == together.back().a && together[0].b == together.back().b,
                        "the lanes of a warp have different descriptors");
            }
            multiply_warp(together, static_cast<int>(warp));
        }
        for (int lane = 0; lane < kWarp; ++lane) lanes[lane].groups.pop_front();
    }
}

inline void issue(const Product& product) {
    ThreadProducts& own = products[static_cast<std::size_t>(block->current)];
    require(own.fenced, "wgmma without wgmma.fence");
    const auto key = std::make_pair(block->current / 128, own.issued++);
    const auto descriptors = std::make_pair(product.a, product.b);
    require(issued.emplace(key, descriptors).first->second == descriptors,
            "the warps of a warpgroup have issued different products");
    own.open.push_back(product);
}

inline float bfloat16_value(std::uint16_t bits) { return fourreal::load(static_cast<fourreal::BFloat16>(bits)); }
inline float float16_value(std::uint16_t bits) { return fourreal::load(static_cast<fourreal::Float16>(bits)); }
template <typename T>
using ToFloat = std::conditional<std::is_same<T, fourreal::BFloat16>::value, std::true_type, std::false_type>;

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

inline void tensor_load(std::uint32_t target, const TensorMap* map, std::uint32_t barrier, int c0, int c1, int c2, int c3,
                        int c4) {
    const host::HostTensorMap decoded = host::decode(map);
    host::asynchronously([=] { host::load_box(decoded, target, barrier, {c0, c1, c2, c3, c4}); });
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
    for (std::uint32_t address : written)
        std::memcpy(host::bytes_at(host::block->shared_async, address, 4), host::bytes_at(host::block->shared, address, 4), 4);
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

template <typename Kernel, typename Parameters>
int launch_persistent(Kernel kernel, int most_blocks, int threads, int shared_bytes, void*, const Parameters& parameters) {
    const int blocks = most_blocks < host::multiprocessors ? most_blocks : host::multiprocessors;
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
