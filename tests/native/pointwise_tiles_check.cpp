// Goes through the index maps of the CUDA kernels of pointwise attention for hundreds of calls: every row is copied
// once, every query sees every key that it should exactly once, every output is written once. Prints what is wrong.
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "pointwise_launch.hpp"

using namespace fourreal;
using namespace fourreal::cuda;

namespace {

int failures = 0;

void check(bool condition, const char* what) {
    if (!condition && ++failures < 5) std::printf("%s\n", what);
}

struct Call {
    AttentionShape shape;
    std::int64_t strides[kAttentionAxes - 1];
};

Call make_call(const char* axes, int views, int times, int tokens, int channels, int bytes) {
    Call call{};
    const int sizes[] = {2, views, times, tokens, 3, channels};
    std::copy_n(sizes, kAttentionAxes, call.shape.sizes);
    std::int64_t stride = channels;
    for (int axis = kAttHead; axis >= kAttBatch; --axis) {
        call.strides[axis] = stride;
        stride *= sizes[axis];
    }
    call.shape.dtype = bytes == 2 ? DType::kBFloat16 : DType::kFloat32;
    const bool is_union = std::strchr(axes, '|') != nullptr;
    const AxisGroup view{true, false, false}, time{false, true, false};
    if (is_union) call.shape.axes = {{view, time}, 2};
    else call.shape.axes = {{{std::strchr(axes, 'v') != nullptr, std::strchr(axes, 't') != nullptr, false}, {}}, 1};
    return call;
}

// Row r of a position as (view, time), the attended ones.
std::pair<int, int> entry_of(const PointwisePlan& plan, const PointwiseAxes& axes, int row) {
    const int first = row / plan.tiles.entry_columns, second = row % plan.tiles.entry_columns;
    int result[2] = {0, 0};
    if (axes.entry[0] >= 0) result[axes.entry[0] - kAttView] = first;
    else check(first == 0, "a row beyond the only axis");
    result[axes.entry[1] - kAttView] = second;
    return {result[0], result[1]};
}

bool sees(bool is_union, std::pair<int, int> query, std::pair<int, int> key) {
    return !is_union || query.first == key.first || query.second == key.second;
}

// Every row of every tensor is copied once.
void check_copies(const PointwisePlan& plan, int groups) {
    const PointwiseTiles& tiles = plan.tiles;
    std::vector<int> copies(tiles.rows());
    check(groups % tiles.positions() == 0, "groups of lanes do not divide into positions");
    for (int group = 0; group < groups; ++group)
        for (int entry = tiles.copied_entry(group); entry < tiles.entries(); entry += tiles.copied_entry(groups))
            ++copies.at(tiles.row(tiles.copied_position(group), 0, entry));
    for (int count : copies) check(count == 1, "a row is not copied once");
}

using Cell = std::pair<int, int>;  // slot, column
using Pair = std::pair<int, int>;  // row of the query, row of the key

// Which pair of rows the score in each cell belongs to.
std::map<Cell, Pair> scores(const PointwisePlan& plan) {
    const PointwiseTiles& tiles = plan.tiles;
    std::map<Cell, Pair> written;
    const auto write = [&](const LineTile& tile) {
        for (int i = 0; i < tile.queries; ++i)
            for (int entry = 0; entry < tile.length; ++entry) {
                const Cell cell{tile.first_slot + entry, tile.first_column + i * tile.column_step};
                check(cell.first < tiles.slots() && cell.second < tiles.columns(), "a score outside of the matrix");
                check(written.emplace(cell, Pair{tile.row(tile.first_query + i), tile.row(entry)}).second,
                      "a score is written twice");
            }
    };
    for (int index = 0; index < tiles.line_tiles(); ++index) write(tiles.line_tile(index));
    for (int index = 0; index < tiles.cross_tiles(); ++index) write(tiles.cross_tile(index));
    return written;
}

// The slots that the softmax of a column takes.
std::vector<int> slots(const PointwiseTiles& tiles, int line) {
    std::vector<int> result;
    for (int slot = 0; slot < tiles.inner; ++slot) result.push_back(slot);
    for (int other = 0; tiles.is_union() && other < tiles.outer; ++other)
        if (other != line) result.push_back(tiles.padded() + other);
    return result;
}

// Every query sees every key that it should once.
void check_softmax(const PointwisePlan& plan, const PointwiseAxes& axes, const std::map<Cell, Pair>& written) {
    const PointwiseTiles& tiles = plan.tiles;
    std::set<int> queries;
    for (int column = 0; column < tiles.columns(); ++column) {
        const ColumnOwner owner = tiles.owner(column);
        if (!owner.is_query) continue;
        const int query = tiles.row(owner.position, owner.line, owner.entry);
        check(tiles.column(owner.position, owner.line, owner.entry) == column, "a column with another owner");
        check(queries.insert(query).second, "two columns of a query");
        std::set<int> keys;
        for (int slot : slots(tiles, owner.line)) {
            const auto at = written.find({slot, column});
            if (at == written.end()) {
                check(false, "a slot without a score");
                continue;
            }
            check(at->second.first == query, "a score of another query");
            check(keys.insert(at->second.second).second, "a key is seen twice");
        }
        const int first_row = owner.position * tiles.entries();
        for (int key = 0; key < tiles.rows(); ++key) {
            const bool same_position = key / tiles.entries() == owner.position;
            const bool seen = same_position && sees(axes.is_union, entry_of(plan, axes, query - first_row),
                                                    entry_of(plan, axes, key - first_row));
            check((keys.count(key) == 1) == seen, "a query sees what it should not, or not what it should");
        }
    }
    check(static_cast<int>(queries.size()) == tiles.rows(), "a query without a column");
}

// Sums over keys (of_keys false in the kernels) and over queries: each output once, each weight where its score was.
void check_sums(const PointwisePlan& plan, const std::map<Cell, Pair>& written, bool of_keys) {
    const PointwiseTiles& tiles = plan.tiles;
    std::set<int> outputs;
    for (int index = 0; index < tiles.line_tiles(); ++index) {
        const LineTile tile = tiles.line_tile(index);
        for (int i = 0; i < tile.queries; ++i) {
            const int own = tile.row(tile.first_query + i);
            check(own == tiles.row(tile.position, tile.line, tile.first_query + i), "a tile of another line");
            check(outputs.insert(own).second, "an output is written twice");
            const auto check_weight = [&](int slot, int column, int other) {
                const auto at = written.find({slot, column});
                check(at != written.end() && at->second == (of_keys ? Pair{other, own} : Pair{own, other}),
                      "a weight of another pair");
            };
            for (int entry = 0; entry < tile.length; ++entry)
                if (of_keys)
                    check_weight(tile.first_query + i, tile.first_column - tile.first_query + entry, tile.row(entry));
                else check_weight(entry, tile.first_column + i, tile.row(entry));
            for (int other = 0; tiles.is_union() && other < tiles.outer; ++other) {
                if (other == tile.line) continue;
                const int entry = tile.first_query + i;
                check_weight(tiles.padded() + (of_keys ? tile.line : other),
                             tiles.column(tile.position, of_keys ? other : tile.line, entry),
                             tiles.row(tile.position, other, entry));
            }
        }
    }
    check(static_cast<int>(outputs.size()) == tiles.rows(), "an output is not written");
}

// False: the rows do not fit the shared memory, and another kernel takes the call.
bool check_call(const char* axes_name, int views, int times, int tokens, int channels, int bytes, int limit,
                bool backward) {
    const Call call = make_call(axes_name, views, times, tokens, channels, bytes);
    const PointwiseAxes axes = pointwise_axes(call.shape, call.strides);
    const PointwisePlan plan = backward ? pointwise_plan(call.shape, axes, 4, 2, 8, limit)
                                        : pointwise_plan(call.shape, axes, 3, 1, 5, limit);
    if (!plan.fits) return false;
    check(plan.shared_bytes <= limit && plan.warps >= 1 && plan.warps <= kMaxWarps, "a block that is too large");
    const std::int64_t rows = std::int64_t{2} * views * times * tokens * 3;
    check(plan.positions * plan.tiles.entries() == rows, "positions are missing");
    check_copies(plan, plan.warps * kWarpLanes >> row_lane_bits(channels));
    const std::map<Cell, Pair> written = scores(plan);
    check_softmax(plan, axes, written);
    check_sums(plan, written, false);
    check_sums(plan, written, true);
    return true;
}

}  // namespace

