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

constexpr int kStreams = 2;  // view, then time

// (B, V, T, N, C) of the call's dtype. The channel stride is 1, the others are free (0 only in what is read).
struct StreamTensor {
    void* data;
    GridStrides strides;
};

enum class ExchangeKind { kHard, kSoft };

// Small contiguous arrays, null = absent (bias 0, scale 1, gate 1). On the CPU double for float64 and float otherwise; on
// the GPU of the call's dtype.
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

// What follows the product z W^T = `mixed`: bias, gate and residual, and the norm where there is one.
enum class FinishKind {
    kHard,   // mixed (rows, C); both outputs are gate * (mixed + bias)
    kSoft,   // mixed (rows, 2C); output s is its stream + gate_s * (mixed_s + bias_s)
    kSplit,  // mixed (rows, 2C); output s is gate_s * (mixed_s + bias_s)
};

namespace cpu {

// The rows [begin, end) of the B * V * T * N rows in index order.
struct RowRange {
    std::int64_t begin;
    std::int64_t end;
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

// float32, float16, bfloat16; compute capability 8.0 and above. All pointers are device pointers, parameters of the call's
// dtype; `stream` is a cudaStream_t of the current device. Asynchronous, nothing is allocated. Each function returns a
// cudaError_t, 0 on success, and takes up to 2^31 - 1 rows (v, t, n) in a batch entry.

// An output may be exactly one of the inputs (same pointer and strides); any other overlap of what is written with anything
// else is undefined. The results do not depend on strides.
struct ChannelExchange {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    StreamTensor streams[kStreams];
    StreamTensor outs[kStreams];
    ExchangeParameters parameters;
};
int sync_exchange_channel(const ChannelExchange& args, void* stream);

// Gradients of the exchange per channel. `partial`, float (B, row_blocks, K + 2K, C) with K = 1 hard, 2 soft outputs, receives
// sums over the rows of each block, of g_o and then of g_o * x_s in the order (o, s); g is the upstream gradient (hard: of both
// results together). The same call gives the same bits.
struct ChannelExchangeBackward {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    StreamTensor grads[kStreams];    // of the results
    StreamTensor streams[kStreams];  // the inputs
    StreamTensor outs[kStreams];     // gradients of the inputs
    ExchangeParameters parameters;
    float* partial;
    std::int64_t row_blocks;
};
int sync_exchange_channel_backward(const ChannelExchangeBackward& args, void* stream);

// As many row_blocks as keep a device of so many multiprocessors busy, at least 1.
std::int64_t channel_backward_row_blocks(const GridSizes& sizes, DType dtype, std::int64_t multiprocessors);

// `rows` rows, from `first_row`, of each of `samples` batch entries from `first_sample`. Arrays of a chunk's rows are
// contiguous, one row after the other.
struct RowChunk {
    std::int64_t first_sample;
    std::int64_t samples;
    std::int64_t first_row;
    std::int64_t rows;
};

// The fused form, of the rows of a chunk: per channel, or with the product z W^T = `mixed` of a dense exchange, (rows, C)
// hard or (rows, 2C) soft, in the call's dtype; then the weight and the input_scale are not read. Takes up to 5120 channels.
// An output may be exactly one of the inputs, and a norm one of the branches.
struct NormExchange {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    RowChunk chunk;
    StreamTensor streams[kStreams];
    StreamTensor outs[kStreams];
    ExchangeParameters parameters;
    ExchangeNorm norm;
    const void* mixed;  // or null
};
int sync_exchange_norm(const NormExchange& args, void* stream);

// Gradients of the fused form per channel, of up to 3072 channels, a multiple of 8; rows and parameters start at 16 bytes.
// `partial`, float (B, row_blocks, 3K + 6, C) with K = 1 hard, 2 soft outputs, receives sums over the rows of each block: of
// dx_o, then of dx_o * y_s in the order (o, s), then by stream of dn_s, dn_s * LayerNorm(x_s) and dy_s * branch_s. x are the
// exchanged streams (hard: dx of both together), y the streams with their residual, dn the gradients of the norms.
struct NormExchangeBackward {
    ExchangeKind kind;
    DType dtype;
    GridSizes sizes;
    StreamTensor grads[kStreams];       // of the exchanged streams
    StreamTensor norm_grads[kStreams];  // of the norms
    StreamTensor streams[kStreams];
    StreamTensor branches[kStreams];
    StreamTensor outs[kStreams];         // gradients of the streams
    StreamTensor branch_outs[kStreams];  // gradients of the branches
    ExchangeParameters parameters;
    const void* branch_gate;  // (B, 2C) or null (1)
    const void* norm_scale;   // (B, 2C)
    double eps;
    float* partial;
    std::int64_t row_blocks;
};
int sync_exchange_norm_backward(const NormExchangeBackward& args, void* stream);

// Of a block; more than a device offers cannot be launched.
std::int64_t norm_backward_shared_bytes(ExchangeKind kind, std::int64_t channels);

// Rows of a chunk, side by side or added, in the call's dtype: the left operand of the product of a dense exchange.
struct StageRows {
    DType dtype;
    GridSizes sizes;
    RowChunk chunk;
    StreamTensor streams[kStreams];
    const StreamTensor* branches;  // two, or null; then the staged streams are x_s + branch_gate_s * branch_s
    const void* branch_gate;       // (B, 2C) or null (1)
    const void* input_scale;       // (B, 2C) or null (1)
    bool sum;                      // (rows, C): view + time. Otherwise (rows, 2C): view's channels, then time's
    void* staged;
};
int sync_exchange_stage(const StageRows& args, void* stream);

struct FinishRows {
    FinishKind kind;
    DType dtype;
    GridSizes sizes;
    RowChunk chunk;
    StreamTensor streams[kStreams];  // read for kSoft only
    StreamTensor outs[kStreams];
    const void* mixed;  // in the call's dtype
    const void* bias;
    const void* gate;
};
int sync_exchange_finish(const FinishRows& args, void* stream);

}  // namespace cuda

}  // namespace fourreal
