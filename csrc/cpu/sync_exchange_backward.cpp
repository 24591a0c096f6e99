#include "fourreal/sync_exchange.hpp"
#include "sync_exchange_factors.hpp"
#include "sync_exchange_rows.hpp"

namespace fourreal::cpu {
namespace {

// Sums over rows are taken in pieces that depend on the shape alone: within a piece in the accumulation type, pieces of one
// block in double, blocks in index order.
constexpr std::int64_t kPieceRows = 64;
constexpr std::int64_t kMaxBlocks = 64;

struct Blocks {
    std::int64_t rows;     // of one block, a multiple of kPieceRows
    std::int64_t entries;  // per batch entry
};

Blocks cut(std::int64_t batch, std::int64_t rows) {
    const std::int64_t wanted = std::max<std::int64_t>(1, kMaxBlocks / batch);
    const std::int64_t pieces = (rows + kPieceRows - 1) / kPieceRows;
    const std::int64_t block = (pieces + wanted - 1) / wanted * kPieceRows;
    return {block, (rows + block - 1) / block};
}

template <typename S>
class Backward {
public:
    Backward(const ChannelExchangeBackward& args, InstructionSet set)
        : args_(args),
          soft_(args.kind == ExchangeKind::kSoft),
          channels_(args.sizes[kChannel]),
          lists_(soft_ ? 6 : 3),
          walk_(args.dtype, args.sizes,
                {args.grads[0], args.grads[1], args.streams[0], args.streams[1], args.outs[0], args.outs[1]}),
          rows_(walk_.rows_per_batch()),
          blocks_(cut(args.sizes[kBatch], rows_)),
          table_({soft_ ? Mix::kChannelSoft : Mix::kChannelHard, args.sizes[kBatch], channels_, 1}, args.parameters, nullptr),
          partial_(static_cast<std::size_t>(count() * lists_ * channels_)),
          scratch_(static_cast<std::size_t>(thread_limit() * lists_ * padded_channels(channels_))),
          kernel_(FOURREAL_KERNEL_FOR(set, exchange_rows_backward)) {}

    void operator()() {
#pragma omp parallel for schedule(static) if (count() > 1)
        for (std::int64_t block = 0; block < count(); ++block)
            run_block(block, scratch_.data() + thread_index() * lists_ * padded_channels(channels_));
        add_blocks();
    }

private:
    std::int64_t count() const { return args_.sizes[kBatch] * blocks_.entries; }

    void run_block(std::int64_t block, S* sums) {
        const std::int64_t b = block / blocks_.entries;
        const std::int64_t first = block % blocks_.entries * blocks_.rows;
        const std::int64_t last = std::min(rows_, first + blocks_.rows);
        for (std::int64_t row = first; row < last; row += kPieceRows) {
            std::fill(sums, sums + lists_ * padded_channels(channels_), S(0));
            run_piece(b, row, std::min(last, row + kPieceRows), sums);
            double* partial = partial_.data() + block * lists_ * channels_;
            for (std::int64_t list = 0; list < lists_; ++list)
                for (std::int64_t c = 0; c < channels_; ++c)
                    partial[list * channels_ + c] += static_cast<double>(sums[list * padded_channels(channels_) + c]);
        }
    }

    void run_piece(std::int64_t b, std::int64_t first, std::int64_t last, S* sums) const {
        const std::int64_t start = b * rows_;
        walk_.for_each_run(start + first, start + last,
                           [&](std::int64_t, const RowPointer* pointers, std::int64_t, std::int64_t count) {
                               BackwardRun run{};
                               run.dtype = args_.dtype;
                               run.soft = soft_;
                               run.rows = count;
                               run.channels = channels_;
                               const RowFactors factors = table_.of_batch(b);
                               for (int s = 0; s < kStreams; ++s) {
                                   run.grads[s] = pointers[s];
                                   run.streams[s] = pointers[kStreams + s];
                                   run.outs[s] = pointers[2 * kStreams + s];
                                   for (int o = 0; o < kStreams; ++o) run.mix[o][s] = factors.mix[o][s];
                               }
                               run.sums = sums;
                               run.sums_stride = padded_channels(channels_);
                               kernel_(run);
                           });
    }

    void add_blocks() const {
        const std::int64_t length = lists_ * channels_;
        for (std::int64_t block = 0; block < count(); ++block) {
            double* sums = args_.sums + block / blocks_.entries * length;
            const double* partial = partial_.data() + block * length;
            for (std::int64_t i = 0; i < length; ++i) sums[i] += partial[i];
        }
    }

    const ChannelExchangeBackward& args_;
    const bool soft_;
    const std::int64_t channels_;
    const std::int64_t lists_;
    const RowWalk walk_;
    const std::int64_t rows_;
    const Blocks blocks_;
    const FactorTable<S> table_;
    std::vector<double> partial_;
    std::vector<S> scratch_;
    void (*const kernel_)(const BackwardRun&);
};

}  // namespace

void sync_exchange_channel_backward(const ChannelExchangeBackward& args, InstructionSet set) {
    if (element_count(args.sizes) == 0) return;
    if (args.dtype == DType::kFloat64)
        Backward<double>(args, set)();
    else
        Backward<float>(args, set)();
}

}  // namespace fourreal::cpu
