// The exchange between the view stream and the time stream.
//
// With x the two streams, s in {view, time} the stream that is read and o the one that is written:
//   hard, per channel: y[b,m,c] = gate[b,c] * (sum_s W[s,c] * scale_s[b,c] * x_s[b,m,c] + bias[c]), written to both streams
//   soft, per channel: x_o[b,m,c] += gate_o[b,c] * (sum_s W[o,s,c] * scale_s[b,c] * x_s[b,m,c] + bias_o[c])
// for every row m = (v, t, n). Dense weights replace the sum over s by one over all channels of both streams, which is left
// to a matrix product of the caller: sync_exchange_stage() prepares its operand, sync_exchange_finish() uses its result.
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

constexpr int kStreams = 2;  // view, then time

// (B, V, T, N, C) of the call's dtype. The channel stride is 1, the others are free (0 only in what is read).
struct StreamTensor {
    void* data;
    GridStrides strides;
};

// The rows [begin, end) of the B * V * T * N rows in index order.
struct RowRange {
    std::int64_t begin;
    std::int64_t end;
};

enum class ExchangeKind { kHard, kSoft };

// Small arrays: contiguous, double for float64 and float otherwise. Null = absent.
struct ExchangeParameters {
    const void* weight;       // per channel only: (2, C) hard, (2, 2, C) soft
    const void* bias;         // (C) or (2C)
    const void* input_scale;  // (B, 2C)
    const void* gate;         // (B, C) or (B, 2C)
};

// What the fused form adds: the streams are x_s + branch_gate_s * branch_s before the exchange, and
// norms_s = LayerNorm_C(exchanged stream) * (1 + norm_scale_s) + norm_shift_s, with the exchanged stream not yet rounded.
struct ExchangeNorm {
    StreamTensor branches[kStreams];
    StreamTensor norms[kStreams];
    const void* branch_gate;  // (B, 2C) or null (1)
    const void* norm_scale;   // (B, 2C)
    const void* norm_shift;   // (B, 2C)
    double eps;
};

// An output may be exactly one of the inputs, and a norm one of the branches (same pointer and strides); any other overlap
// of what is written with anything else is undefined.
struct ChannelExchange {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    StreamTensor streams[kStreams];
    StreamTensor outs[kStreams];
    ExchangeParameters parameters;
    const ExchangeNorm* norm;  // null: the exchange alone
};

// Without a norm the result has the same bits for every instruction set, thread count, and stride pattern; with one, for
// every thread count and stride pattern.
void sync_exchange_channel(const ChannelExchange& args, InstructionSet set = best_instruction_set());

// Gradients of the exchange per channel. `sums`, double (B, K + 2K, C) with K = 1 hard, 2 soft outputs, zeroed by the
// caller, receives per batch entry the sums over rows of g_o, then of g_o * x_s in the order (o, s); g is the upstream gradient
// (hard: of both results together). Those of the parameters follow from them. The result has the same bits for every thread
// count and stride pattern.
struct ChannelExchangeBackward {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    StreamTensor grads[kStreams];    // of the results
    StreamTensor streams[kStreams];  // the inputs
    StreamTensor outs[kStreams];     // gradients of the inputs
    ExchangeParameters parameters;
    double* sums;
};
void sync_exchange_channel_backward(const ChannelExchangeBackward& args, InstructionSet set = best_instruction_set());

// Rows of the streams (or of a sum of both), side by side, in the accumulation type: the left operand of the product.
struct StageRows {
    DType dtype;
    GridSizes sizes;
    RowRange rows;
    StreamTensor streams[kStreams];
    const StreamTensor* branches;  // two, or null; then the staged streams are x_s + branch_gate_s * branch_s
    const void* branch_gate;       // (B, 2C) or null (1)
    const void* input_scale;       // (B, 2C) or null (1)
    bool sum;                      // (rows, C): view + time. Otherwise (rows, 2C): view's channels, then time's
    void* staged;                  // contiguous
};
void sync_exchange_stage(const StageRows& args, InstructionSet set = best_instruction_set());

// What follows the product z W^T = `mixed`: bias, gate and residual, and the norm where there is one.
enum class FinishKind {
    kHard,   // mixed (rows, C); both outputs are gate * (mixed + bias)
    kSoft,   // mixed (rows, 2C); output s is its stream + gate_s * (mixed_s + bias_s)
    kSplit,  // mixed (rows, 2C); output s is gate_s * (mixed_s + bias_s)
};
struct FinishRows {
    FinishKind kind;
    DType dtype;
    GridSizes sizes;
    RowRange rows;
    StreamTensor streams[kStreams];  // read for kSoft only
    StreamTensor outs[kStreams];
    const void* mixed;  // contiguous, in the accumulation type
    const void* bias;
    const void* gate;
    const ExchangeNorm* norm;
};
void sync_exchange_finish(const FinishRows& args, InstructionSet set = best_instruction_set());

}  // namespace cpu

namespace cuda {

// float32, float16, bfloat16; compute capability 8.0 and above. All pointers are device pointers; `stream` is a
// cudaStream_t of the current device. Asynchronous. Returns a cudaError_t, 0 on success.
int sync_exchange_hard_channel(const HardChannelExchange& args, void* stream);

}  // namespace cuda

}  // namespace fourreal
