// One test for each primitive of csrc/cuda/hopper_primitives.cuh, against exact integers: `hopper_microtests NAME...` prints a
// line of JSON per test and exits with 1 if one fails. Run each name in a process of its own with a time limit: a wrong
// barrier hangs. Compiled by nvcc for sm_90a, or for the host with FOURREAL_HOPPER_EMULATION.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "fourreal/dtype.hpp"
#include "hopper_launch.cuh"
#include "hopper_layout.hpp"
#include "hopper_primitives.cuh"

#if defined(FOURREAL_HOPPER_EMULATION)
#define FOURREAL_HOPPER_BODY 1
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FOURREAL_HOPPER_BODY 1
#endif

using namespace fourreal;
using namespace fourreal::cuda;

namespace {

// ---- Memory of the device ----

#if defined(FOURREAL_HOPPER_EMULATION)
int allocate(void** memory, std::size_t bytes) { return (*memory = std::calloc(bytes + 64, 1)) ? 0 : 2; }
void release(void* memory) { std::free(memory); }
int copy(void* target, const void* source, std::size_t bytes) { return std::memcpy(target, source, bytes) ? 0 : 1; }
std::string words_of(int error) { return "error " + std::to_string(error); }
#else
int allocate(void** memory, std::size_t bytes) { return cudaMalloc(memory, bytes); }
void release(void* memory) { cudaFree(memory); }
int copy(void* target, const void* source, std::size_t bytes) {
    return cudaMemcpy(target, source, bytes, cudaMemcpyDefault);  // waits for the kernel before it
}
std::string words_of(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
#endif

void require(int error, const char* what) {
    if (error == 0) return;
    std::printf("{\"test\": \"%s\", \"status\": \"error\", \"reason\": \"%s\"}\n", what, words_of(error).c_str());
    std::exit(1);
}

template <typename T>
class Buffer {
public:
    explicit Buffer(const std::vector<T>& values) : count_(values.size()) {
        require(allocate(&memory_, bytes()), "allocate");
        require(copy(memory_, values.data(), bytes()), "copy to the device");
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { release(memory_); }

    T* data() const { return static_cast<T*>(memory_); }
    std::vector<T> values() const {
        std::vector<T> result(count_);
        require(copy(result.data(), memory_, bytes()), "copy from the device");
        return result;
    }

private:
    std::size_t bytes() const { return count_ * sizeof(T); }
    std::size_t count_;
    void* memory_ = nullptr;
};

struct Outcome {
    int wrong = 0;
    std::string first;
    std::string note;

    template <typename T>
    void compare(const std::vector<T>& actual, const std::vector<T>& expected) {
        for (std::size_t i = 0; i < expected.size(); ++i) {
            if (actual[i] == expected[i]) continue;
            if (wrong++ == 0)
                first = "element " + std::to_string(i) + ": " + std::to_string(actual[i]) + ", expected " +
                        std::to_string(expected[i]);
        }
    }
};

// ---- Boxes ----

// A tensor (plane, view, time, token, column) in an order of strides that is not its order of dims, with gaps.
constexpr int kColumns = 128, kTokens = 24, kTimes = 3, kViews = 2, kPlanes = 2;
constexpr int kTokenStride = 136, kViewStride = kTokens * kTokenStride, kTimeStride = kViews * kViewStride + 8;
constexpr int kPlaneStride = kTimes * kTimeStride;
constexpr int kBoxRows = 16;
constexpr int kCorner[5] = {64, 16, 2, 1, 1};  // rows 16 to 31: the last 8 are outside

int element_at(int column, int token, int time, int view, int plane) {
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

BoxTest box_test(const void* data, std::uint32_t* words) {
    BoxTest test{{}, words, {kCorner[0], kCorner[1], kCorner[2], kCorner[3], kCorner[4]}};
    const TensorMapLayout layout{{kColumns, kTokens, kTimes, kViews, kPlanes},
                                 {kTokenStride, kTimeStride, kViewStride, kPlaneStride},
                                 {kPanelColumns, kBoxRows, 1, 1, 1}};
    require(encode_tensor_map(&test.map, DType::kBFloat16, data, layout), "encode_tensor_map");
    return test;
}

std::vector<std::uint16_t> tensor_values() {
    std::vector<std::uint16_t> values(kPlanes * kPlaneStride);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i * 7 + 1);
    return values;
}

constexpr int kSharedBytes = 160 * 1024;

Outcome load_box() {
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

Outcome store_box() {
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

// ---- Products ----

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
int entry(int row, int column, int salt) { return ((row * 37 + column * 101 + salt * 13) % 251 * 7 + row + column) % 9 - 4; }

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
            outcome.note = "right with leading " + std::to_string(offsets[0]) + ", stride " + std::to_string(offsets[1]);
    return outcome;
}

// ---- A ring of barriers ----

constexpr int kTiles = 23, kStages = 2, kTileBytes = 64 * kPanelRowBytes;

struct RingTest {
    TensorMap map;
    std::uint32_t* sums;  // of the words of each tile, by each thread of the two consumer warpgroups
    int box_rows;         // a tile's boxes are copied by as many lanes
};

// A producer warpgroup and two consumer warpgroups, as in the attention kernel: registers are handed over, tiles go
// through two stages, every consumer warp frees a stage.
__global__ void __launch_bounds__(384, 1) ring_kernel(const __grid_constant__ RingTest test) {
#if defined(FOURREAL_HOPPER_BODY)
    const std::uint32_t tiles = shared_base(), full = tiles + kStages * kTileBytes, empty = full + 8 * kStages;
    if (thread_index() == 0) {
        for (int stage = 0; stage < kStages; ++stage) {
            barrier_init(full + 8 * stage, 1);
            barrier_init(empty + 8 * stage, 8);
        }
        fence_barrier_init();
    }
    block_sync();
    const int warpgroup = uniform(thread_index() / 128);
    if (warpgroup == 0) {
        give_registers<24>();
        const int lane = thread_index(), first = lane * test.box_rows;
        for (int tile = 0; lane < 32 && tile < kTiles; ++tile) {
            const int stage = tile % kStages, parity = tile / kStages % 2;
            barrier_wait(empty + 8 * stage, parity ^ 1);
            if (lane == 0) barrier_arrive_expecting(full + 8 * stage, kTileBytes);
            warp_sync();
            if (first < 64)
                tensor_load(tiles + stage * kTileBytes + first * kPanelRowBytes, &test.map, full + 8 * stage, 0,
                            tile * 64 + first, 0, 0, 0);
            warp_sync();
        }
    } else {
        take_registers<240>();
        const int thread = thread_index() % 128;
        for (int tile = 0; tile < kTiles; ++tile) {
            const int stage = tile % kStages, parity = tile / kStages % 2;
            barrier_wait(full + 8 * stage, parity);
            std::uint32_t sum = 0;
            for (int offset = thread * 4; offset < kTileBytes; offset += 512)
                sum += load_shared(tiles + stage * kTileBytes + offset);
            test.sums[(tile * 2 + warpgroup - 1) * 128 + thread] = sum;
            warp_sync();
            if (thread % 32 == 0) barrier_arrive(empty + 8 * stage);
        }
        named_sync(warpgroup, 128);
    }
#endif
}

Outcome ring_of(int box_rows) {
    std::vector<std::uint16_t> values(kTiles * 64 * kPanelColumns);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(i * i % 65521);
    const Buffer<std::uint16_t> source(values);
    const Buffer<std::uint32_t> sums(std::vector<std::uint32_t>(kTiles * 2 * 128, 0xdeadbeef));
    RingTest test{};
    const TensorMapLayout layout{{kPanelColumns, kTiles * 64, 1, 1, 1},
                                 {kPanelColumns, 64, 64, 64},
                                 {kPanelColumns, static_cast<std::uint32_t>(box_rows), 1, 1, 1}};
    require(encode_tensor_map(&test.map, DType::kFloat16, source.data(), layout), "encode_tensor_map");
    test.sums = sums.data();
    test.box_rows = box_rows;
    require(launch_persistent(ring_kernel, 1, 384, kSharedBytes, nullptr, test), "launch");
    std::vector<std::uint32_t> expected(kTiles * 2 * 128, 0);
    for (int tile = 0; tile < kTiles; ++tile)
        for (int row = 0; row < 64; ++row)
            for (int column = 0; column < kPanelColumns; column += 2) {
                const std::uint16_t* pair = &values[(tile * 64 + row) * kPanelColumns + column];
                const std::uint32_t word = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
                const int thread = static_cast<int>(panel_offset(row, column) / 4 % 128);
                for (int consumer = 0; consumer < 2; ++consumer) expected[(tile * 2 + consumer) * 128 + thread] += word;
            }
    Outcome outcome;
    outcome.compare(sums.values(), expected);
    return outcome;
}

struct Test {
    const char* name;
    std::function<Outcome()> run;
};

const Test kTests[] = {{"tma_box", load_box},
                       {"mbarrier_ring", [] { return ring_of(64); }},
                       {"mbarrier_ring_lanes", [] { return ring_of(8); }},
                       {"wgmma_ss_bf16", product_of_shared<BFloat16>},
                       {"wgmma_ss_fp16", product_of_shared<Float16>},
                       {"wgmma_rs_bf16", product_of_registers<BFloat16>},
                       {"wgmma_rs_fp16", product_of_registers<Float16>},
                       {"wgmma_mn_major_bf16", product_with_mn_major<BFloat16>},
                       {"wgmma_mn_major_fp16", product_with_mn_major<Float16>},
                       {"tma_store", store_box}};

}  // namespace

int main(int count, char** names) {
    bool failed = false;
    for (const Test& test : kTests) {
        bool asked = count == 1;
        for (int i = 1; i < count; ++i) asked = asked || std::strcmp(names[i], test.name) == 0;
        if (!asked) continue;
        const Outcome outcome = test.run();
        failed = failed || outcome.wrong != 0;
        std::printf("{\"test\": \"%s\", \"status\": \"%s\", \"wrong\": %d, \"reason\": \"%s\", \"note\": \"%s\"}\n", test.name,
                    outcome.wrong == 0 ? "ok" : "failed", outcome.wrong, outcome.first.c_str(), outcome.note.c_str());
        std::fflush(stdout);
    }
    return failed ? 1 : 0;
}
