#include "fourreal/sync_exchange.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace fourreal::cpu {
namespace {

enum Operand : int { kViewIn = 0, kTimeIn = 1, kViewOut = 2, kTimeOut = 3 };
constexpr int kOperands = 4;

// Work below one task runs on the calling thread: waking others costs more.
constexpr std::int64_t kElementsPerTask = 32768;
// Packed rows are processed together up to this length, so that few channels do not mean short loops.
constexpr std::int64_t kFusedElements = 1024;

template <typename T>
using Compute = std::conditional_t<sizeof(T) == 8, double, float>;

// Per channel y = from_view * view + from_time * time + offset: gate, weight, scale and bias multiplied out.
template <typename S>
struct Coefficients {
    const S* from_view;
    const S* from_time;
    const S* offset;
};

template <typename T>
struct Run {
    const T* view;
    const T* time;
    T* out_view;
    T* out_time;
    std::int64_t rows;
    std::int64_t channels;
    std::int64_t strides[kOperands];
};

template <typename T>
using RunKernel = void (*)(const Run<T>&, const Coefficients<Compute<T>>&);

template <typename T>
FOURREAL_ALWAYS_INLINE void exchange_run(const Run<T>& run, const Coefficients<Compute<T>>& coefficients) {
    const Compute<T>* from_view = coefficients.from_view;
    const Compute<T>* from_time = coefficients.from_time;
    const Compute<T>* offset = coefficients.offset;
    for (std::int64_t row = 0; row < run.rows; ++row) {
        const T* view = run.view + row * run.strides[kViewIn];
        const T* time = run.time + row * run.strides[kTimeIn];
        T* out_view = run.out_view + row * run.strides[kViewOut];
        T* out_time = run.out_time + row * run.strides[kTimeOut];
        FOURREAL_INDEPENDENT_ITERATIONS
        for (std::int64_t c = 0; c < run.channels; ++c) {
            const T y = store<T>(from_view[c] * load(view[c]) + from_time[c] * load(time[c]) + offset[c]);
            out_view[c] = y;
            out_time[c] = y;
        }
    }
}

template <typename T>
void exchange_run_portable(const Run<T>& run, const Coefficients<Compute<T>>& coefficients) {
    exchange_run(run, coefficients);
}

#if FOURREAL_X86_TARGETS
template <typename T>
FOURREAL_TARGET_AVX2 void exchange_run_avx2(const Run<T>& run, const Coefficients<Compute<T>>& coefficients) {
    exchange_run(run, coefficients);
}

template <typename T>
FOURREAL_TARGET_AVX512 void exchange_run_avx512(const Run<T>& run, const Coefficients<Compute<T>>& coefficients) {
    exchange_run(run, coefficients);
}
#endif

template <typename T>
RunKernel<T> kernel_for(InstructionSet set) {
#if FOURREAL_X86_TARGETS
    if (set == InstructionSet::kAvx512) return exchange_run_avx512<T>;
    if (set == InstructionSet::kAvx2) return exchange_run_avx2<T>;
#endif
    static_cast<void>(set);
    return exchange_run_portable<T>;
}

// Coefficients of every batch entry (or of one, where they do not depend on it), each repeated for `repeats` packed rows.
template <typename S>
class CoefficientTable {
public:
    CoefficientTable(const HardChannelExchange& args, std::int64_t repeats)
        : channels_(args.sizes[kChannel]),
          length_(channels_ * repeats),
          per_batch_(args.gate != nullptr || args.input_scale != nullptr),
          values_(static_cast<std::size_t>(3 * length_ * (per_batch_ ? args.sizes[kBatch] : 1))) {
        for (std::int64_t b = 0; b < (per_batch_ ? args.sizes[kBatch] : 1); ++b) fill(args, b, repeats);
    }

    Coefficients<S> of_batch(std::int64_t b) const {
        const S* entry = values_.data() + (per_batch_ ? b : 0) * 3 * length_;
        return {entry, entry + length_, entry + 2 * length_};
    }

private:
    void fill(const HardChannelExchange& args, std::int64_t b, std::int64_t repeats) {
        const S* weight = static_cast<const S*>(args.weight);
        const S* bias = static_cast<const S*>(args.bias);
        const S* gate = args.gate ? static_cast<const S*>(args.gate) + b * channels_ : nullptr;
        const S* scale = args.input_scale ? static_cast<const S*>(args.input_scale) + b * 2 * channels_ : nullptr;
        S* entry = values_.data() + b * 3 * length_;
        for (std::int64_t c = 0; c < channels_; ++c) {
            const S g = gate ? gate[c] : S(1);
            entry[c] = g * weight[c] * (scale ? scale[c] : S(1));
            entry[length_ + c] = g * weight[channels_ + c] * (scale ? scale[channels_ + c] : S(1));
            entry[2 * length_ + c] = bias ? g * bias[c] : S(0);
        }
        for (int part = 0; part < 3; ++part) {
            S* first = entry + part * length_;
            for (std::int64_t copy = 1; copy < repeats; ++copy)
                std::copy(first, first + channels_, first + copy * channels_);
        }
    }

