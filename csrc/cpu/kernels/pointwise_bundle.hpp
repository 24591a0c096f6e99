// Positions handled side by side, and the way between their tensors and panels in scratch.
//
// A row panel holds entry e of position g as row g * entries + e, padded with zeros to whole vectors. A lane panel is its
// transpose: channel c of that entry is lane e * group + g of row c; lanes without an entry are zero.
#pragma once

#include <cstdint>

#include "kernels/pointwise_job.hpp"
#include "kernels/pointwise_prefetch.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

FOURREAL_ALWAYS_INLINE std::int64_t whole_vectors(std::int64_t count) { return (count + kWidth - 1) / kWidth * kWidth; }

// How many positions share the lanes of a vector.
FOURREAL_ALWAYS_INLINE int group_for(std::int64_t entries) {
    if (entries * 4 <= kWidth) return 4;
    return entries * 2 <= kWidth ? 2 : 1;
}

// `count` positions from `first` on; the rest of the group repeats the last one.
struct Bundle {
    std::int64_t index[kMaxGroup][kPositionAxes];
    int group;
    int count;

    void start(const PointwiseShape& shape, int group_size, std::int64_t first, std::int64_t last) {
        group = group_size;
        std::int64_t rest = first;
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            index[0][axis] = rest % shape.positions[axis];
            rest /= shape.positions[axis];
        }
        fill(shape, last - first);
    }

    // The bundle after this one, when `remaining` positions, at least one, follow.
    Bundle next(const PointwiseShape& shape, std::int64_t remaining) const {
        Bundle result;
        result.group = group;
        advance(shape, index[count - 1], result.index[0]);
        result.fill(shape, remaining);
        return result;
    }

    template <typename Pointer>
    std::int64_t offset(const PointwiseTensor<Pointer>& tensor, int g) const {
        std::int64_t sum = 0;
        for (int axis = 0; axis < kPositionAxes; ++axis) sum += index[g][axis] * tensor.position_strides[axis];
        return sum;
    }

private:
    static void advance(const PointwiseShape& shape, const std::int64_t* from, std::int64_t* to) {
        for (int axis = 0; axis < kPositionAxes; ++axis) to[axis] = from[axis];
        for (int axis = kPositionAxes - 1; axis >= 0; --axis) {
            if (++to[axis] < shape.positions[axis]) return;
            to[axis] = 0;
        }
    }

    void fill(const PointwiseShape& shape, std::int64_t remaining) {
        count = remaining < group ? static_cast<int>(remaining) : group;
        for (int g = 1; g < count; ++g) advance(shape, index[g - 1], index[g]);
        for (int g = count; g < group; ++g)
            for (int axis = 0; axis < kPositionAxes; ++axis) index[g][axis] = index[count - 1][axis];
    }
};

// The entries of a bundle in one tensor; T is const for inputs.
template <typename T>
struct Sequences {
    T* base[kMaxGroup] = {};
    const std::int64_t* entries;

    template <typename Pointer>
    Sequences(const PointwiseTensor<Pointer>& tensor, const Bundle& bundle) : entries(tensor.entries) {
        for (int g = 0; g < bundle.group; ++g) base[g] = static_cast<T*>(tensor.data) + bundle.offset(tensor, g);
    }

    T* row(std::int64_t entry, int g) const { return base[g] + entries[entry]; }

    void add_to(Prefetcher& ahead, std::int64_t entry_count, int count) const {
        const char** rows = ahead.extend(entry_count * count);
        for (int g = 0; g < count; ++g)
            for (std::int64_t e = 0; e < entry_count; ++e) *rows++ = reinterpret_cast<const char*>(row(e, g));
    }
};

// Entries first <= e < first + count of every position as a row panel.
template <typename T>
void load_rows(const Sequences<const T>& from, int group, std::int64_t first, std::int64_t count,
               std::int64_t channels, float* rows) {
    const std::int64_t stride = whole_vectors(channels);
    for (int g = 0; g < group; ++g)
        for (std::int64_t e = 0; e < count; ++e) {
            const T* row = from.row(first + e, g);
            std::int64_t c = 0;
            for (; c + kWidth <= channels; c += kWidth) store(rows + c, load(row + c));
            if (c < channels) store(rows + c, load_first(row + c, static_cast<int>(channels - c)));
            rows += stride;
        }
}

// The rows of one vector of lanes: `filled` of them, and where to copy them.
template <typename T>
struct LaneBlock {
    const T* source[kWidth];
    float* copy[kWidth];
    int filled;

    template <bool kWholeBlock, bool kWholeVector>
    FOURREAL_ALWAYS_INLINE void transpose_to(float* panel, std::int64_t lanes, std::int64_t channel, int left,
                                             bool copying) const {
        Vec square[kWidth];
        for (int lane = 0; lane < kWidth; ++lane) {
            square[lane] = zero();
            if (!kWholeBlock && lane >= filled) continue;
            const T* from = source[lane] + channel;
            square[lane] = kWholeVector ? load(from) : load_first(from, left);
        }
        if (copying)
            for (int lane = 0; lane < kWidth; ++lane)
                if (kWholeBlock || lane < filled) store(copy[lane] + channel, square[lane]);
        transpose(square);
        for (int r = 0; r < kWidth; ++r) store(panel + (channel + r) * lanes, square[r]);
    }

