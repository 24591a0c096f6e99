// Memory of the device, or of the host where that is emulated, and the outcome of a comparison.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "hopper_launch.cuh"
#include "hopper_layout.hpp"
#include "hopper_primitives.cuh"

#if defined(FOURREAL_HOPPER_EMULATION)
#define FOURREAL_HOPPER_BODY 1
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FOURREAL_HOPPER_BODY 1
#endif

namespace hopper_microtests {

using namespace fourreal;
using namespace fourreal::cuda;

constexpr int kSharedBytes = 160 * 1024;

#if defined(FOURREAL_HOPPER_EMULATION)
inline int allocate(void** memory, std::size_t bytes) { return (*memory = std::calloc(bytes + 64, 1)) ? 0 : 2; }
inline void release(void* memory) { std::free(memory); }
inline int copy(void* target, const void* source, std::size_t bytes) {
    return std::memcpy(target, source, bytes) ? 0 : 1;
}
inline std::string words_of(int error) { return "error " + std::to_string(error); }
#else
inline int allocate(void** memory, std::size_t bytes) { return cudaMalloc(memory, bytes); }
inline void release(void* memory) { cudaFree(memory); }
inline int copy(void* target, const void* source, std::size_t bytes) {
    return cudaMemcpy(target, source, bytes, cudaMemcpyDefault);  // waits for the kernel before it
}
inline std::string words_of(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
#endif

inline void require(int error, const char* what) {
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

}  // namespace hopper_microtests
