// Walks every tile of many shapes with the maps of frame_tiles.hpp, and counts against the definition of the axes.
// Prints the number of combinations, or the first that is wrong.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "fourreal/frame_tiles.hpp"

using namespace fourreal;

namespace {

struct Case {
    FrameTiles tiles;
    int key_tile;
};

void fail(const char* what, const Case& c) {
    const FrameShape& shape = c.tiles.maps[0].shape;
    std::printf("%s: B %d V %d T %d N %d H %d, axes %d, streams %d, query tile %d, key tile %d\n", what, shape.batch,
                shape.views, shape.times, shape.tokens, shape.heads, static_cast<int>(c.tiles.maps[0].axes),
                c.tiles.streams, c.tiles.tile_rows, c.key_tile);
    std::exit(1);
}

void require(bool condition, const char* what, const Case& c) {
    if (!condition) fail(what, c);
}

bool sees(FrameAxes axes, int query_view, int query_time, int view, int time) {
    const bool same_time = query_time == time, same_view = query_view == view;
    if (axes == FrameAxes::kView) return same_time;
    if (axes == FrameAxes::kTime) return same_view;
    return same_time || same_view;
}

// Copies of `rows` rows from `first` on, in boxes: consecutive tokens of one frame, or wholly outside.
template <typename Row>
void walk_boxes(const Case& c, int first, int rows, int box, const Row& row_at, std::vector<int>* counts) {
    const FrameShape& shape = c.tiles.maps[0].shape;
    require(rows % box == 0 && box % kBoxUnit == 0 && box <= 256, "box size", c);
    for (int start = first; start < first + rows; start += box) {
        const FrameRow corner = row_at(start);
        const bool outside = corner.token >= shape.tokens;
        require(outside || corner.token + box <= frame_rows(shape.tokens), "a box crosses a frame", c);
        require(corner.view >= 0 && corner.view < shape.views && corner.time >= 0 && corner.time < shape.times,
                "a frame outside the grid", c);
        for (int i = 0; i < box; ++i) {
            const FrameRow row = row_at(start + i);
            require(!outside || row.token >= shape.tokens, "a token in a box that is outside", c);
            if (outside) continue;
            require(row.view == corner.view && row.time == corner.time && row.token == corner.token + i,
                    "the rows of a box", c);
            if (row.token < shape.tokens) ++(*counts)[(row.view * shape.times + row.time) * shape.tokens + row.token];
        }
    }
}

void check_keys(const Case& c, const FrameMap& map, int group) {
    const FrameShape& shape = map.shape;
    std::vector<int> counts(static_cast<std::size_t>(shape.views) * shape.times * shape.tokens);
    const int box = frame_box_rows(shape.tokens, c.key_tile);
    const int tiles = (map.key_rows() + c.key_tile - 1) / c.key_tile;
    for (int tile = 0; tile < tiles; ++tile)
        walk_boxes(c, tile * c.key_tile, c.key_tile, box, [&](int row) { return map.key_row(group, row); }, &counts);
    const FrameRow query = map.query_row(group, 0);
    for (int view = 0; view < shape.views; ++view)
        for (int time = 0; time < shape.times; ++time)
            for (int token = 0; token < shape.tokens; ++token) {
                const int expected = sees(map.axes, query.view, query.time, view, time);
                require(counts[(view * shape.times + time) * shape.tokens + token] == expected, "keys of a group", c);
            }
}

void check(const Case& c) {
    std::vector<std::vector<int>> written(2);
    const FrameShape& shape = c.tiles.maps[0].shape;
    const int grid_rows = shape.views * shape.times * shape.tokens;
    for (auto& rows : written) rows.assign(static_cast<std::size_t>(shape.batch) * shape.heads * grid_rows, 0);
    const int box = frame_box_rows(shape.tokens, 64);
    int last_keys = 1 << 30;
    for (int index = 0; index < c.tiles.tiles(); ++index) {
        const FrameTile tile = c.tiles.tile(index);
        require(tile.stream >= 0 && tile.stream < c.tiles.streams && tile.batch >= 0 && tile.batch < shape.batch &&
                    tile.head >= 0 && tile.head < shape.heads,
                "a tile outside", c);
        const FrameMap& map = c.tiles.maps[tile.stream];
        require(tile.group >= 0 && tile.group < map.groups(), "a group outside", c);
        require(tile.first_row >= 0 && tile.first_row < map.query_rows(), "a tile without rows", c);
        require(map.key_rows() <= last_keys, "long tiles first", c);
        last_keys = map.key_rows();
        std::vector<int> counts(grid_rows);
        walk_boxes(c, tile.first_row, c.tiles.tile_rows, box,
                   [&](int row) { return map.query_row(tile.group, row); }, &counts);
        const FrameRow lead = map.query_row(tile.group, 0);
        for (int row = 0; row < grid_rows; ++row) {
            if (counts[row] == 0) continue;
            const int view = row / shape.tokens / shape.times, time = row / shape.tokens % shape.times;
            const bool member = map.axes == FrameAxes::kView   ? time == lead.time
                                : map.axes == FrameAxes::kTime ? view == lead.view
                                                               : view == lead.view && time == lead.time;
            require(member, "a row of another group", c);
            written[tile.stream][(tile.batch * shape.heads + tile.head) * grid_rows + row] += counts[row];
        }
    }
    for (int stream = 0; stream < c.tiles.streams; ++stream) {
        for (int count : written[stream]) require(count == 1, "an output row is not written exactly once", c);
        for (int group = 0; group < c.tiles.maps[stream].groups(); ++group) check_keys(c, c.tiles.maps[stream], group);
    }
}

void check_fit() {
    const std::int64_t fits[5] = {4, 8, 16, 1560, 24}, large[5] = {1024, 64, 64, 4096, 64}, empty[5] = {1, 0, 1, 8, 1};
    if (!frame_tiles_fit(fits, 192) || frame_tiles_fit(large, 192) || frame_tiles_fit(empty, 192)) {
        std::printf("frame_tiles_fit\n");
        std::exit(1);
    }
}

void check_key_tile() {
    const int expected[][2] = {{8, 128}, {512, 128}, {576, 192}, {4608, 192}, {8640, 192}, {1024, 128}};
    for (const auto& pair : expected)
        if (cheaper_key_tile(pair[0], 128, 192) != pair[1]) {
            std::printf("cheaper_key_tile of %d rows\n", pair[0]);
            std::exit(1);
        }
}

}  // namespace

