// Bundles of positions, taken side by side: one lane of a vector each.
#pragma once

#include <cstdint>

#include "kernels/pointwise_job.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

static_assert(kMaxBundle % kWidth == 0, "tasks begin at whole bundles");

// `count` positions from the first on; lanes past them repeat the last one.
template <int kLanes>
struct Bundle {
    std::int64_t index[kPositionAxes][kLanes];
    int count;

    void start(const PointwiseShape& shape, std::int64_t first, std::int64_t last) {
        std::int64_t rest = first;
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            index[axis][0] = rest % shape.positions[axis];
            rest /= shape.positions[axis];
        }
        fill(shape, last - first);
    }

    // The bundle after this one, when `remaining` positions, at least one, follow.
    Bundle next(const PointwiseShape& shape, std::int64_t remaining) const {
        Bundle result;
        for (int axis = 0; axis < kPositionAxes; ++axis) result.index[axis][0] = index[axis][count - 1];
        result.advance(shape, 0);
        result.fill(shape, remaining);
        return result;
    }

    template <typename Pointer>
    void offsets(const PointwiseTensor<Pointer>& tensor, std::int64_t (&sums)[kLanes]) const {
        for (int lane = 0; lane < kLanes; ++lane) sums[lane] = 0;
        for (int axis = 0; axis < kPositionAxes; ++axis)
            for (int lane = 0; lane < kLanes; ++lane) sums[lane] += index[axis][lane] * tensor.position_strides[axis];
    }

private:
    void advance(const PointwiseShape& shape, int lane) {
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            if (++index[axis][lane] < shape.positions[axis]) return;
            index[axis][lane] = 0;
        }
    }

    void fill(const PointwiseShape& shape, std::int64_t remaining) {
        count = remaining < kLanes ? static_cast<int>(remaining) : kLanes;
        for (int lane = 1; lane < kLanes; ++lane) {
            for (int axis = 0; axis < kPositionAxes; ++axis) index[axis][lane] = index[axis][lane - 1];
            if (lane < count) advance(shape, lane);
        }
    }
};

// The entries of a bundle in one tensor; T is const for inputs.
template <typename T, int kLanes = kWidth>
struct Sequences {
    T* base[kLanes];
    const std::int64_t* entries;

    template <typename Pointer>
    Sequences(const PointwiseTensor<Pointer>& tensor, const Bundle<kLanes>& bundle) : entries(tensor.entries) {
        std::int64_t offsets[kLanes];
        bundle.offsets(tensor, offsets);
        for (int lane = 0; lane < kLanes; ++lane) base[lane] = static_cast<T*>(tensor.data) + offsets[lane];
    }

    T* row(std::int64_t entry, int lane) const { return base[lane] + entries[entry]; }

    // Whether the positions of a bundle lie side by side, each a single number.
    bool side_by_side() const {
        for (int lane = 1; lane < kLanes; ++lane)
            if (base[lane] != base[0] + lane) return false;
        return true;
    }
};

// Parts of the scratch of a thread, each on its own cache lines.
class Scratch {
public:
    explicit Scratch(float* memory) : memory_(memory) {}

    float* take(std::int64_t floats) {
        float* part = memory_ ? memory_ + used_ : nullptr;
        constexpr std::int64_t kFloatsPerLine = kCacheLine / static_cast<std::int64_t>(sizeof(float));
        used_ += ((floats + kFloatsPerLine - 1) / kFloatsPerLine + kGapLines) * kFloatsPerLine;
        return part;
    }

    std::int64_t used() const { return used_; }

private:
    // Panels are often whole pages: without gaps, loads of one would wait for stores to another that they do not
    // overlap.
    static constexpr std::int64_t kGapLines = 5;

    float* memory_;
    std::int64_t used_ = 0;
};

// Calls body(T{}) with the storage type.
template <typename Body>
FOURREAL_ALWAYS_INLINE void with_storage(DType dtype, const Body& body) {
    if (dtype == DType::kBFloat16)
        body(BFloat16{});
    else if (dtype == DType::kFloat16)
        body(Float16{});
    else
        body(0.0f);
}

// Calls step(bundle, upcoming) for the bundles of a range; `upcoming` is null for the last.
template <int kLanes, typename Step>
FOURREAL_ALWAYS_INLINE void for_each_bundle(const PointwiseShape& shape, std::int64_t first, std::int64_t last,
                                            const Step& step) {
    if (first >= last) return;
    Bundle<kLanes> bundle;
    bundle.start(shape, first, last);
    for (std::int64_t position = first + bundle.count; position < last; position += bundle.count) {
        const Bundle<kLanes> upcoming = bundle.next(shape, last - position);
        step(bundle, &upcoming);
        bundle = upcoming;
    }
    step(bundle, static_cast<const Bundle<kLanes>*>(nullptr));
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
