#include "fourreal/qk_norm_rope.hpp"

#include <algorithm>
#include <vector>

#include "fourreal/grid.hpp"
#include "kernels/qk_norm_rope.hpp"
#include "scratch.hpp"

namespace fourreal::cpu {
namespace {

constexpr std::int64_t kElementsPerTask = 16384;  // of q; some ten microseconds of work
constexpr std::int64_t kTokensPerSum = 64;        // added in float; sums of these in double
constexpr std::int64_t kMaxBlocks = 512;
constexpr std::size_t kCacheLine = 64;

// Tables of the kernel for every thread, each on cache lines of its own.
class ThreadTables {
public:
    explicit ThreadTables(std::int64_t channels)
        : stride_((channels + kTableRounding - 1) / kTableRounding * kTableRounding),
          memory_(static_cast<std::size_t>(thread_limit() * kTables * stride_) + kCacheLine / sizeof(float)) {
        const std::size_t past = reinterpret_cast<std::uintptr_t>(memory_.data()) % kCacheLine;
        first_ = memory_.data() + (kCacheLine - past) % kCacheLine / sizeof(float);
    }
    std::int64_t stride() const { return stride_; }
    float* of_this_thread() { return first_ + thread_index() * kTables * stride_; }

private:
    const std::int64_t stride_;
    std::vector<float> memory_;
    float* first_;
};

template <typename Tensor>
GridStrides token_strides(const Tensor& tensor) {
    const std::int64_t* strides = tensor.strides;
    return {{strides[kAttBatch], strides[kAttView], strides[kAttTime], strides[kAttToken], 0}};
}

// Tokens of the whole grid, in runs along which every tensor has one stride. Operands: cos, sin, then the others.
template <int kOperands>
class TokenRuns {
public:
    TokenRuns(const NormRopeSetting& setting, const GridStrides (&strides)[kOperands])
        : layout_(merge_rows<kOperands>(grid_sizes(setting), strides)), batch_(setting.sizes[kAttBatch]) {
        for (int k = 0; k < kOperands; ++k) batch_strides_[k] = strides[k][kBatch];
    }

    std::int64_t tokens() const { return batch_ * layout_.rows(); }
    std::int64_t stride(int operand) const { return layout_.strides[operand][kInner]; }

    // Calls use(offsets, count) for the runs that make up the tokens [begin, end).
    template <typename Use>
    void visit(std::int64_t begin, std::int64_t end, const Use& use) const {
        const std::int64_t rows = layout_.rows(), inner = layout_.sizes[kInner];
        for (std::int64_t token = begin; token < end;) {
            const std::int64_t row = token % rows, outer = row / inner;
            const std::int64_t position[3] = {outer / layout_.sizes[1], outer % layout_.sizes[1], row % inner};
            std::int64_t offsets[kOperands];
            for (int k = 0; k < kOperands; ++k) {
                offsets[k] = token / rows * batch_strides_[k];
                for (int dim = 0; dim < 3; ++dim) offsets[k] += position[dim] * layout_.strides[k][dim];
            }
            const std::int64_t count = std::min(inner - position[kInner], end - token);
            use(offsets, count);
            token += count;
        }
    }

private:
    static constexpr int kInner = RowLayout<kOperands>::kDims - 1;

    static GridSizes grid_sizes(const NormRopeSetting& setting) {
        const std::int64_t* sizes = setting.sizes;
        return {{sizes[kAttBatch], sizes[kAttView], sizes[kAttTime], sizes[kAttToken], 1}};
    }

    RowLayout<kOperands> layout_;
    std::int64_t batch_;
    std::int64_t batch_strides_[kOperands];
};

template <int kOperands>
void set_common(const NormRopeSetting& setting, const TokenRuns<kOperands>& runs, const ThreadTables& tables,
                NormRopeRun* run) {
    run->dtype = setting.dtype;
    run->heads = setting.sizes[kAttHead];
    run->channels = setting.sizes[kAttChannel];
    run->weights[0] = setting.q_weight;
    run->weights[1] = setting.k_weight;
    run->cos = {static_cast<const float*>(setting.cos.data), runs.stride(0), setting.cos.strides[kAttHead]};
    run->sin = {static_cast<const float*>(setting.sin.data), runs.stride(1), setting.sin.strides[kAttHead]};
    run->eps = setting.eps;
    run->table_stride = tables.stride();
}

void advance_angles(const NormRopeSetting& setting, const std::int64_t* offsets, NormRopeRun* run) {
    if (setting.cos.data == nullptr) return;
    run->cos.data = static_cast<const float*>(setting.cos.data) + offsets[0];
    run->sin.data = static_cast<const float*>(setting.sin.data) + offsets[1];
}

HeadRows<const void*> rows_at(const AttentionInput& x, DType dtype, std::int64_t offset, std::int64_t token_stride) {
    return {static_cast<const char*>(x.data) + offset * static_cast<std::int64_t>(element_size(dtype)), token_stride,
            x.strides[kAttHead]};
}

HeadRows<void*> rows_at(const AttentionOutput& x, DType dtype, std::int64_t offset, std::int64_t token_stride) {
    return {static_cast<char*>(x.data) + offset * static_cast<std::int64_t>(element_size(dtype)), token_stride,
            x.strides[kAttHead]};
}

bool is_empty(const NormRopeSetting& setting) {
    return std::any_of(setting.sizes, setting.sizes + kAttentionAxes, [](std::int64_t size) { return size == 0; });
}

std::int64_t tokens_per_task(const NormRopeSetting& setting) {
    return std::max<std::int64_t>(1, kElementsPerTask / (setting.sizes[kAttHead] * setting.sizes[kAttChannel]));
}

class Backward {
public:
    static constexpr int kOperands = 8;  // cos, sin, grad_q, grad_k, q, k, dq, dk

