// Tensors as arguments of a binding: those of torch themselves, or their addresses, sizes and strides as numbers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dlpack.hpp"

namespace fourreal::bindings {

using Address = std::uintptr_t;
using Integers = std::vector<std::int64_t>;

// The types of torch that are tensors and nothing more, null before torch is imported.
struct TorchTypes {
    PyObject* tensor = nullptr;
    PyObject* parameter = nullptr;
    int (*describe)(void* object, dlpack::Tensor* out) = nullptr;  // null where this version of torch has none
};

inline TorchTypes find_torch_types() {
    namespace py = pybind11;
    TorchTypes found;
    const py::object nn = py::reinterpret_steal<py::object>(PyImport_GetModule(py::str("torch.nn").ptr()));
    if (!nn) return found;
    const py::object tensor = py::module_::import("torch").attr("Tensor");
    const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    if (PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsuleName)) {
        const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsuleName));
        if (api->header.version.major == dlpack::kMajorVersion) found.describe = api->tensor_from_object;
    }
    found.parameter = py::object(nn.attr("Parameter")).release().ptr();
    found.tensor = py::object(tensor).release().ptr();
    return found;
}

// False for what is not exactly a torch.Tensor or Parameter with memory of its own, and where torch does not offer this.
inline bool describe(PyObject* object, dlpack::Tensor* tensor) {
    static TorchTypes types;
    if (types.tensor == nullptr) types = find_torch_types();
    PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    if (types.describe == nullptr || (type != types.tensor && type != types.parameter)) return false;
    if (types.describe(object, tensor) != 0) {
        PyErr_Clear();
        return false;
    }
    // Wrappers of functional transforms have sizes but no memory.
    return tensor->data != nullptr || std::count(tensor->shape, tensor->shape + tensor->ndim, 0) > 0;
}

inline Address address_of(const dlpack::Tensor& tensor) {
    return reinterpret_cast<Address>(tensor.data) + tensor.byte_offset;
}

struct TorchTensor {
    Address address;
    Integers sizes, strides;
};

// False for what is no tensor of torch.
inline bool read_tensor(pybind11::handle object, TorchTensor* result) {
    dlpack::Tensor tensor;
    if (describe(object.ptr(), &tensor)) {
        *result = {address_of(tensor), Integers(tensor.shape, tensor.shape + tensor.ndim),
                   Integers(tensor.strides, tensor.strides + tensor.ndim)};
        return true;
    }
    if (PyTuple_Check(object.ptr()) || PyLong_Check(object.ptr()) || !pybind11::hasattr(object, "data_ptr")) return false;
    *result = {object.attr("data_ptr")().cast<Address>(), object.attr("shape").cast<Integers>(),
               object.attr("stride")().cast<Integers>()};
    return true;
}

// Address and strides in elements.
struct TensorArgument : std::pair<Address, Integers> {
    using Numbers = std::pair<Address, Integers>;
    using Numbers::Numbers;
    TensorArgument(Numbers numbers) : Numbers(std::move(numbers)) {}
    TensorArgument(TorchTensor tensor) : Numbers(tensor.address, std::move(tensor.strides)) {}
};

// Address, sizes and strides of a tensor that is broadcast; address 0 for none.
struct BroadcastArgument : std::tuple<Address, Integers, Integers> {
    using Numbers = std::tuple<Address, Integers, Integers>;
    using Numbers::Numbers;
    BroadcastArgument(Numbers numbers) : Numbers(std::move(numbers)) {}
    BroadcastArgument(TorchTensor tensor)
        : Numbers(tensor.address, std::move(tensor.sizes), std::move(tensor.strides)) {}
};

// Address of a contiguous tensor, 0 for none.
struct ParameterArgument {
    using Numbers = Address;
    Address address = 0;
    ParameterArgument() = default;
    ParameterArgument(Address numbers) : address(numbers) {}
    ParameterArgument(const TorchTensor& tensor) : address(tensor.address) {}
    operator const Address&() const { return address; }
};

template <typename Argument>
class ArgumentCaster {
public:
    PYBIND11_TYPE_CASTER(Argument, pybind11::detail::const_name("Tensor"));

    bool load(pybind11::handle source, bool convert) {
        if (source.is_none()) {
            value = Argument();
            return true;
        }
        TorchTensor tensor;
        if (read_tensor(source, &tensor)) {
            value = Argument(std::move(tensor));
            return true;
        }
        pybind11::detail::make_caster<typename Argument::Numbers> numbers;
        if (!numbers.load(source, convert)) return false;
        value = Argument(pybind11::detail::cast_op<typename Argument::Numbers>(std::move(numbers)));
        return true;
    }

    // Of default arguments.
    static pybind11::handle cast(const Argument& argument, pybind11::return_value_policy policy, pybind11::handle parent) {
        using Numbers = typename Argument::Numbers;
        return pybind11::detail::make_caster<Numbers>::cast(static_cast<const Numbers&>(argument), policy, parent);
    }
};

}  // namespace fourreal::bindings

namespace pybind11::detail {

template <>
struct type_caster<fourreal::bindings::TensorArgument>
    : fourreal::bindings::ArgumentCaster<fourreal::bindings::TensorArgument> {};
template <>
struct type_caster<fourreal::bindings::BroadcastArgument>
    : fourreal::bindings::ArgumentCaster<fourreal::bindings::BroadcastArgument> {};
template <>
struct type_caster<fourreal::bindings::ParameterArgument>
    : fourreal::bindings::ArgumentCaster<fourreal::bindings::ParameterArgument> {};

}  // namespace pybind11::detail
