// How tiles of 16-bit elements lie in shared memory for the Hopper kernels, and the descriptors that tell wgmma.
//
// A tile is one or more panels of 64 columns; a row of a panel is 128 bytes. Tensor maps and wgmma both exchange the
// 16-byte chunks of a row by the 128-byte swizzle, which repeats every 8 rows: panels start at multiples of 1024 bytes.
#pragma once

#include <cstdint>

#include "fourreal/grid.hpp"

namespace fourreal::cuda {

constexpr int kPanelColumns = 64;
constexpr int kPanelRowBytes = 128;
constexpr int kSwizzleRows = 8;
constexpr int kSwizzleBytes = kSwizzleRows * kPanelRowBytes;
constexpr int kWgmmaRows = 64;   // rows of a warpgroup's product
constexpr int kWgmmaDepth = 16;  // elements that one wgmma sums over
constexpr int kDepthsOfPanel = kPanelColumns / kWgmmaDepth;

// Byte of an element of a panel: bits 4 to 6 of the address are combined with bits 7 to 9.
FOURREAL_HOST_DEVICE constexpr std::uint32_t panel_offset(int row, int column) {
    const std::uint32_t chunk = static_cast<std::uint32_t>(column / 8) ^ static_cast<std::uint32_t>(row % kSwizzleRows);
    return static_cast<std::uint32_t>(row) * kPanelRowBytes + chunk * 16 + static_cast<std::uint32_t>(column % 8) * 2;
}

// PTX ISA, "Asynchronous warpgroup level matrix shared memory layout": addresses and offsets in units of 16 bytes,
// swizzle 1 means 128 bytes. Neighbouring groups of 8 rows are `stride_bytes` apart, neighbouring panels
// `leading_bytes`.
FOURREAL_HOST_DEVICE constexpr std::uint64_t matrix_descriptor(std::uint32_t address, std::uint32_t leading_bytes,
                                                               std::uint32_t stride_bytes) {
    const std::uint64_t start = (address & 0x3ffffu) >> 4, leading = leading_bytes >> 4, stride = stride_bytes >> 4;
    return start | leading << 16 | stride << 32 | std::uint64_t{1} << 62;
}

// Rows x 16 columns of a panel, summed over the columns (K-major). The leading offset is not used, as 16 columns stay
// inside the swizzle.
FOURREAL_HOST_DEVICE constexpr std::uint64_t columns_descriptor(std::uint32_t panel) {
    return matrix_descriptor(panel, 16, kSwizzleBytes);
}

// 16 rows of a tile, summed over the rows (MN-major); `panel_bytes` separates the tile's panels.
FOURREAL_HOST_DEVICE constexpr std::uint64_t rows_descriptor(std::uint32_t tile, std::uint32_t panel_bytes) {
    return matrix_descriptor(tile, panel_bytes, kSwizzleBytes);
}

// The descriptor of a matrix that starts `bytes` later, to be added: shared memory ends below the address field's
// carry.
FOURREAL_HOST_DEVICE constexpr std::uint64_t descriptor_step(int bytes) {
    return static_cast<std::uint64_t>(bytes >> 4);
}
constexpr int kColumnsStepBytes = kWgmmaDepth * 2;           // the next 16 columns
constexpr int kRowsStepBytes = kWgmmaDepth * kPanelRowBytes;  // the next 16 rows

}  // namespace fourreal::cuda