    template <bool kWholeBlock>
    void transpose_all(float* panel, std::int64_t lanes, std::int64_t channels, bool copying) const {
        std::int64_t c = 0;
        for (; c + kWidth <= channels; c += kWidth) transpose_to<kWholeBlock, true>(panel, lanes, c, kWidth, copying);
        if (c < channels)
            transpose_to<kWholeBlock, false>(panel, lanes, c, static_cast<int>(channels - c), copying);
    }
};

// The same entries as a lane panel of `lanes` lanes and, unless `rows` is null, into a row panel of `row_entries` entries
// from entry `first_row` on.
template <typename T>
void load_lanes(const Sequences<const T>& from, int group, std::int64_t first, std::int64_t count,
                std::int64_t channels, std::int64_t lanes, float* panel, float* rows, std::int64_t first_row,
                std::int64_t row_entries) {
    const std::int64_t stride = whole_vectors(channels);
    std::int64_t e = 0;
    int g = 0;
    for (std::int64_t lane = 0; lane < lanes; lane += kWidth) {
        LaneBlock<T> block;
        block.filled = 0;
        for (; block.filled < kWidth && e < count; ++block.filled) {
            block.source[block.filled] = from.row(first + e, g);
            block.copy[block.filled] = rows ? rows + (g * row_entries + first_row + e) * stride : nullptr;
            if (++g == group) {
                g = 0;
                ++e;
            }
        }
        if (block.filled == kWidth)
            block.template transpose_all<true>(panel + lane, lanes, channels, rows != nullptr);
        else
            block.template transpose_all<false>(panel + lane, lanes, channels, rows != nullptr);
    }
}

template <bool kStream, typename T>
void store_row(const float* from, std::int64_t channels, T* to) {
    std::int64_t c = 0;
    for (; c + kWidth <= channels; c += kWidth) {
        if constexpr (kStream)
            stream(to + c, load(from + c));
        else
            store(to + c, load(from + c));
    }
    if (c < channels) store_first(to + c, load(from + c), static_cast<int>(channels - c));
}

// A row panel into entries first <= e < first + count of the `positions` first positions.
template <typename T>
void store_rows(const float* rows, const Sequences<T>& to, int positions, std::int64_t first, std::int64_t count,
                const PointwiseShape& shape) {
    const std::int64_t stride = whole_vectors(shape.channels);
    for (std::int64_t e = 0; e < count; ++e)
        for (int g = 0; g < positions; ++g) {
            const float* row = rows + (g * count + e) * stride;
            if (shape.stream)
                store_row<true>(row, shape.channels, to.row(first + e, g));
            else
                store_row<false>(row, shape.channels, to.row(first + e, g));
        }
}

// One number per lane: that of entry e of position g is lane (e * group + g).
inline void store_lanes(const float* lanes, const Sequences<float>& to, const Bundle& bundle, std::int64_t first,
                        std::int64_t count) {
    for (std::int64_t e = 0; e < count; ++e)
        for (int g = 0; g < bundle.count; ++g) *to.row(first + e, g) = lanes[e * bundle.group + g];
}

inline void read_lanes(const PointwiseInput& from, const Bundle& bundle, std::int64_t first, std::int64_t count,
                       std::int64_t padded, float* lanes) {
    for (std::int64_t lane = 0; lane < padded; ++lane) lanes[lane] = 0.0f;
    if (from.data == nullptr) return;
    const Sequences<const float> source(from, bundle);
    for (std::int64_t e = 0; e < count; ++e)
        for (int g = 0; g < bundle.group; ++g) lanes[e * bundle.group + g] = *source.row(first + e, g);
}

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

    const char** take_rows(std::int64_t count) {
        return reinterpret_cast<const char**>(take(count * static_cast<std::int64_t>(sizeof(char*) / sizeof(float))));
    }

    std::int64_t used() const { return used_; }

private:
    // Panels are often whole pages: without gaps, loads of one would wait for stores to another that they do not overlap.
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
template <typename Step>
FOURREAL_ALWAYS_INLINE void for_each_bundle(const PointwiseShape& shape, int group, std::int64_t first, std::int64_t last,
                                            const Step& step) {
    if (first >= last) return;
    Bundle bundle;
    bundle.start(shape, group, first, last);
    for (std::int64_t position = first + bundle.count; position < last; position += bundle.count) {
        const Bundle upcoming = bundle.next(shape, last - position);
        step(bundle, &upcoming);
        bundle = upcoming;
    }
    step(bundle, static_cast<const Bundle*>(nullptr));
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
