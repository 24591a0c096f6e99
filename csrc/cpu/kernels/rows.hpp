// Moving rows between tensors and packed or transposed panels.
#pragma once

#include <cstdint>

#include "simd/simd.hpp"

namespace fourreal::cpu::FOURREAL_SIMD {

template <typename T>
FOURREAL_ALWAYS_INLINE void store_channels(T* row, std::int64_t channel, std::int64_t channels, Vec x) {
    const std::int64_t left = channels - channel;
    if (left >= kWidth)
        store(row + channel, x);
    else
        store_first(row + channel, x, static_cast<int>(left));
}

// Rows lie far apart, where the processor does not foresee them: they are asked for this many rows ahead.
constexpr std::int64_t kRowsAhead = 16;

template <typename T>
FOURREAL_ALWAYS_INLINE void prefetch_row(const T* row, std::int64_t channels) {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (std::int64_t at = 0; at < channels * static_cast<std::int64_t>(sizeof(T)); at += kCacheLine)
        __builtin_prefetch(bytes + at, 0);
}

template <typename T>
FOURREAL_ALWAYS_INLINE void prefetch_row_to_write(const T* row, std::int64_t channels) {
    const char* bytes = reinterpret_cast<const char*>(row);
    for (std::int64_t at = 0; at < channels * static_cast<std::int64_t>(sizeof(T)); at += kCacheLine)
        __builtin_prefetch(bytes + at, 1);
}

// One row as floats, with zeros up to `padded` channels.
template <typename T>
void pack_row(const T* row, std::int64_t channels, std::int64_t padded, float* packed) {
    for (std::int64_t d = 0; d < channels; d += kWidth) {
        const Vec x = load_channels(row, d, channels);
        if (d + kWidth <= padded)
            store(packed + d, x);
        else
            store_first(packed + d, x, static_cast<int>(padded - d));
    }
    for (std::int64_t d = (channels + kWidth - 1) / kWidth * kWidth; d < padded; ++d) packed[d] = 0;
}

// Rows i .. i + kWidth - 1, channels d .. d + kWidth - 1, of which those past `count` and `channels` are zero.
template <bool kWhole, typename T>
FOURREAL_ALWAYS_INLINE void load_square(const T* first, const std::int64_t* offsets, std::int64_t count, std::int64_t d,
                                        std::int64_t channels, Vec (&square)[kWidth]) {
#pragma GCC unroll 16  // the square lives in registers
    for (int r = 0; r < kWidth; ++r) {
        if constexpr (kWhole)
            square[r] = load(first + offsets[r] + d);
        else
            square[r] = r < count && d < channels ? load_channels(first + offsets[r], d, channels) : zero();
    }
}

// panel[d * lanes + i] = row_i[d] for the first `count` of `lanes` rows, zero for the others; `lanes` is a multiple of
// kWidth, and channels up to `padded` are zero.
template <typename T>
void transpose_rows_in(const T* first, const std::int64_t* offsets, std::int64_t count, std::int64_t lanes,
                       std::int64_t channels, std::int64_t padded, float* panel) {
    for (std::int64_t i = 0; i < lanes; i += kWidth) {
        for (std::int64_t r = i + kWidth; r < i + 2 * kWidth && r < count; ++r) prefetch_row(first + offsets[r], channels);
        for (std::int64_t d = 0; d < padded; d += kWidth) {
            Vec square[kWidth];
            if (i + kWidth <= count && d + kWidth <= channels)
                load_square<true>(first, offsets + i, count - i, d, channels, square);
            else
                load_square<false>(first, offsets + i, count - i, d, channels, square);
            transpose(square);
            const std::int64_t left = padded - d;
#pragma GCC unroll 16
            for (int c = 0; c < kWidth; ++c)
                if (c < left) store(panel + (d + c) * lanes + i, square[c]);
        }
    }
}

// Rows of floats that are added to what is written, where they are not null; they may be the rows written.
struct EarlierRows {
    const float* first = nullptr;
    const std::int64_t* offsets = nullptr;

    EarlierRows from(std::int64_t row) const { return {first, offsets + row}; }
};

// The inverse: row_i[d] = factors[i] * panel[d * lanes + i] + earlier_i[d].
template <typename T>
void transpose_rows_out(const float* panel, const float* factors, std::int64_t lanes, std::int64_t channels,
                        std::int64_t padded, std::int64_t count, T* first, const std::int64_t* offsets,
                        const EarlierRows& earlier = {}) {
    for (std::int64_t i = 0; i < lanes && i < count; i += kWidth) {
        for (std::int64_t r = i + kWidth; r < i + 2 * kWidth && r < count; ++r)
            prefetch_row_to_write(first + offsets[r], channels);
        const Vec scale = load(factors + i);
        for (std::int64_t d = 0; d < channels; d += kWidth) {
            const std::int64_t left = padded - d;
            Vec square[kWidth];
#pragma GCC unroll 16  // the square lives in registers
            for (int c = 0; c < kWidth; ++c) square[c] = c < left ? scale * load(panel + (d + c) * lanes + i) : zero();
            transpose(square);
            const std::int64_t rows = count - i;
#pragma GCC unroll 16
            for (int r = 0; r < kWidth; ++r) {
                if (r >= rows) break;
                if (earlier.first)
                    square[r] = square[r] + load_channels(earlier.first + earlier.offsets[i + r], d, channels);
                store_channels(first + offsets[i + r], d, channels, square[r]);
            }
        }
    }
}

}  // namespace fourreal::cpu::FOURREAL_SIMD
