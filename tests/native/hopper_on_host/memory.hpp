// Shared memory, mbarriers and boxes through tensor maps, after the PTX ISA.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "block.hpp"
#include "hopper_tensor_map.hpp"

namespace hopper_on_host {

inline unsigned char* bytes_at(std::vector<unsigned char>& memory, std::uint32_t address, std::size_t count) {
    require(address >= kSharedWindow && address + count <= memory.size(), "an address outside shared memory");
    return memory.data() + address;
}

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

inline void load_bytes(std::uint32_t target, const void* source, int bytes, std::uint32_t barrier) {
    const auto count = static_cast<std::size_t>(bytes);
    std::memcpy(bytes_at(block->shared, target, count), source, count);
    std::memcpy(bytes_at(block->shared_async, target, count), source, count);
    complete_bytes(barrier, bytes);
}

inline void store_box(const HostTensorMap& map, std::uint32_t source, const int (&corner)[5]) {
    walk_box(map, source, corner, [](std::uint32_t address, unsigned char* element) {
        if (element) std::memcpy(element, bytes_at(block->shared_async, address, 2), 2);
    });
}

}  // namespace hopper_on_host
