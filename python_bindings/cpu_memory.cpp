// Memory that results are written into: recycled blocks as tensors, and advice on memory that torch allocated.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu_module.hpp"
#include "dlpack.hpp"
#include "fourreal/fresh_memory.hpp"
#include "fourreal/recycled_memory.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace fourreal::bindings {
namespace {

using Integers = std::vector<std::int64_t>;

struct RecycledTensor {
    dlpack::ManagedTensor managed;
    Integers sizes, strides;
    cpu::MemoryBlock block;

    // Called by the last owner, in any thread, with or without the interpreter.
    static void end(dlpack::ManagedTensor* managed) {
        const std::unique_ptr<RecycledTensor> self(static_cast<RecycledTensor*>(managed->context));
        cpu::give_block(self->block);
    }
};

// Of a capsule that no tensor took over; a tensor that did has renamed it.
void end_unused(PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, dlpack::kManagedCapsuleName)) return;
    auto* managed = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kManagedCapsuleName));
    managed->deleter(managed);
}

std::size_t bytes_of(const Integers& sizes, int bits) {
    std::size_t bytes = static_cast<std::size_t>(bits) / 8;
    for (std::int64_t size : sizes) bytes *= static_cast<std::size_t>(size);
    return bytes;
}

py::object recycled_tensor(Integers sizes, Integers strides, std::pair<std::uint8_t, std::uint8_t> dtype) {
    if (sizes.size() != strides.size()) throw std::invalid_argument("strides: expected one for each of sizes");
    const cpu::MemoryBlock block = cpu::take_block(bytes_of(sizes, dtype.second));
    if (block.data == nullptr) return py::none();
    auto self = std::make_unique<RecycledTensor>();
    self->sizes = std::move(sizes);
    self->strides = std::move(strides);
    self->block = block;
    const dlpack::DataType type{dtype.first, dtype.second, 1};
    self->managed.tensor = {block.data, {dlpack::kCpu, 0},    static_cast<std::int32_t>(self->sizes.size()), type,
                            self->sizes.data(), self->strides.data(), 0};
    self->managed.context = self.get();
    self->managed.deleter = &RecycledTensor::end;
    py::capsule capsule(&self->managed, dlpack::kManagedCapsuleName, &end_unused);
    static_cast<void>(self.release());
    return std::move(capsule);
}

void prefer_huge_pages(std::uintptr_t address, std::size_t nbytes) {
    cpu::prefer_huge_pages(reinterpret_cast<void*>(address), nbytes);
}

}  // namespace

void bind_memory(py::module_& module) {
    module.def("recycled_tensor", &recycled_tensor, "sizes"_a, "strides"_a, "dtype"_a,
               "A DLPack capsule of a tensor with any content, in memory that results used before where some fits; the tensor\n"
               "fills its memory (dense, no overlaps). `dtype` is DLPack's code and bits. None where memory is not recycled.");
    module.def("set_kept_limit", &cpu::set_kept_limit, "nbytes"_a, "How much freed memory of results is kept at most.");
    module.def("kept_bytes", &cpu::kept_bytes, "Bytes of freed results that are kept.");
    module.def("release_kept", &cpu::release_kept, "Give kept memory back to the system; returns its bytes.");
    module.def("prefer_huge_pages", &prefer_huge_pages, "address"_a, "nbytes"_a,
               "Ask for huge pages where these bytes are first written.");
}

}  // namespace fourreal::bindings