    Backward(const NormRopeBackward& args, InstructionSet set)
        : args_(args), setting_(args.setting), kernel_(FOURREAL_KERNEL_FOR(set, norm_rope_backward_run)),
          runs_(setting_, {token_strides(setting_.cos), token_strides(setting_.sin), token_strides(args.grad_q),
                           token_strides(args.grad_k), token_strides(args.q), token_strides(args.k),
                           token_strides(args.dq), token_strides(args.dk)}),
          tables_(setting_.sizes[kAttChannel]), block_tokens_(tokens_per_block()),
          blocks_((runs_.tokens() + block_tokens_ - 1) / block_tokens_) {}

    void operator()() {
        const bool normalises = setting_.q_weight != nullptr;
        const std::int64_t sums_per_block = normalises ? kQueryAndKey * setting_.sizes[kAttChannel] : 0;
        std::vector<double> sums(static_cast<std::size_t>(blocks_ * sums_per_block));
#pragma omp parallel for schedule(static) if (blocks_ > 1)
        for (std::int64_t block = 0; block < blocks_; ++block) do_block(block, sums.data() + block * sums_per_block);
        if (normalises) add_blocks(sums);
    }

private:
    // By the shape alone, so that sums are the same for any number of threads.
    std::int64_t tokens_per_block() const {
        const std::int64_t least = std::max(tokens_per_task(setting_), (runs_.tokens() + kMaxBlocks - 1) / kMaxBlocks);
        return (least + kTokensPerSum - 1) / kTokensPerSum * kTokensPerSum;
    }

    void do_block(std::int64_t block, double* sums) {
        NormRopeBackwardRun run{};
        set_common(setting_, runs_, tables_, &run);
        run.tables = tables_.of_this_thread();
        run.weight_grads[0] = sums;
        run.weight_grads[1] = sums + setting_.sizes[kAttChannel];
        const std::int64_t end = std::min(runs_.tokens(), (block + 1) * block_tokens_);
        for (std::int64_t begin = block * block_tokens_; begin < end; begin += kTokensPerSum) {
            const std::int64_t stop = std::min(end, begin + kTokensPerSum);
            runs_.visit(begin, stop, [&](const std::int64_t* offsets, std::int64_t count) {
                advance_angles(setting_, offsets, &run);
                run.grad[0] = rows_at(args_.grad_q, run.dtype, offsets[2], runs_.stride(2));
                run.grad[1] = rows_at(args_.grad_k, run.dtype, offsets[3], runs_.stride(3));
                run.in[0] = rows_at(args_.q, run.dtype, offsets[4], runs_.stride(4));
                run.in[1] = rows_at(args_.k, run.dtype, offsets[5], runs_.stride(5));
                run.out[0] = rows_at(args_.dq, run.dtype, offsets[6], runs_.stride(6));
                run.out[1] = rows_at(args_.dk, run.dtype, offsets[7], runs_.stride(7));
                run.tokens = count;
                kernel_(run);
            });
        }
    }

    void add_blocks(const std::vector<double>& sums) const {
        const std::int64_t channels = setting_.sizes[kAttChannel];
        for (std::int64_t i = 0; i < kQueryAndKey * channels; ++i) {
            double total = 0;
            for (std::int64_t block = 0; block < blocks_; ++block)
                total += sums[static_cast<std::size_t>(block * kQueryAndKey * channels + i)];
            (i < channels ? args_.dq_weight[i] : args_.dk_weight[i - channels]) = static_cast<float>(total);
        }
    }

    const NormRopeBackward& args_;
    const NormRopeSetting& setting_;
    void (*const kernel_)(const NormRopeBackwardRun&);
    const TokenRuns<kOperands> runs_;
    ThreadTables tables_;
    const std::int64_t block_tokens_;
    const std::int64_t blocks_;
};

}  // namespace

void qk_norm_rope_forward(const NormRopeForward& args, InstructionSet set) {
    const NormRopeSetting& setting = args.setting;
    if (is_empty(setting)) return;
    const TokenRuns<6> runs(setting, {token_strides(setting.cos), token_strides(setting.sin), token_strides(args.q),
                                      token_strides(args.k), token_strides(args.out_q), token_strides(args.out_k)});
    ThreadTables tables(setting.sizes[kAttChannel]);
    const auto kernel = FOURREAL_KERNEL_FOR(set, norm_rope_forward_run);
    const std::int64_t per_task = tokens_per_task(setting), tasks = (runs.tokens() + per_task - 1) / per_task;
#pragma omp parallel for schedule(static) if (tasks > 1)
    for (std::int64_t task = 0; task < tasks; ++task) {
        NormRopeForwardRun run{};
        set_common(setting, runs, tables, &run);
        run.tables = tables.of_this_thread();
        const std::int64_t begin = task * per_task, end = std::min(runs.tokens(), begin + per_task);
        runs.visit(begin, end, [&](const std::int64_t* offsets, std::int64_t count) {
            advance_angles(setting, offsets, &run);
            run.in[0] = rows_at(args.q, run.dtype, offsets[2], runs.stride(2));
            run.in[1] = rows_at(args.k, run.dtype, offsets[3], runs.stride(3));
            run.out[0] = rows_at(args.out_q, run.dtype, offsets[4], runs.stride(4));
            run.out[1] = rows_at(args.out_k, run.dtype, offsets[5], runs.stride(5));
            run.tokens = count;
            kernel(run);
        });
    }
}

void qk_norm_rope_backward(const NormRopeBackward& args, InstructionSet set) {
    if (is_empty(args.setting)) return;
    Backward(args, set)();
}

}  // namespace fourreal::cpu
