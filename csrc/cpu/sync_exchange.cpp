#include "fourreal/sync_exchange.hpp"

#include "sync_exchange_factors.hpp"
#include "sync_exchange_rows.hpp"

namespace fourreal::cpu {
namespace {

// Packed rows are processed together up to this length, so that few channels do not mean short loops.
constexpr std::int64_t kFusedElements = 256;

enum Tensor : int { kViewIn, kTimeIn, kViewOut, kTimeOut, kViewBranch, kTimeBranch, kViewNorm, kTimeNorm };

std::vector<StreamTensor> tensors_of(const StreamTensor* streams, const StreamTensor* outs, const ExchangeNorm* norm) {
    std::vector<StreamTensor> tensors = {streams[0], streams[1], outs[0], outs[1]};
    if (norm)
        for (const StreamTensor* pair : {norm->branches, norm->norms}) tensors.insert(tensors.end(), {pair[0], pair[1]});
    return tensors;
}

// The exchange of a range of rows, per channel or after a dense product.
struct Exchange {
    DType dtype;
    Mix mix;
    GridSizes sizes;
    RowRange rows;
    RowWalk walk;
    ExchangeParameters parameters;
    const ExchangeNorm* norm;
    void* mixed;                 // dense only, for the first row of the range
    std::int64_t mixed_columns;  // of one row
};

std::int64_t count_fused_rows(const Exchange& exchange) {
    if (exchange.norm || exchange.mixed || !exchange.walk.rows_touch()) return 1;
    const std::int64_t fitting = std::max<std::int64_t>(1, kFusedElements / exchange.sizes[kChannel]);
    return std::min(exchange.walk.neighbours(), fitting);
}

ExchangeRun make_run(const Exchange& exchange, const RowPointer* pointers, std::int64_t row) {
    ExchangeRun run{};
    run.dtype = exchange.dtype;
    run.mix = exchange.mix;
    run.normalise = exchange.norm != nullptr;
    run.channels = exchange.sizes[kChannel];
    for (int s = 0; s < kStreams; ++s) {
        run.streams[s] = pointers[kViewIn + s];
        run.outs[s] = pointers[kViewOut + s];
        if (!exchange.norm) continue;
        run.branches[s] = pointers[kViewBranch + s];
        run.norms[s] = pointers[kViewNorm + s];
    }
    if (exchange.mixed) {
        const std::int64_t offset = (row - exchange.rows.begin) * exchange.mixed_columns;
        run.mixed = {advanced(exchange.mixed, offset, bytes_of_accumulation(exchange.dtype)), exchange.mixed_columns};
    }
    if (exchange.norm) run.eps = exchange.norm->eps;
    return run;
}

void advance(ExchangeRun* run, std::int64_t rows) {
    const std::int64_t bytes = element_size(run->dtype);
    for (RowPointer* pair : {run->streams, run->outs})
        for (int s = 0; s < kStreams; ++s) pair[s].data = advanced(pair[s].data, rows * pair[s].stride, bytes);
}

// `count` neighbouring rows, as rows of `fused` times the length as far as they go.
template <typename Kernel>
void run_fused(ExchangeRun run, std::int64_t count, std::int64_t fused, Kernel kernel) {
    const std::int64_t channels = run.channels;
    for (RowPointer* pair : {run.streams, run.outs})
        for (int s = 0; s < kStreams; ++s) pair[s].stride *= fused;
    run.rows = count / fused;
    run.channels = fused * channels;
    kernel(run);
    if (count % fused == 0) return;
    advance(&run, run.rows);
    run.rows = 1;
    run.channels = count % fused * channels;
    kernel(run);
}

template <typename S>
void run_exchange(const Exchange& exchange, InstructionSet set) {
    const auto kernel = FOURREAL_KERNEL_FOR(set, exchange_rows);
    const std::int64_t channels = exchange.sizes[kChannel], fused = count_fused_rows(exchange);
    const FactorTable<S> table({exchange.mix, exchange.sizes[kBatch], channels, fused}, exchange.parameters, exchange.norm);
    const std::int64_t kept = exchange.norm ? kStreams * padded_channels(channels) : 0;
    std::vector<S> scratch(static_cast<std::size_t>(kept * thread_limit()));
    for_each_stretch(exchange.rows, channels, [&](std::int64_t begin, std::int64_t end) {
        exchange.walk.for_each_run(begin, end, [&](std::int64_t b, const RowPointer* pointers, std::int64_t row, std::int64_t count) {
            ExchangeRun run = make_run(exchange, pointers, row);
            run.factors = table.of_batch(b);
            run.scratch = scratch.data() + kept * thread_index();
            run.rows = count;
            if (fused > 1)
                run_fused(run, count, fused, kernel);
            else
                kernel(run);
        });
    });
}

void run_for_dtype(const Exchange& exchange, InstructionSet set) {
    if (exchange.dtype == DType::kFloat64)
        run_exchange<double>(exchange, set);
    else
        run_exchange<float>(exchange, set);
}

}  // namespace

void sync_exchange_channel(const ChannelExchange& args, InstructionSet set) {
    if (element_count(args.sizes) == 0) return;
    const Mix mix = args.kind == ExchangeKind::kHard ? Mix::kChannelHard : Mix::kChannelSoft;
    const RowWalk walk(args.dtype, args.sizes, tensors_of(args.streams, args.outs, args.norm));
    const RowRange rows = {0, args.sizes[kBatch] * walk.rows_per_batch()};
    run_for_dtype({args.dtype, mix, args.sizes, rows, walk, args.parameters, args.norm, nullptr, 0}, set);
}

void sync_exchange_finish(const FinishRows& args, InstructionSet set) {
    if (element_count(args.sizes) == 0) return;
    const Mix mix = args.kind == FinishKind::kHard   ? Mix::kDenseHard
                    : args.kind == FinishKind::kSoft ? Mix::kDenseSoft
                                                     : Mix::kDenseSplit;
    const ExchangeParameters parameters = {nullptr, args.bias, nullptr, args.gate};
    const std::int64_t columns = (args.kind == FinishKind::kHard ? 1 : kStreams) * args.sizes[kChannel];
    const RowWalk walk(args.dtype, args.sizes, tensors_of(args.streams, args.outs, args.norm));
    run_for_dtype({args.dtype, mix, args.sizes, args.rows, walk, parameters, args.norm, const_cast<void*>(args.mixed), columns},
                  set);
}

void sync_exchange_stage(const StageRows& args, InstructionSet set) {
    if (element_count(args.sizes) == 0) return;
    const auto kernel = FOURREAL_KERNEL_FOR(set, stage_rows);
    std::vector<StreamTensor> tensors = {args.streams[0], args.streams[1]};
    if (args.branches) tensors.insert(tensors.end(), {args.branches[0], args.branches[1]});
    const RowWalk walk(args.dtype, args.sizes, tensors);
    const std::int64_t channels = args.sizes[kChannel], bytes = bytes_of_accumulation(args.dtype);
    const std::int64_t columns = args.sum ? channels : kStreams * channels;
    for_each_stretch(args.rows, channels, [&](std::int64_t begin, std::int64_t end) {
        walk.for_each_run(begin, end, [&](std::int64_t b, const RowPointer* pointers, std::int64_t row, std::int64_t count) {
            StageRun run{};
            run.dtype = args.dtype;
            run.sum = args.sum;
            run.has_branches = args.branches != nullptr;
            run.rows = count;
            run.channels = channels;
            for (int s = 0; s < kStreams; ++s) {
                const std::int64_t offset = (b * kStreams + s) * channels;
                run.streams[s] = pointers[s];
                if (args.branches) run.branches[s] = pointers[kStreams + s];
                run.branch_gate[s] = advanced(const_cast<void*>(args.branch_gate), offset, bytes);
                run.scale[s] = advanced(const_cast<void*>(args.input_scale), offset, bytes);
            }
            run.staged = {advanced(args.staged, (row - args.rows.begin) * columns, bytes), columns};
            kernel(run);
        });
    });
}

}  // namespace fourreal::cpu
