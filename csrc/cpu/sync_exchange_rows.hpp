// The rows of several (B, V, T, N, C) tensors of one shape, walked together in runs at equal distances.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "fourreal/sync_exchange.hpp"
#include "kernels/sync_exchange.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {

// Less than this is not worth waking another thread for.
constexpr std::int64_t kElementsPerTask = 32768;

inline std::int64_t bytes_of_accumulation(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

inline void* advanced(void* data, std::int64_t elements, std::int64_t bytes) {
    return data == nullptr ? nullptr : static_cast<char*>(data) + elements * bytes;
}

class RowWalk {
public:
    static constexpr int kMaxTensors = 8;

    RowWalk(DType dtype, const GridSizes& sizes, std::vector<StreamTensor> tensors)
        : tensors_(std::move(tensors)), bytes_(element_size(dtype)), channels_(sizes[kChannel]) {
        GridStrides strides[kMaxTensors];
        // Places that are not used must not keep axes from merging.
        for (int k = 0; k < kMaxTensors; ++k) strides[k] = at(k).strides;
        layout_ = merge_rows<kMaxTensors>(sizes, strides);
        rows_ = layout_.rows();
    }

    std::int64_t rows_per_batch() const { return rows_; }
    std::int64_t neighbours() const { return layout_.sizes[kInnermost]; }

    // Whether each row begins where its neighbour ends, in every tensor.
    bool rows_touch() const {
        for (int k = 0; k < kMaxTensors; ++k)
            if (layout_.strides[k][kInnermost] != channels_) return false;
        return true;
    }

    // run(b, pointers, first row, count) for the runs of neighbouring rows in [begin, end) of all B * V * T * N.
    template <typename Run>
    void for_each_run(std::int64_t begin, std::int64_t end, const Run& run) const {
        for (std::int64_t row = begin; row < end;) {
            const std::int64_t inner = layout_.sizes[kInnermost];
            const std::int64_t count = std::min(inner - row % inner, end - row);
            RowPointer pointers[kMaxTensors];
            locate(row / rows_, row % rows_, pointers);
            run(row / rows_, static_cast<const RowPointer*>(pointers), row, count);
            row += count;
        }
    }

private:
    static constexpr int kInnermost = RowLayout<kMaxTensors>::kDims - 1;

    const StreamTensor& at(int k) const {
        return tensors_[static_cast<std::size_t>(k) < tensors_.size() ? static_cast<std::size_t>(k) : 0];
    }

    void locate(std::int64_t b, std::int64_t row, RowPointer* pointers) const {
        const std::int64_t outer = row / layout_.sizes[2];
        const std::int64_t position[3] = {outer / layout_.sizes[1], outer % layout_.sizes[1], row % layout_.sizes[2]};
        for (int k = 0; k < kMaxTensors; ++k) {
            std::int64_t offset = b * at(k).strides[kBatch];
            for (int dim = 0; dim < 3; ++dim) offset += position[dim] * layout_.strides[k][dim];
            pointers[k] = {advanced(at(k).data, offset, bytes_), layout_.strides[k][kInnermost]};
        }
    }

    std::vector<StreamTensor> tensors_;
    RowLayout<kMaxTensors> layout_;
    std::int64_t rows_;
    std::int64_t bytes_;
    std::int64_t channels_;
};

// body(begin, end) over [begin, end): one stretch per thread, fewer where there is little to do.
template <typename Body>
void for_each_stretch(RowRange rows, std::int64_t elements_per_row, const Body& body) {
    const std::int64_t total = rows.end - rows.begin;
    const std::int64_t tasks = total * elements_per_row / kElementsPerTask;
    const std::int64_t stretches = std::max<std::int64_t>(1, std::min<std::int64_t>({tasks, total, thread_limit()}));
#pragma omp parallel for schedule(static) if (stretches > 1)
    for (std::int64_t i = 0; i < stretches; ++i)
        body(rows.begin + total * i / stretches, rows.begin + total * (i + 1) / stretches);
}

}  // namespace fourreal::cpu
