#include "hopper_tensor_map.hpp"

#include <cstring>

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

namespace fourreal::cuda {
namespace {

// From the driver at run time, so that the library loads where there is none.
PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) {
        static_cast<void>(cudaGetLastError());  // a later launch must not report this error as its own
        return nullptr;
    }
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

int encode_tensor_map(TensorMap* map, DType dtype, const void* data, const TensorMapLayout& layout) {
    static const auto encode = find_encoder();
    if (!encode) return cudaErrorNotSupported;
    static_assert(sizeof(CUtensorMap) == sizeof(TensorMap) && alignof(CUtensorMap) <= alignof(TensorMap));
    cuuint64_t sizes[kMapDims], strides[kMapDims - 1];
    cuuint32_t box[kMapDims], steps[kMapDims];
    for (int dim = 0; dim < kMapDims; ++dim) {
        sizes[dim] = layout.sizes[dim];
        box[dim] = layout.box[dim];
        steps[dim] = 1;
    }
    for (int dim = 0; dim < kMapDims - 1; ++dim) strides[dim] = layout.strides[dim] * 2;
    CUtensorMap encoded;
    const CUtensorMapDataType type =
        dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    const CUresult result = encode(&encoded, type, kMapDims, const_cast<void*>(data), sizes, strides, box, steps,
                                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) return cudaErrorInvalidValue;
    std::memcpy(map, &encoded, sizeof(encoded));
    return cudaSuccess;
}

}  // namespace fourreal::cuda
