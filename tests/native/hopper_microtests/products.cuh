// Warpgroup products with a in shared memory and in registers, b K-major and MN-major.
#pragma once

#include "support.cuh"

namespace hopper_microtests {

using namespace fourreal;
using namespace fourreal::cuda;

// d = a b: `a` is 64 x kDepth. K-major: b is kColumns x kDepth; MN-major: kDepth x kColumns.
struct ProductTest {
    const std::uint32_t* a;  // pairs of elements, rows after rows; so is b
    const std::uint32_t* b;
    float* d;
    std::uint32_t leading_bytes, stride_bytes;  // of the MN-major descriptor
};

// A row-major matrix of 16-bit pairs as panels of 64 columns.
FOURREAL_DEVICE void fill_panels(std::uint32_t tile, const std::uint32_t* pairs, int rows, int columns) {
    for (int i = thread_index(); i < rows * columns / 2; i += 128) {
        const int row = i / (columns / 2), column = i % (columns / 2) * 2;
        store_shared(tile + column / kPanelColumns * rows * kPanelRowBytes + panel_offset(row, column % kPanelColumns),
                     pairs[i]);
    }
}

template <typename T, int kColumnCount, int kDepth, bool kRegisters>
__global__ void __launch_bounds__(128, 1) product_kernel(const __grid_constant__ ProductTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    constexpr int kBRows = kRegisters ? kDepth : kColumnCount;
    constexpr int kBytesOfA = (kDepth + kPanelColumns - 1) / kPanelColumns * kWgmmaRows * kPanelRowBytes;
    const std::uint32_t a_tile = shared_base(), b_tile = a_tile + kBytesOfA;
    if constexpr (!kRegisters) fill_panels(a_tile, test.a, kWgmmaRows, kDepth);
    fill_panels(b_tile, test.b, kBRows, kRegisters ? kColumnCount : kDepth);
    fence_shared_writes();
    block_sync();

    const int warp = thread_index() / 32, lane = thread_index() % 32, row = warp * 16 + lane / 4;
    float d[kColumnCount / 2];
    std::uint32_t a[kDepth / 4];
#pragma unroll
    for (int i = 0; i < kDepth / 4; ++i)  // a[4 s + 2 c + r]: depth step s, columns 8 c, row 8 r
        a[i] = test.a[(row + i % 2 * 8) * (kDepth / 2) + i / 4 * 8 + i / 2 % 2 * 4 + lane % 4];
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kDepth / kWgmmaDepth; ++step) {
        if constexpr (kRegisters) {
            const std::uint64_t b = matrix_descriptor(b_tile, test.leading_bytes, test.stride_bytes);
            Wgmma<T, kColumnCount>::registers(d, a + 4 * step, b + descriptor_step(step * kRowsStepBytes), step > 0);
        } else {
            const int panel = step / kDepthsOfPanel, offset = step % kDepthsOfPanel * kColumnsStepBytes;
            Wgmma<T, kColumnCount>::shared(
                d, columns_descriptor(a_tile) + descriptor_step(panel * kWgmmaRows * kPanelRowBytes + offset),
                columns_descriptor(b_tile) + descriptor_step(panel * kBRows * kPanelRowBytes + offset), step > 0);
        }
    }
    wgmma_commit();
    wgmma_wait<0>(d);
#pragma unroll
    for (int i = 0; i < kColumnCount / 2; ++i)
        test.d[(row + i / 2 % 2 * 8) * kColumnCount + i / 4 * 8 + lane % 4 * 2 + i % 2] = d[i];
#endif
}

// Small integers, all products and sums exact; no two rows or columns are alike.
inline int entry(int row, int column, int salt) {
    return ((row * 37 + column * 101 + salt * 13) % 251 * 7 + row + column) % 9 - 4;
}

template <typename T>
std::vector<std::uint32_t> matrix_pairs(int rows, int columns, int salt) {
    std::vector<std::uint32_t> pairs;
    for (int row = 0; row < rows; ++row)
        for (int column = 0; column < columns; column += 2) {
            const auto bits = [&](int at) {
                return static_cast<std::uint32_t>(store<T>(static_cast<float>(entry(row, at, salt))));
            };
            pairs.push_back(bits(column) | bits(column + 1) << 16);
        }
    return pairs;
}

template <typename T, int kColumnCount, int kDepth, bool kRegisters>
Outcome product_with(std::uint32_t leading_bytes, std::uint32_t stride_bytes) {
    const int b_rows = kRegisters ? kDepth : kColumnCount, b_columns = kRegisters ? kColumnCount : kDepth;
    const Buffer<std::uint32_t> a(matrix_pairs<T>(kWgmmaRows, kDepth, 1)), b(matrix_pairs<T>(b_rows, b_columns, 2));
    const Buffer<float> d(std::vector<float>(kWgmmaRows * kColumnCount, -12345.0f));
    const ProductTest test{a.data(), b.data(), d.data(), leading_bytes, stride_bytes};
    constexpr auto kernel = product_kernel<T, kColumnCount, kDepth, kRegisters>;
    require(launch_persistent(kernel, 1, 128, kSharedBytes, nullptr, test), "launch");
    std::vector<float> expected;
    for (int row = 0; row < kWgmmaRows; ++row)
        for (int column = 0; column < kColumnCount; ++column) {
            int sum = 0;
            for (int k = 0; k < kDepth; ++k)
                sum += entry(row, k, 1) * (kRegisters ? entry(k, column, 2) : entry(column, k, 2));
            expected.push_back(static_cast<float>(sum));
        }
    Outcome outcome;
    outcome.compare(d.values(), expected);
    return outcome;
}

template <typename T>
Outcome product_of_shared() {
    return product_with<T, 128, 128, false>(0, 0);
}

// One panel: the leading offset plays no part.
template <typename T>
Outcome product_of_registers() {
    return product_with<T, 64, 32, true>(16, kSwizzleBytes);
}

// Two panels. If the descriptor of the kernels is wrong, says which other one is right.
template <typename T>
Outcome product_with_mn_major() {
    constexpr std::uint32_t kPanelBytes = 64 * kPanelRowBytes;
    Outcome outcome = product_with<T, 128, 64, true>(kPanelBytes, kSwizzleBytes);
    if (outcome.wrong == 0) return outcome;
    const std::uint32_t candidates[][2] = {{kSwizzleBytes, kPanelBytes}, {16, kSwizzleBytes},   {kSwizzleBytes, 16},
                                           {128, kPanelBytes},           {kPanelBytes, 128},    {kPanelBytes, 16},
                                           {16, kPanelBytes},            {2048, kPanelBytes},   {kPanelBytes, 2048},
                                           {kSwizzleBytes, kSwizzleBytes}};
    outcome.note = "no other descriptor is right";
    for (const auto& offsets : candidates)
        if (product_with<T, 128, 64, true>(offsets[0], offsets[1]).wrong == 0)
            outcome.note =
                "right with leading " + std::to_string(offsets[0]) + ", stride " + std::to_string(offsets[1]);
    return outcome;
}

}  // namespace hopper_microtests
