// The two products of pointwise attention on rows in shared memory: of rows with rows into scores, and weighted sums of
// rows.
#pragma once

#include <cmath>

#include "pointwise_rows.cuh"

namespace fourreal::cuda {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// Keeps the conversion of a value out of the loops that use it: nvcc would rather repeat it than hold more registers.
__device__ inline void hold([[maybe_unused]] float& value) {
#if defined(__CUDA_ARCH__)
    asm volatile("" : "+f"(value));
#endif
}

// Sums of the lanes' partial products; the lane with number l has that of query l % 8 in `partial[0]`.
//
// partial[i] of a lane belongs to query i ^ (lane % 8), so that a lane always keeps the first half and hands on the
// second.
__device__ inline float sum_over_lanes(float (&partial)[kQueryTile], int lanes) {
    constexpr unsigned kWholeWarp = 0xffffffffu;
#pragma unroll
    for (int half = kQueryTile / 2; half > 0; half /= 2) {
#pragma unroll
        for (int i = 0; i < half; ++i) partial[i] += __shfl_xor_sync(kWholeWarp, partial[i + half], half);
    }
    float sum = partial[0];
#pragma unroll 1
    for (int distance = kQueryTile; distance < lanes; distance *= 2)
        sum += __shfl_xor_sync(kWholeWarp, sum, distance);
    return sum;
}

// Products of the tile's queries with all entries of their line, times `factor`. Every lane of a warp takes part;
// `active`: the result counts.
template <typename T>
__device__ void score_tile(const Rows<T>& access, const T* queries, const T* keys, const LineTile& tile, float factor,
                           float* scores, int columns, bool active) {
    const int turn = access.lane % kQueryTile;
    float q[kQueryTile][kLaneChannels];
#pragma unroll
    for (int i = 0; i < kQueryTile; ++i) {
        access.read(queries, tile.row(tile.first_query + min(i ^ turn, tile.queries - 1)), q[i]);
#pragma unroll
        for (float& value : q[i]) hold(value);
    }
    const bool writes = active && access.lane < tile.queries;
    float* score = scores + tile.first_slot * columns + tile.first_column + turn * tile.column_step;
#pragma unroll 2
    for (int entry = 0; entry < tile.length; ++entry) {
        float k[kLaneChannels];
        access.read(keys, tile.row(entry), k);
        float partial[kQueryTile];
#pragma unroll
        for (int i = 0; i < kQueryTile; ++i) {
            partial[i] = q[i][0] * k[0];
#pragma unroll
            for (int e = 1; e < kLaneChannels; ++e) partial[i] = fmaf(q[i][e], k[e], partial[i]);
        }
        const float sum = sum_over_lanes(partial, access.lanes);
        if (writes) *score = sum * factor;
        score += columns;
    }
}

// Scores of all queries of the block's tile: products times `factor`. All lanes of a warp go through the same number of
// entries.
template <typename T>
__device__ void score_all(const PointwiseTiles& tiles, const Rows<T>& access, const T* queries, const T* keys,
                          float factor, float* scores) {
    const int columns = tiles.columns();
#pragma unroll 1
    for (int across = 0; across <= static_cast<int>(tiles.is_union()); ++across) {
        const int total = across ? tiles.cross_tiles() : tiles.line_tiles();
#pragma unroll 1
        for (int first = 0; first < total; first += access.groups) {
            const int index = first + access.group;
            const int known = min(index, total - 1);
            const LineTile tile = across ? tiles.cross_tile(known) : tiles.line_tile(known);
            score_tile(access, queries, keys, tile, factor, scores, columns, index < total);
        }
    }
}

__device__ inline void load_weights(const float* from, float (&weights)[kQueryTile]) {
#pragma unroll
    for (int i = 0; i < kQueryTile; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(from + i);
        weights[i] = four.x;
        weights[i + 1] = four.y;
        weights[i + 2] = four.z;
        weights[i + 3] = four.w;
    }
}

// Sums of `rows` for each entry of a tile of a line (tiles.line_tile): over what the entry sees as a query, weighted by
// its column, or with `of_keys` over the queries that see it, weighted by its slot in their columns.
template <typename T>
__device__ void weigh_tile(const PointwiseTiles& tiles, const Rows<T>& access, const LineTile& tile, const T* rows,
                           const float* weights, bool of_keys, float (&sums)[kQueryTile][kLaneChannels]) {
    const int columns = tiles.columns();
#pragma unroll
    for (int i = 0; i < kQueryTile; ++i) {
#pragma unroll
        for (int e = 0; e < kLaneChannels; ++e) sums[i][e] = 0.0f;
    }
    const float* line = of_keys ? weights + tile.first_query * columns + tile.first_column - tile.first_query
                                : weights + tile.first_column;
#pragma unroll 2
    for (int entry = 0; entry < tile.length; ++entry) {
        float w[kQueryTile], row[kLaneChannels];
        access.read(rows, tile.row(entry), row);
        if (of_keys) {
#pragma unroll
            for (int i = 0; i < kQueryTile; ++i) w[i] = line[i * columns + entry];
        } else {
            load_weights(line + entry * columns, w);
        }
#pragma unroll
        for (int i = 0; i < kQueryTile; ++i) {
#pragma unroll
            for (int e = 0; e < kLaneChannels; ++e) sums[i][e] = fmaf(w[i], row[e], sums[i][e]);
        }
    }
    if (!tiles.is_union()) return;
#pragma unroll 1
    for (int other = 0; other < tiles.outer; ++other) {
        if (other == tile.line) continue;
        // Entry i of the other line and entry i of this one see each other.
        const int slot = tiles.padded() + (of_keys ? tile.line : other);
        const int line_of_column = of_keys ? other : tile.line;
        float w[kQueryTile];
        load_weights(weights + slot * columns + tiles.column(tile.position, line_of_column, tile.first_query), w);
        int other_row = tiles.row(tile.position, other, tile.first_query);
#pragma unroll
        for (int i = 0; i < kQueryTile; ++i) {
            float row[kLaneChannels];
            access.read(rows, other_row, row);
            other_row += static_cast<int>(i + 1 < tile.queries);  // past the end of the line: its last row, for nothing
#pragma unroll
            for (int e = 0; e < kLaneChannels; ++e) sums[i][e] = fmaf(w[i], row[e], sums[i][e]);
        }
    }
}

// Weighted sums of all entries of the block's tile, written to operand `which`.
template <typename T, int kOperands>
__device__ void weigh_all(const PointwiseLaunch<kOperands>& launch, const std::int64_t* offsets, const Rows<T>& access,
                          int which, const T* rows, const float* weights, bool of_keys) {
#pragma unroll 1
    for (int index = access.group; index < launch.tiles.line_tiles(); index += access.groups) {
        const LineTile tile = launch.tiles.line_tile(index);
        float sums[kQueryTile][kLaneChannels];
        weigh_tile(launch.tiles, access, tile, rows, weights, of_keys, sums);
        write_rows(launch, offsets, access, which, tile, sums);
    }
}

// Calls visit(slot) for what a column's query sees, each entry once.
template <typename Visit>
__device__ void for_slots(const PointwiseTiles& tiles, int line, Visit visit) {
#pragma unroll 4
    for (int slot = 0; slot < tiles.inner; ++slot) visit(slot);
    if (!tiles.is_union()) return;
    const int first = tiles.padded();
#pragma unroll 4
    for (int other = 0; other < tiles.outer; ++other)
        if (other != line) visit(first + other);
}

__device__ inline float largest_score(const PointwiseTiles& tiles, const ColumnOwner& owner, const float* score) {
    const int columns = tiles.columns();
    float largest = -INFINITY;
    for_slots(tiles, owner.line, [&](int slot) { largest = fmaxf(largest, score[slot * columns]); });
    return largest;
}

}  // namespace fourreal::cuda
