// How queries are divided into panels and keys into blocks: by their counts alone, so that results do not depend on threads.
#pragma once

#include <cstdint>

#include "kernels/frame_attention.hpp"
#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

// One value per query of a panel.
template <int kVectors>
struct Lanes {
    Vec at[kVectors];

    static FOURREAL_ALWAYS_INLINE Lanes load_from(const float* from) {
        Lanes lanes;
        for (int x = 0; x < kVectors; ++x) lanes.at[x] = load(from + x * kWidth);
        return lanes;
    }
    static FOURREAL_ALWAYS_INLINE Lanes all(float value) {
        Lanes lanes;
        for (int x = 0; x < kVectors; ++x) lanes.at[x] = broadcast(value);
        return lanes;
    }
    FOURREAL_ALWAYS_INLINE void store_to(float* to) const {
        for (int x = 0; x < kVectors; ++x) store(to + x * kWidth, at[x]);
    }
    FOURREAL_ALWAYS_INLINE Lanes negated() const {
        Lanes lanes;
        for (int x = 0; x < kVectors; ++x) lanes.at[x] = zero() - at[x];
        return lanes;
    }
};

struct Panel {
    std::int64_t first;  // query, and lane: all panels before it are full
    std::int64_t queries;
    int vectors;

    std::int64_t lanes() const { return static_cast<std::int64_t>(vectors) * kWidth; }
};

// Panels of nearly equal width: 4 vectors are 2 + 2 rather than 3 + 1.
struct Panels {
    std::int64_t queries;
    std::int64_t vectors;
    std::int64_t count;
    std::int64_t lanes;

    explicit Panels(std::int64_t query_count)
        : queries(query_count),
          vectors((query_count + kWidth - 1) / kWidth),
          count((vectors + kTileVectors - 1) / kTileVectors),
          lanes(vectors * kWidth) {}

    Panel at(std::int64_t index) const {
        const std::int64_t begin = vectors * index / count, end = vectors * (index + 1) / count;
        const std::int64_t first = begin * kWidth;
        const std::int64_t last = end * kWidth < queries ? end * kWidth : queries;
        return {first, last - first, static_cast<int>(end - begin)};
    }
};

// Blocks of at most kKeyBlock keys, of nearly equal size, in whole tiles but for the last.
struct KeyBlocks {
    std::int64_t keys;
    std::int64_t count;
    std::int64_t step;

    explicit KeyBlocks(std::int64_t key_count) : keys(key_count), count((key_count + kKeyBlock - 1) / kKeyBlock) {
        const std::int64_t even = (keys + count - 1) / count;
        step = (even + kTileRows - 1) / kTileRows * kTileRows;
        count = (keys + step - 1) / step;
    }

    std::int64_t first(std::int64_t block) const { return block * step; }
    std::int64_t size(std::int64_t block) const { return block + 1 < count ? step : keys - first(block); }
};

// The blocks of some runs of keys, one after the other.
class BlockWalk {
public:
    BlockWalk(const KeyRun* runs, std::int64_t count)
        : run_(runs), end_(runs + count), blocks_(count > 0 ? runs->count : 0) {}

    bool done() const { return run_ == end_; }
    KeyRun block() const { return {run_->first + blocks_.first(index_), blocks_.size(index_)}; }
    void advance() {
        if (++index_ < blocks_.count) return;
        index_ = 0;
        if (++run_ != end_) blocks_ = KeyBlocks(run_->count);
    }

private:
    const KeyRun* run_;
    const KeyRun* end_;
    KeyBlocks blocks_;
    std::int64_t index_ = 0;
};

}  // namespace fourreal::cpu::FOURREAL_SIMD
