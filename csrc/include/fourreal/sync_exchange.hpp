// Per-channel hard exchange between the view stream and the time stream.
//
//   y[b,m,c] = gate[b,c] * (W[0,c] * s_view[b,c] * view[b,m,c] + W[1,c] * s_time[b,c] * time[b,m,c] + bias[c])
//
// for every row m = (v, t, n). y is written to both outputs.
#pragma once

#include "fourreal/dtype.hpp"
#include "fourreal/grid.hpp"
#include "fourreal/instruction_set.hpp"

namespace fourreal {

// view, time, out_view, out_time: (B, V, T, N, C) of `dtype` with their own strides, the channel stride being 1.
// weight (2, C), bias (C), input_scale (B, 2C: view's C, then time's) and gate (B, C) are contiguous, double for float64
// and float otherwise; the last three may be null (bias 0, scale 1, gate 1).
// An output may be exactly one of the inputs (same pointer and strides); any other overlap among outputs, or of an output
// with an input, is undefined. Inputs may have strides of 0, outputs only along axes of size 1.
struct HardChannelExchange {
    DType dtype;
    GridSizes sizes;
    const void* view;
    const void* time;
    void* out_view;
    void* out_time;
    GridStrides view_strides;
    GridStrides time_strides;
    GridStrides out_view_strides;
    GridStrides out_time_strides;
    const void* weight;
    const void* bias;
    const void* input_scale;
    const void* gate;
};

namespace cpu {

// The result has the same bits for every instruction set, thread count, and stride pattern.
void sync_exchange_hard_channel(const HardChannelExchange& args, InstructionSet set = best_instruction_set());

}  // namespace cpu

namespace cuda {

// float32, float16, bfloat16; compute capability 8.0 and above. All pointers are device pointers; `stream` is a
// cudaStream_t of the current device. Asynchronous. Returns a cudaError_t, 0 on success.
int sync_exchange_hard_channel(const HardChannelExchange& args, void* stream);

// Writes the number of usable devices, 0 on failure. Returns a cudaError_t.
int device_count(int* count);

const char* error_string(int error);

}  // namespace cuda

}  // namespace fourreal
