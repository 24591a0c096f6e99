// Boxes copied through a tensor map, in and out.
#pragma once

#include "support.cuh"

namespace hopper_microtests {

using namespace fourreal;
using namespace fourreal::cuda;

// A tensor (plane, view, time, token, column) in an order of strides that is not its order of dims, with gaps.
constexpr int kColumns = 128, kTokens = 24, kTimes = 3, kViews = 2, kPlanes = 2;
constexpr int kTokenStride = 136, kViewStride = kTokens * kTokenStride, kTimeStride = kViews * kViewStride + 8;
constexpr int kPlaneStride = kTimes * kTimeStride;
constexpr int kBoxRows = 16;
constexpr int kCorner[5] = {64, 16, 2, 1, 1};  // rows 16 to 31: the last 8 are outside

inline int element_at(int column, int token, int time, int view, int plane) {
    return column + token * kTokenStride + time * kTimeStride + view * kViewStride + plane * kPlaneStride;
}

struct BoxTest {
    TensorMap map;
    std::uint32_t* words;  // of the box, 32 per row
    int corner[5];
};

__global__ void __launch_bounds__(128, 1) load_box_kernel(const __grid_constant__ BoxTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    const std::uint32_t box = shared_base(), barrier = box + kBoxRows * kPanelRowBytes;
    if (thread_index() == 0) {
        barrier_init(barrier, 1);
        fence_barrier_init();
    }
    block_sync();
    if (thread_index() == 0) {
        barrier_arrive_expecting(barrier, kBoxRows * kPanelRowBytes);
        const int(&at)[5] = test.corner;
        tensor_load(box, &test.map, barrier, at[0], at[1], at[2], at[3], at[4]);
    }
    barrier_wait(barrier, 0);
    for (int i = thread_index(); i < kBoxRows * 32; i += 128)
        test.words[i] = load_shared(box + panel_offset(i / 32, i % 32 * 2));
#endif
}

__global__ void __launch_bounds__(128, 1) store_box_kernel(const __grid_constant__ BoxTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    const std::uint32_t box = shared_base();
    for (int i = thread_index(); i < kBoxRows * 32; i += 128)
        store_shared(box + panel_offset(i / 32, i % 32 * 2), test.words[i]);
    fence_shared_writes();
    block_sync();
    if (thread_index() == 0) {
        const int(&at)[5] = test.corner;
        tensor_store(&test.map, box, at[0], at[1], at[2], at[3], at[4]);
        wait_stores_read();
    }
#endif
}

inline BoxTest box_test(const void* data, std::uint32_t* words) {
    BoxTest test{{}, words, {kCorner[0], kCorner[1], kCorner[2], kCorner[3], kCorner[4]}};
    const TensorMapLayout layout{{kColumns, kTokens, kTimes, kViews, kPlanes},
                                 {kTokenStride, kTimeStride, kViewStride, kPlaneStride},
                                 {kPanelColumns, kBoxRows, 1, 1, 1}};
    require(encode_tensor_map(&test.map, DType::kBFloat16, data, layout), "encode_tensor_map");
    return test;
}

inline std::vector<std::uint16_t> tensor_values() {
    std::vector<std::uint16_t> values(kPlanes * kPlaneStride);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i * 7 + 1);
    return values;
}

inline Outcome load_box() {
    const std::vector<std::uint16_t> tensor = tensor_values();
    const Buffer<std::uint16_t> source(tensor);
    const Buffer<std::uint32_t> seen(std::vector<std::uint32_t>(kBoxRows * 32, 0xdeadbeef));
    require(launch_persistent(load_box_kernel, 1, 128, kSharedBytes, nullptr, box_test(source.data(), seen.data())),
            "launch");
    std::vector<std::uint32_t> expected;
    for (int row = 0; row < kBoxRows; ++row)
        for (int word = 0; word < 32; ++word) {
            const bool outside = kCorner[1] + row >= kTokens;
            const int at = element_at(kCorner[0] + 2 * word, kCorner[1] + row, kCorner[2], kCorner[3], kCorner[4]);
            expected.push_back(outside ? 0 : tensor[at] | static_cast<std::uint32_t>(tensor[at + 1]) << 16);
        }
    Outcome outcome;
    outcome.compare(seen.values(), expected);
    return outcome;
}

struct RowTest {
    const float* source;
    std::uint32_t* words;
};

constexpr int kFloats = 3 * 8, kFirstFloat = 4;  // three boxes of 8 rows, as the statistics of queries are copied

// A copy of floats in a row by several lanes, all at one barrier, read in pairs.
__global__ void __launch_bounds__(128, 1) bulk_load_kernel(const __grid_constant__ RowTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    const std::uint32_t row = shared_base(), barrier = row + kFloats * 4;
    if (thread_index() == 0) {
        barrier_init(barrier, 1);
        fence_barrier_init();
    }
    block_sync();
    if (thread_index() == 0) barrier_arrive_expecting(barrier, kFloats * 4);
    if (thread_index() < 32) warp_sync();
    if (thread_index() < kFloats / 8)
        bulk_load(row + thread_index() * 32, test.source + kFirstFloat + thread_index() * 8, 32, barrier);
    barrier_wait(barrier, 0);
    if (thread_index() < kFloats / 2) {
        float pair[2];
        load_shared_pair(pair, row + thread_index() * 8);
        for (int i = 0; i < 2; ++i)
            test.words[2 * thread_index() + i] = static_cast<std::uint32_t>(static_cast<int>(pair[i]));
    }
#endif
}

inline Outcome load_row() {
    std::vector<float> values(kFirstFloat + kFloats + 8);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * i + 3);
    const Buffer<float> source(values);
    const Buffer<std::uint32_t> seen(std::vector<std::uint32_t>(kFloats, 0xdeadbeef));
    require(launch_persistent(bulk_load_kernel, 1, 128, kSharedBytes, nullptr, RowTest{source.data(), seen.data()}),
            "launch");
    std::vector<std::uint32_t> expected;
    for (int i = 0; i < kFloats; ++i) expected.push_back(static_cast<std::uint32_t>(values[kFirstFloat + i]));
    Outcome outcome;
    outcome.compare(seen.values(), expected);
    return outcome;
}

inline Outcome store_box() {
    std::vector<std::uint16_t> tensor = tensor_values();
    std::vector<std::uint32_t> words(kBoxRows * 32);
    for (std::size_t i = 0; i < words.size(); ++i) words[i] = static_cast<std::uint32_t>(i) * 0x10003u + 5;
    const Buffer<std::uint16_t> target(tensor);
    const Buffer<std::uint32_t> box(words);
    require(launch_persistent(store_box_kernel, 1, 128, kSharedBytes, nullptr, box_test(target.data(), box.data())),
            "launch");
    for (int row = 0; kCorner[1] + row < kTokens; ++row)
        for (int word = 0; word < 32; ++word) {
            const int at = element_at(kCorner[0] + 2 * word, kCorner[1] + row, kCorner[2], kCorner[3], kCorner[4]);
            tensor[at] = static_cast<std::uint16_t>(words[row * 32 + word]);
            tensor[at + 1] = static_cast<std::uint16_t>(words[row * 32 + word] >> 16);
        }
    Outcome outcome;
    outcome.compare(target.values(), tensor);
    return outcome;
}

}  // namespace hopper_microtests
