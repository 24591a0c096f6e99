#include "kernels/pointwise_products.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {
namespace {

// Of a square tile of sums, with room in the registers for a row of it and one vector more.
constexpr int kSide = kWidth == 16 ? 5 : 3;
constexpr int kMixChannels = 4;

// Rows of vectors. Those of neighbouring entries are blocks: then the distance is known to the compiler.
template <bool kBlocks>
struct Rows {
    const float* at;
    std::int64_t stride;

    FOURREAL_ALWAYS_INLINE Vec get(std::int64_t row, std::int64_t vector) const {
        return load(at + row * (kBlocks ? kBlock : stride) + vector * kWidth);
    }
};

struct ScoreTile {
    const float *a, *b;
    std::int64_t step;
    int channels;
    float* scores;
    std::int64_t stride;
    bool accumulate;

    template <bool kBlocks, int kRows, int kColumns>
    FOURREAL_NEVER_INLINE void run() const {
        const Rows<kBlocks> rows{a, step}, columns{b, step};
        Vec sums[kRows][kColumns];
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
            for (int j = 0; j < kColumns; ++j) sums[i][j] = zero();
        for (int c = 0; c < channels; ++c) {
            Vec column[kColumns];
#pragma GCC unroll 16
            for (int j = 0; j < kColumns; ++j) column[j] = columns.get(j, c);
#pragma GCC unroll 16
            for (int i = 0; i < kRows; ++i) {
                const Vec row = rows.get(i, c);
#pragma GCC unroll 16
                for (int j = 0; j < kColumns; ++j) sums[i][j] = fmadd(row, column[j], sums[i][j]);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
            for (int j = 0; j < kColumns; ++j) {
                float* const to = scores + i * stride + j * kWidth;
                store(to, accumulate ? load(to) + sums[i][j] : sums[i][j]);
            }
    }
};

struct MixTile {
    const float* weights;
    std::int64_t key_step, weight_step;  // from one key to the next, and from one result to the next
    const float* x;
    std::int64_t step;
    std::int64_t count;
    int channels;
    float* result;
    bool accumulate;

    template <bool kBlocks, int kRows>
    FOURREAL_NEVER_INLINE void run() const {
        const Rows<kBlocks> terms{x, step}, results{result, step};
        for (int c = 0; c < channels; c += kMixChannels) {
            Vec sums[kRows][kMixChannels];
#pragma GCC unroll 16
            for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
                for (int m = 0; m < kMixChannels; ++m) sums[i][m] = accumulate ? results.get(i, c + m) : zero();
            for (std::int64_t j = 0; j < count; ++j) {
                Vec factors[kRows];
#pragma GCC unroll 16
                for (int i = 0; i < kRows; ++i) factors[i] = load(weights + j * key_step + i * weight_step);
#pragma GCC unroll 16
                for (int m = 0; m < kMixChannels; ++m) {
                    const Vec term = terms.get(j, c + m);
#pragma GCC unroll 16
                    for (int i = 0; i < kRows; ++i) sums[i][m] = fmadd(factors[i], term, sums[i][m]);
                }
            }
#pragma GCC unroll 16
            for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 16
                for (int m = 0; m < kMixChannels; ++m)
                    store(result + i * (kBlocks ? kBlock : step) + (c + m) * kWidth, sums[i][m]);
        }
    }
};

// 0 <= i < count in parts of at most kSide each and of nearly the same size.
struct Parts {
    std::int64_t count, smaller, larger;  // the first `larger` of them have one member more than `smaller`

    explicit Parts(std::int64_t members)
        : count((members + kSide - 1) / kSide), smaller(members / count), larger(members - smaller * count) {}

    // Calls body(first, size).
    template <typename Body>
    FOURREAL_ALWAYS_INLINE void for_each(const Body& body) const {
        std::int64_t first = 0;
        for (std::int64_t p = 0; p < count; ++p) {
            const std::int64_t size = p < larger ? smaller + 1 : smaller;
            body(first, static_cast<int>(size));
            first += size;
        }
    }
};

template <bool kBlocks, int kRows>
void run_tile(const ScoreTile& tile, int columns) {
    switch (columns) {
        case 1: return tile.run<kBlocks, kRows, 1>();
        case 2: return tile.run<kBlocks, kRows, 2>();
        case 3: return tile.run<kBlocks, kRows, 3>();
#if FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) == 3
        case 4: return tile.run<kBlocks, kRows, 4>();
        case 5: return tile.run<kBlocks, kRows, 5>();
#endif
    }
}

template <bool kBlocks>
void run_tile(const ScoreTile& tile, int rows, int columns) {
    switch (rows) {
        case 1: return run_tile<kBlocks, 1>(tile, columns);
        case 2: return run_tile<kBlocks, 2>(tile, columns);
        case 3: return run_tile<kBlocks, 3>(tile, columns);
#if FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) == 3
        case 4: return run_tile<kBlocks, 4>(tile, columns);
        case 5: return run_tile<kBlocks, 5>(tile, columns);
#endif
    }
}

template <bool kBlocks>
void run_tile(const MixTile& tile, int rows) {
    switch (rows) {
        case 1: return tile.run<kBlocks, 1>();
        case 2: return tile.run<kBlocks, 2>();
        case 3: return tile.run<kBlocks, 3>();
#if FOURREAL_SIMD_LEVEL(FOURREAL_SIMD) == 3
        case 4: return tile.run<kBlocks, 4>();
        case 5: return tile.run<kBlocks, 5>();
#endif
    }
}

void family_products(const Family& family, const float* a, const float* b, int channels, float* scores, bool accumulate,
                     Ahead& ahead) {
    const std::int64_t step = family.step * kBlock, row = family.count * kWidth;
    a += family.first * kBlock;
    b += family.first * kBlock;
    scores += family.scores;
    const Parts parts(family.count);
    parts.for_each([&](std::int64_t i, int rows) {
        parts.for_each([&](std::int64_t j, int columns) {
            float* const to = scores + i * row + j * kWidth;
            const ScoreTile tile{a + i * step, b + j * step, step, channels, to, row, accumulate};
            if (step == kBlock)
                run_tile<true>(tile, rows, columns);
            else
                run_tile<false>(tile, rows, columns);
            ahead.step(kScoreWeight);
        });
    });
}

void family_mix(const Family& family, Weights weights, const float* x, int channels, float* result, bool accumulate,
                Ahead& ahead) {
    const std::int64_t step = family.step * kBlock, row = family.count * kWidth;
    const std::int64_t weight_step = weights.transposed ? kWidth : row, key_step = weights.transposed ? row : kWidth;
    x += family.first * kBlock;
    result += family.first * kBlock;
    Parts(family.count).for_each([&](std::int64_t i, int rows) {
        const float* const from = weights.scores + family.scores + i * weight_step;
        const MixTile tile{from, key_step, weight_step, x, step, family.count, channels, result + i * step, accumulate};
        if (step == kBlock)
            run_tile<true>(tile, rows);
        else
            run_tile<false>(tile, rows);
        ahead.step(kMixWeight);
    });
}

}  // namespace

void add_products(const Families& families, const float* a, const float* b, const Channels& channels, float* scores,
                  Ahead& ahead) {
    const auto add = [&](const Family& family) {
        family_products(family, a, b, channels.count, scores, channels.first > 0, ahead);
    };
    families.for_rows(add);
    families.for_columns(add);
}

void mix(const Families& families, Weights weights, const float* x, const Channels& channels, float* result,
         Ahead& ahead) {
    const auto add = [&](const Family& family, bool accumulate) {
        family_mix(family, weights, x, channels.count, result, accumulate, ahead);
    };
    families.for_rows([&](const Family& family) { add(family, false); });
    families.for_columns([&](const Family& family) { add(family, true); });
}

std::int64_t products_weight(const Families& families) {
    std::int64_t tiles = 0;
    const auto add = [&](const Family& family) { tiles += Parts(family.count).count * Parts(family.count).count; };
    families.for_rows(add);
    families.for_columns(add);
    return tiles * kScoreWeight;
}

std::int64_t mix_weight(const Families& families) {
    std::int64_t tiles = 0;
    const auto add = [&](const Family& family) { tiles += Parts(family.count).count; };
    families.for_rows(add);
    families.for_columns(add);
    return tiles * kMixWeight;
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
