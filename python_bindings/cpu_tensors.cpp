// What operators ask about their arguments before every call, in a fraction of the time that it takes in Python.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>

#include "cpu_module.hpp"
#include "tensors.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace fourreal::bindings {
namespace {

template <typename Number>
void append(std::string& bytes, const Number* numbers, std::int64_t count = 1) {
    bytes.append(reinterpret_cast<const char*>(numbers), sizeof(Number) * static_cast<std::size_t>(count));
}

void append_tensor(std::string& bytes, const dlpack::Tensor& tensor) {
    bytes += 'T';
    append(bytes, &tensor.ndim);
    append(bytes, &tensor.dtype);
    append(bytes, &tensor.device);
    append(bytes, tensor.shape, tensor.ndim);
    append(bytes, tensor.strides, tensor.ndim);
}

// False for what is no number, string or None.
bool append_value(std::string& bytes, PyObject* object) {
    if (object == Py_None) {
        bytes += 'N';
    } else if (object == Py_True || object == Py_False) {
        bytes += object == Py_True ? 'Y' : 'n';
    } else if (PyFloat_CheckExact(object)) {
        const double number = PyFloat_AS_DOUBLE(object);
        bytes += 'F';
        append(bytes, &number);
    } else if (PyUnicode_CheckExact(object)) {
        Py_ssize_t length = 0;
        const char* text = PyUnicode_AsUTF8AndSize(object, &length);
        if (text == nullptr) {
            PyErr_Clear();
            return false;
        }
        bytes += 'S';
        append(bytes, &length);
        append(bytes, text, length);
    } else {
        return false;
    }
    return true;
}

bool requires_grad(PyObject* tensor) {
    static PyObject* const name = PyUnicode_InternFromString("requires_grad");
    const auto answer = py::reinterpret_steal<py::object>(PyObject_GetAttr(tensor, name));
    if (!answer) throw py::error_already_set();
    return answer.ptr() == Py_True;
}

py::object layout(const py::tuple& arguments) {
    std::string bytes;
    bytes.reserve(128 * arguments.size());
    for (py::handle argument : arguments) {
        dlpack::Tensor tensor;
        if (describe(argument.ptr(), &tensor)) {
            append_tensor(bytes, tensor);
            bytes += requires_grad(argument.ptr()) ? 'Y' : 'n';
        } else if (!append_value(bytes, argument.ptr())) {
            return py::none();
        }
    }
    return py::bytes(bytes);
}

bool is_plain_value(PyObject* object) {
    return object == Py_None || PyBool_Check(object) || PyFloat_CheckExact(object) || PyUnicode_CheckExact(object);
}

bool plain_call(const py::tuple& arguments, bool grad_enabled) {
    for (py::handle argument : arguments) {
        if (is_plain_value(argument.ptr())) continue;
        dlpack::Tensor tensor;
        if (!describe(argument.ptr(), &tensor) || tensor.device.type != dlpack::kCpu) return false;
        if (grad_enabled && requires_grad(argument.ptr())) return false;
    }
    return true;
}

std::int64_t element_bytes(const dlpack::Tensor& tensor) { return std::max(1, tensor.dtype.bits * tensor.dtype.lanes / 8); }

// A range of addresses, from the first byte to one after the last; empty for an empty tensor.
struct Span {
    Address begin, end;
};

Span span_of(const dlpack::Tensor& tensor) {
    const Address begin = address_of(tensor);
    std::int64_t last = 0;
    for (int dim = 0; dim < tensor.ndim; ++dim) {
        if (tensor.shape[dim] == 0) return {begin, begin};
        last += (tensor.shape[dim] - 1) * tensor.strides[dim];
    }
    return {begin, begin + static_cast<Address>((1 + last) * element_bytes(tensor))};
}

// Stride and size of the dims of more than one entry, the smallest stride first.
using Dims = std::vector<std::pair<std::int64_t, std::int64_t>>;

Dims sorted_dims(const dlpack::Tensor& tensor) {
    Dims dims;
    for (int dim = 0; dim < tensor.ndim; ++dim)
        if (tensor.shape[dim] > 1) dims.emplace_back(tensor.strides[dim], tensor.shape[dim]);
    std::sort(dims.begin(), dims.end());
    return dims;
}

bool may_overlap_itself(const dlpack::Tensor& tensor) {
    std::int64_t reach = 0;
    for (const auto& [stride, size] : sorted_dims(tensor)) {
        if (stride <= reach) return true;
        reach += stride * (size - 1);
    }
    return false;
}

// True when `b` is `a` moved into the gaps between the blocks of `a`, as q and k of one packed projection. A block is all
// dims that reach less far than from `a` to `b`.
bool interleaved(const dlpack::Tensor& a, const dlpack::Tensor& b) {
    if (a.ndim != b.ndim || a.dtype.bits != b.dtype.bits || !std::equal(a.shape, a.shape + a.ndim, b.shape) ||
        !std::equal(a.strides, a.strides + a.ndim, b.strides))
        return false;
    const Address low = std::min(address_of(a), address_of(b)), high = std::max(address_of(a), address_of(b));
    const auto bytes = static_cast<std::int64_t>(high - low), distance = bytes / element_bytes(a);
    std::int64_t reach = 0, step = 0;
    for (const auto& [stride, size] : sorted_dims(a)) {
        if (step == 0 && reach + stride * (size - 1) < distance) {
            reach += stride * (size - 1);
            continue;
        }
        if (step == 0) step = stride;
        if (step == 0 || stride % step != 0) return false;
    }
    return bytes % element_bytes(a) == 0 && step > 0 && reach < distance % step && distance % step < step - reach;
}

bool apart(const dlpack::Tensor& a, const dlpack::Tensor& b) {
    if (a.device.type != b.device.type || a.device.id != b.device.id) return false;
    const Span first = span_of(a), second = span_of(b);
    return first.end <= second.begin || second.end <= first.begin || interleaved(a, b);
}

bool surely_apart(const py::tuple& tensors, std::size_t destinations) {
    std::vector<dlpack::Tensor> described;
    for (py::handle object : tensors) {
        if (object.is_none()) continue;
        dlpack::Tensor tensor;
        if (!describe(object.ptr(), &tensor)) return false;
        described.push_back(tensor);
    }
    for (std::size_t index = 0; index < std::min(destinations, described.size()); ++index) {
        if (may_overlap_itself(described[index])) return false;
        for (std::size_t other = index + 1; other < described.size(); ++other)
            if (!apart(described[index], described[other])) return false;
    }
    return true;
}

}  // namespace

void bind_tensors(py::module_& module) {
    module.def("layout", &layout, "arguments"_a,
               "Bytes that are equal for equal values and for tensors of one shape, strides, dtype, device and requires_grad.\n"
               "None when an argument is no tensor, float, string, bool or None, or torch does not tell.");
    module.def("plain_call", &plain_call, "arguments"_a, "grad_enabled"_a,
               "True when every argument is None, a bool, float, string or a tensor on the CPU that is exactly a torch.Tensor\n"
               "or Parameter and, with grad enabled, requires none.");
    module.def("surely_apart", &surely_apart, "tensors"_a, "destinations"_a,
               "True when it is plain that none of the first `destinations` tensors, which are given, shares an element with\n"
               "itself or another tensor: ranges of addresses are disjoint, or tensors interleave as those of one packed\n"
               "projection. False says nothing. None stands for no tensor.");
}

}  // namespace fourreal::bindings
