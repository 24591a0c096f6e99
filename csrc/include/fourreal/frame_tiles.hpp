// How attention over whole frames ("vn", "tn", "vn|tn") is cut into tiles, as plain functions for host and device.
//
// Queries that share their keys are a group: the frames of one timestep ("vn"), of one view ("tn"), or a single frame
// ("vn|tn"). The rows of a group are its frames' tokens, frame after frame, each frame rounded up to a multiple of 8
// rows; so are the rows of its keys. A tile is a number of neighbouring rows. It is copied in boxes of a fixed number
// of rows, none of which crosses from one frame into the next: the box divides the rows of a frame and the tile. Rows
// that are no tokens, at the end of a frame or beyond the last frame, lie outside the tensor's token axis, where a
// tensor map reads zeros and writes nothing.
#pragma once

#include <cstdint>

#include "fourreal/grid.hpp"

namespace fourreal {

enum class FrameAxes : int { kView = 0, kTime = 1, kViewOrTime = 2 };  // "vn", "tn", "vn|tn"

constexpr int kBoxUnit = 8;  // rows of a swizzled block of shared memory: a box starts and ends on one

FOURREAL_HOST_DEVICE constexpr int greatest_common_divisor(int a, int b) {
    while (b != 0) {
        const int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// Rows that a frame takes: its tokens, rounded up to a multiple of 8.
FOURREAL_HOST_DEVICE constexpr int frame_rows(int tokens) { return (tokens + kBoxUnit - 1) / kBoxUnit * kBoxUnit; }

// Rows of a box: the largest multiple of 8 that divides both a frame and a tile, itself a multiple of 8.
FOURREAL_HOST_DEVICE constexpr int frame_box_rows(int tokens, int tile_rows) {
    return greatest_common_divisor(frame_rows(tokens), tile_rows);
}

// Which of two tiles of keys costs less: rows in whole tiles, and what a tile costs besides, taken as that of 24 rows.
FOURREAL_HOST_DEVICE constexpr int cheaper_key_tile(int key_rows, int small, int large) {
    constexpr int kRowsOfATile = 24;
    const std::int64_t in_small = std::int64_t{(key_rows + small - 1) / small} * (small + kRowsOfATile);
    const std::int64_t in_large = std::int64_t{(key_rows + large - 1) / large} * (large + kRowsOfATile);
    return in_large < in_small ? large : small;
}

struct FrameShape {
    int batch, views, times, tokens, heads;
};

// A row of a tensor (B, V, T, N, ...); token >= N: it is no token and lies outside the tensor.
struct FrameRow {
    int view, time, token;
};

// The groups of one attention and the frames of their queries and keys.
struct FrameMap {
    FrameAxes axes;
    FrameShape shape;

    FOURREAL_HOST_DEVICE constexpr bool is_union() const { return axes == FrameAxes::kViewOrTime; }
    FOURREAL_HOST_DEVICE constexpr int groups() const {
        return is_union() ? shape.views * shape.times : axes == FrameAxes::kView ? shape.times : shape.views;
    }
    FOURREAL_HOST_DEVICE constexpr int query_frames() const {
        return is_union() ? 1 : axes == FrameAxes::kView ? shape.views : shape.times;
    }
    FOURREAL_HOST_DEVICE constexpr int key_frames() const {
        return is_union() ? shape.views + shape.times - 1 : query_frames();
    }
    FOURREAL_HOST_DEVICE constexpr int rows_of_frame() const { return frame_rows(shape.tokens); }
    FOURREAL_HOST_DEVICE constexpr int query_rows() const { return query_frames() * rows_of_frame(); }
    FOURREAL_HOST_DEVICE constexpr int key_rows() const { return key_frames() * rows_of_frame(); }

    FOURREAL_HOST_DEVICE constexpr FrameRow query_row(int group, int row) const {
        if (!is_union()) return line_row(group, row);
        const int view = group / shape.times;
        return {view, group - view * shape.times, row};
    }

    FOURREAL_HOST_DEVICE constexpr FrameRow key_row(int group, int row) const {
        return is_union() ? union_key_row(group, row) : line_row(group, row);
    }

private:
    FOURREAL_HOST_DEVICE constexpr FrameRow line_row(int line, int row) const {
        const int frame = row / rows_of_frame(), token = row - frame * rows_of_frame();
        if (frame >= query_frames()) return outside();
        return axes == FrameAxes::kView ? FrameRow{frame, line, token} : FrameRow{line, frame, token};
    }

    // The frames of the own view first, then those of the other views at the same timestep.
    FOURREAL_HOST_DEVICE constexpr FrameRow union_key_row(int group, int row) const {
        const int view = group / shape.times, time = group - view * shape.times;
        const int frame = row / rows_of_frame(), token = row - frame * rows_of_frame();
        if (frame >= key_frames()) return outside();
        if (frame < shape.times) return {view, frame, token};
        const int other = frame - shape.times;
        return {other < view ? other : other + 1, time, token};
    }

    FOURREAL_HOST_DEVICE constexpr FrameRow outside() const { return {0, 0, rows_of_frame()}; }
};

// A tile of queries of one (stream, batch entry, head, group), from row `first_row` of the group on.
struct FrameTile {
    int stream, batch, head, group, first_row;
};

// All tiles of one attention or of two of equal shape, in the order in which persistent blocks take them: block i takes
// the tiles i, i + blocks, i + 2 blocks, ... The stream with more keys comes first, so that its long tiles do not come
// last. Tiles that read the same keys are neighbours: the tiles of a group, then the groups of a head.
struct FrameTiles {
    FrameMap maps[2];
    int streams;
    int tile_rows;

    FOURREAL_HOST_DEVICE constexpr int first_stream() const {
        return streams == 2 && maps[1].key_rows() > maps[0].key_rows() ? 1 : 0;
    }
    FOURREAL_HOST_DEVICE constexpr int tiles_of_group(int stream) const {
        return (maps[stream].query_rows() + tile_rows - 1) / tile_rows;
    }
    FOURREAL_HOST_DEVICE constexpr int tiles_of_stream(int stream) const {
        const FrameShape& shape = maps[stream].shape;
        return shape.batch * shape.heads * maps[stream].groups() * tiles_of_group(stream);
    }
    FOURREAL_HOST_DEVICE constexpr int tiles() const {
        return tiles_of_stream(0) + (streams == 2 ? tiles_of_stream(1) : 0);
    }

    FOURREAL_HOST_DEVICE constexpr FrameTile tile(int index) const {
        int stream = first_stream();
        const int tiles_of_first = tiles_of_stream(stream);
        if (index >= tiles_of_first) {
            index -= tiles_of_first;
            stream = 1 - stream;
        }
        const int of_group = tiles_of_group(stream), groups = maps[stream].groups(), heads = maps[stream].shape.heads;
        int rest = index / of_group;
        const int tile_of_group = index - rest * of_group;
        const int of_groups = rest / groups;
        const int group = rest - of_groups * groups;
        rest = of_groups / heads;
        return {stream, rest, of_groups - rest * heads, group, tile_of_group * tile_rows};
    }
};

// Whether every number above fits in 31 bits, for tiles of up to `tile_rows` rows; computed in 64.
inline bool frame_tiles_fit(const std::int64_t (&sizes)[5], int tile_rows) {
    constexpr std::int64_t kLargest = (std::int64_t{1} << 31) - 1;
    // Products grow step by step, so that none of them leaves 64 bits.
    std::int64_t rows = 1;
    for (std::int64_t size : sizes) {
        if (size < 1 || size > kLargest || rows > kLargest / size) return false;
        rows *= size;
    }
    // B, V, T, N, H: the rows of both streams in tiles, the rows of a union's keys and its last tile.
    const std::int64_t frame = (sizes[3] + kBoxUnit - 1) / kBoxUnit * kBoxUnit;
    const std::int64_t keys = (sizes[1] + sizes[2]) * frame;
    return 2 * rows / sizes[3] * frame <= kLargest && keys + 2 * tile_rows <= kLargest;
}

}  // namespace fourreal
