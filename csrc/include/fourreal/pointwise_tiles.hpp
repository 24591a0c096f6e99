// How the CUDA kernels of pointwise attention divide their work: index maps, the same on the device and on the host.
//
// A position is one value of the axes that are not attended over: it has `entries` rows of q, k and v. A tile is what a
// block works on: some neighbouring positions, all their rows in shared memory. Rows are taken as `outer` lines of
// `inner` entries: a single axis, and all frames ("vt"), are one line; of the union "v|t" the lines lie along one axis
// and the cross lines along the other, and a row sees its line and its cross line, itself once.
//
// Scores are a matrix of slots (what a query sees) and columns (queries, each line padded to whole tiles of queries):
// slot k of a column is entry k of the query's line, slot padded() + k entry k of its cross line.
#pragma once

#include <cstdint>

#include "fourreal/grid.hpp"

namespace fourreal {

constexpr int kQueryTile = 8;

// Of numbers that are not negative. A division takes twenty instructions, and hardly any is needed.
FOURREAL_HOST_DEVICE constexpr int quotient(int value, int divisor) {
    if (value < divisor) return 0;
    return divisor == 1 ? value : static_cast<int>(static_cast<unsigned>(value) / static_cast<unsigned>(divisor));
}

FOURREAL_HOST_DEVICE constexpr int query_tiles(int entries) { return (entries + kQueryTile - 1) / kQueryTile; }

// Up to kQueryTile neighbouring queries of a line, and that line.
struct LineTile {
    int position;      // within the block's tile
    int line;          // of the position: the index along the other axis
    int length;        // entries of the line
    int first_row;     // entry k of the line is row first_row + k * row_step of the tile
    int row_step;
    int first_query;   // an entry of the line
    int queries;
    int first_slot;    // entry k of the line is slot first_slot + k of its queries
    int first_column;  // query first_query + i has column first_column + i * column_step
    int column_step;

    FOURREAL_HOST_DEVICE int row(int entry) const { return first_row + entry * row_step; }
};

struct ColumnOwner {
    int position;
    int line;
    int entry;
    bool is_query;  // false: the column pads a line
};

struct PointwiseTiles {
    int outer;
    int inner;
    int entry_columns;  // row r of a position is entry (r / entry_columns, r % entry_columns) of the attended axes
    int position_bits;  // a tile has 1 << position_bits positions

    FOURREAL_HOST_DEVICE bool is_union() const { return outer > 1; }
    FOURREAL_HOST_DEVICE int positions() const { return 1 << position_bits; }
    FOURREAL_HOST_DEVICE int entries() const { return outer * inner; }
    FOURREAL_HOST_DEVICE int rows() const { return entries() << position_bits; }
    FOURREAL_HOST_DEVICE int padded() const { return query_tiles(inner) * kQueryTile; }
    FOURREAL_HOST_DEVICE int columns() const { return (outer * padded()) << position_bits; }
    FOURREAL_HOST_DEVICE int slots() const { return padded() + (is_union() ? outer : 0); }
    FOURREAL_HOST_DEVICE int row(int position, int line, int entry) const {
        return (position * outer + line) * inner + entry;
    }
    FOURREAL_HOST_DEVICE int column(int position, int line, int entry) const {
        return (position * outer + line) * padded() + entry;
    }

    // Group g of G, a multiple of positions(), copies entries copied_entry(g), copied_entry(g) + copied_entry(G), ...
    // of position copied_position(g): neighbouring positions are neighbours in memory.
    FOURREAL_HOST_DEVICE int copied_position(int group) const { return group & (positions() - 1); }
    FOURREAL_HOST_DEVICE int copied_entry(int group) const { return group >> position_bits; }

    FOURREAL_HOST_DEVICE ColumnOwner owner(int column) const {
        const int line = quotient(column, padded());
        const int entry = column - line * padded();
        const int position = quotient(line, outer);
        return {position, line - position * outer, entry, entry < inner};
    }

    FOURREAL_HOST_DEVICE int line_tiles() const { return columns() / kQueryTile; }
    FOURREAL_HOST_DEVICE LineTile line_tile(int index) const {
        const int tiles = query_tiles(inner);
        const int line = quotient(index, tiles);
        const int first = (index - line * tiles) * kQueryTile;
        const int position = quotient(line, outer);
        return {position, line - position * outer, inner, line * inner, 1, first, smaller(kQueryTile, inner - first),
                0, index * kQueryTile, 1};
    }

    FOURREAL_HOST_DEVICE int cross_tiles() const {
        return is_union() ? (inner * query_tiles(outer)) << position_bits : 0;
    }
    FOURREAL_HOST_DEVICE LineTile cross_tile(int index) const {
        const int tiles = query_tiles(outer);
        const int line = quotient(index, tiles);
        const int first = (index - line * tiles) * kQueryTile;
        const int position = quotient(line, inner);
        const int entry = line - position * inner;
        return {position, entry, outer, row(position, 0, entry), inner, first, smaller(kQueryTile, outer - first),
                padded(), column(position, first, entry), padded()};
    }

private:
    FOURREAL_HOST_DEVICE static int smaller(int a, int b) { return a < b ? a : b; }
};

// Which axis of the union is the inner one: the one that leaves fewer columns empty, the second if neither does.
constexpr bool first_axis_is_inner(int first, int second) {
    return second * query_tiles(first) < first * query_tiles(second);
}

// The least number of positions, as a power of two, whose tiles of queries fill `groups` groups of lanes without rest.
constexpr int filling_position_bits(int tiles_of_a_position, int groups) {
    int bits = 0;
    while ((tiles_of_a_position << bits) % groups != 0) ++bits;
    return bits;
}

}  // namespace fourreal