    std::int64_t channels_;
    std::int64_t length_;
    bool per_batch_;
    std::vector<S> values_;
};

template <typename T>
class HardChannelKernel {
public:
    HardChannelKernel(const HardChannelExchange& args, InstructionSet set)
        : args_(args),
          strides_{args.view_strides, args.time_strides, args.out_view_strides, args.out_time_strides},
          layout_(merge_rows<kOperands>(args.sizes, strides_)),
          rows_(layout_.rows()),
          fused_rows_(count_fused_rows()),
          table_(args, fused_rows_),
          kernel_(kernel_for<T>(set)) {}

    void operator()() const {
        const std::int64_t total = args_.sizes[kBatch] * rows_;
        const std::int64_t rows_per_task = std::max<std::int64_t>(1, kElementsPerTask / args_.sizes[kChannel]);
        const std::int64_t tasks = (total + rows_per_task - 1) / rows_per_task;
#pragma omp parallel for schedule(static) if (tasks > 1)
        for (std::int64_t task = 0; task < tasks; ++task)
            exchange_rows(task * rows_per_task, std::min(total, (task + 1) * rows_per_task));
    }

private:
    // How many rows are processed as one longer row; 1 unless neighbouring rows touch in every tensor.
    std::int64_t count_fused_rows() const {
        const int innermost = RowLayout<kOperands>::kDims - 1;
        for (int k = 0; k < kOperands; ++k)
            if (layout_.strides[k][innermost] != args_.sizes[kChannel]) return 1;
        const std::int64_t fitting = std::max<std::int64_t>(1, kFusedElements / args_.sizes[kChannel]);
        return std::min(layout_.sizes[innermost], fitting);
    }

    void exchange_rows(std::int64_t begin, std::int64_t end) const {
        const std::int64_t inner = layout_.sizes[2];
        for (std::int64_t row = begin; row < end;) {
            const std::int64_t index = row % inner;
            const std::int64_t count = std::min(inner - index, end - row);
            exchange_neighbours(row / rows_, row % rows_, count);
            row += count;
        }
    }

    // `count` rows along the innermost merged axis, starting at `row` of batch entry b.
    void exchange_neighbours(std::int64_t b, std::int64_t row, std::int64_t count) const {
        const std::int64_t outer = row / layout_.sizes[2];
        const std::int64_t position[3] = {outer / layout_.sizes[1], outer % layout_.sizes[1], row % layout_.sizes[2]};
        std::int64_t offsets[kOperands];
        Run<T> run;
        for (int k = 0; k < kOperands; ++k) {
            offsets[k] = b * strides_[k][kBatch];
            for (int dim = 0; dim < 3; ++dim) offsets[k] += position[dim] * layout_.strides[k][dim];
            run.strides[k] = layout_.strides[k][2] * fused_rows_;
        }
        run.view = static_cast<const T*>(args_.view) + offsets[kViewIn];
        run.time = static_cast<const T*>(args_.time) + offsets[kTimeIn];
        run.out_view = static_cast<T*>(args_.out_view) + offsets[kViewOut];
        run.out_time = static_cast<T*>(args_.out_time) + offsets[kTimeOut];
        run.rows = count / fused_rows_;
        run.channels = fused_rows_ * args_.sizes[kChannel];

        const Coefficients<Compute<T>> coefficients = table_.of_batch(b);
        kernel_(run, coefficients);
        const std::int64_t left = count % fused_rows_;
        if (left == 0) return;
        run.view += run.rows * run.strides[kViewIn];
        run.time += run.rows * run.strides[kTimeIn];
        run.out_view += run.rows * run.strides[kViewOut];
        run.out_time += run.rows * run.strides[kTimeOut];
        run.rows = 1;
        run.channels = left * args_.sizes[kChannel];
        kernel_(run, coefficients);
    }

    const HardChannelExchange& args_;
    const GridStrides strides_[kOperands];
    const RowLayout<kOperands> layout_;
    const std::int64_t rows_;
    const std::int64_t fused_rows_;
    const CoefficientTable<Compute<T>> table_;
    const RunKernel<T> kernel_;
};

}  // namespace

void sync_exchange_hard_channel(const HardChannelExchange& args, InstructionSet set) {
    if (element_count(args.sizes) == 0) return;
    switch (args.dtype) {
        case DType::kFloat32: return HardChannelKernel<float>(args, set)();
        case DType::kFloat64: return HardChannelKernel<double>(args, set)();
        case DType::kFloat16: return HardChannelKernel<Float16>(args, set)();
        case DType::kBFloat16: return HardChannelKernel<BFloat16>(args, set)();
    }
}

}  // namespace fourreal::cpu
