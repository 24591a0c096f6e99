// Warpgroup products after the PTX ISA: descriptors decoded from their bits, register fragments, groups.
#pragma once

#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "block.hpp"
#include "fourreal/dtype.hpp"
#include "memory.hpp"

namespace hopper_on_host {

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
        const auto in_group = static_cast<std::uint32_t>(row % 8 * 128 + k * 2);
        return swizzled(address + static_cast<std::uint32_t>(row / 8) * stride + in_group);
    }
    // Element `k` of column `column` of an MN-major matrix.
    std::uint32_t mn_major(int column, int k) const {
        const auto in_group = static_cast<std::uint32_t>(column % 64 * 2 + k % 8 * 128);
        return swizzled(address + static_cast<std::uint32_t>(column / 64) * leading +
                        static_cast<std::uint32_t>(k / 8) * stride + in_group);
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
    for (int row = 0; row < 16; ++row) {
        float sums[256] = {};
        for (int k = 0; k < 16; ++k)
            for (int column = 0; column < first.columns; ++column) sums[column] += a[row][k] * b[k][column];
        for (int column = 0; column < first.columns; ++column) {
            const Product& owner = lanes[static_cast<std::size_t>(row % 8 * 4 + column % 8 / 2)];
            float& d = owner.d[column / 8 * 4 + row / 8 * 2 + column % 2];
            d = owner.accumulate ? d + sums[column] : sums[column];
        }
    }
}

// Completes groups of a warp until `left` are pending.
inline void finish_groups(std::size_t warp, std::size_t left) {
    ThreadProducts* lanes = &products[warp * kWarp];
    while (lanes[0].groups.size() > left) {
        for (std::size_t i = 0; i < lanes[0].groups.front().size(); ++i) {
            std::vector<Product> together;
            for (int lane = 0; lane < kWarp; ++lane) {
                const auto& groups = lanes[lane].groups;
                require(!groups.empty() && groups.front().size() == lanes[0].groups.front().size(),
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