int main() {
    int combinations = 0;
    const int grids[][2] = {{1, 1}, {1, 5}, {4, 1}, {2, 3}, {3, 2}, {5, 4}, {8, 8}};
    check_fit();
    check_key_tile();
    for (const auto& grid : grids)
        for (int tokens : {1, 7, 8, 40, 63, 64, 65, 100, 240, 390, 576, 1560})
            for (int query_tile : {128, 192})
                for (int key_tile : {64, 96, 128, 192}) {
                    if (tokens > 200 && grid[0] * grid[1] > 12) continue;  // it would take seconds
                    const bool small = tokens <= 64;
                    const FrameShape shape{small ? 2 : 1, grid[0], grid[1], tokens, small ? 3 : 1};
                    const FrameMap view{FrameAxes::kView, shape}, time{FrameAxes::kTime, shape};
                    const FrameMap either{FrameAxes::kViewOrTime, shape};
                    for (const FrameTiles& tiles : {FrameTiles{{view, view}, 1, query_tile},
                                                    FrameTiles{{time, time}, 1, query_tile},
                                                    FrameTiles{{either, either}, 1, query_tile},
                                                    FrameTiles{{view, time}, 2, query_tile}}) {
                        check({tiles, key_tile});
                        ++combinations;
                    }
                }
    std::printf("%d\n", combinations);
    return 0;
}
