// Rows of the exchange for one instruction set. The drivers cut the tensors into runs of rows at equal distances.
#pragma once

#include <cstdint>

#include "fourreal/dtype.hpp"
#include "simd/dispatch.hpp"

namespace fourreal::cpu {

enum class Mix { kChannelHard, kChannelSoft, kDenseHard, kDenseSoft, kDenseSplit };

struct RowPointer {
    void* data;
    std::int64_t stride;  // elements from one row to the next
};

// Per-channel factors of one batch entry, in the accumulation type.
struct RowFactors {
    const void* mix[2][2];  // per channel: (out stream, in stream). Dense: [o][0] is the gate
    const void* offset[2];
    const void* branch_gate[2];
    const void* norm_scale[2];  // 1 + scale
    const void* norm_shift[2];
};

struct ExchangeRun {
    DType dtype;
    Mix mix;
    bool normalise;
    std::int64_t rows;
    std::int64_t channels;
    RowPointer streams[2];
    RowPointer outs[2];
    RowPointer branches[2];
    RowPointer norms[2];
    RowPointer mixed;  // dense only, in the accumulation type
    RowFactors factors;
    double eps;
    void* scratch;  // with a norm: 2 * padded_channels() of the accumulation type, for this thread alone
};

struct StageRun {
    DType dtype;
    bool sum;
    bool has_branches;
    std::int64_t rows;
    std::int64_t channels;
    RowPointer streams[2];
    RowPointer branches[2];
    const void* branch_gate[2];
    const void* scale[2];
    RowPointer staged;
};

struct BackwardRun {
    DType dtype;
    bool soft;
    std::int64_t rows;
    std::int64_t channels;
    RowPointer grads[2];
    RowPointer streams[2];
    RowPointer outs[2];
    const void* mix[2][2];  // (out stream, in stream)
    void* sums;             // (K + 2K, padded channels) of the accumulation type, added to
    std::int64_t sums_stride;
};

// Room for whole vectors of any instruction set.
constexpr std::int64_t kChannelPadding = 16;
constexpr std::int64_t padded_channels(std::int64_t channels) {
    return (channels + kChannelPadding - 1) / kChannelPadding * kChannelPadding;
}

}  // namespace fourreal::cpu

FOURREAL_DECLARE_KERNEL(void, exchange_rows, (const ExchangeRun& run))
FOURREAL_DECLARE_KERNEL(void, stage_rows, (const StageRun& run))
FOURREAL_DECLARE_KERNEL(void, exchange_rows_backward, (const BackwardRun& run))