int main() {
    constexpr int kLengths[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 21};
    constexpr int kOneAxis[] = {32, 33, 64, 100, 128, 200};
    constexpr int kChannels[] = {16, 40, 64, 128, 256};
    constexpr int kLimits[] = {232448, 101376, 49152};
    int called = 0, fitting = 0;
    const auto call = [&](const char* axes, int views, int times) {
        const int channels = kChannels[called % 5], limit = kLimits[called % 3], before = failures;
        const bool backward = called / 2 % 2;
        fitting += check_call(axes, views, times, 1 + called % 4, channels, called % 7 == 0 ? 4 : 2, limit, backward);
        if (failures != before)
            std::printf("  for %s, V %d, T %d, D %d, %d bytes\n", axes, views, times, channels, limit);
        ++called;
    };
    for (const char* axes : {"v", "t", "vt", "v|t"})
        for (int views : kLengths)
            for (int times : kLengths)
                for (int variant = 0; views * times <= 170 && variant < 3; ++variant) call(axes, views, times);
    for (int length : kOneAxis) {
        call("v", length, 3);
        call("t", 2, length);
        call("v|t", length, 1);
        call("v|t", 2, length);
        call("v|t", length, 3);
    }
    std::printf("%s: %d calls, %d that fit\n", failures ? "failed" : "passed", called, fitting);
    return failures != 0;
}
