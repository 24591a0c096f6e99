// The parts of DLPack (github.com/dmlc/dlpack, Apache-2.0) through which a tensor of Python is read without a call of
// Python, the structs DLTensor and DLPackExchangeAPI, whose layout is fixed for all versions 1.x, and through which one
// is made: DLManagedTensor, which every version takes.
#pragma once

#include <cstdint>

namespace fourreal::bindings::dlpack {

struct Device {
    std::int32_t type, id;
};

struct DataType {
    std::uint8_t code, bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor* self);
};

constexpr const char* kManagedCapsuleName = "dltensor";  // until a tensor of Python takes over what the capsule holds
constexpr std::int32_t kCpu = 1;  // a Device::type
constexpr std::uint32_t kMajorVersion = 1;
constexpr const char* kCapsuleName = "dlpack_exchange_api";

struct ExchangeApi {
    struct {
        struct {
            std::uint32_t major, minor;
        } version;
        void* previous;
    } header;
    void* allocate;
    void* managed_from_object;
    void* object_from_managed;
    // Describes a tensor until control returns to Python; -1 with a Python exception for what it cannot describe. May be
    // null.
    int (*tensor_from_object)(void* object, Tensor* out);
    void* current_stream;
};

}  // namespace fourreal::bindings::dlpack
