// Divisor against the division of the processor; MergedAxes against four nested loops, for every position.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "fourreal/merged_axes.hpp"

namespace {

constexpr int kAxes = 4;
constexpr int kOperands = 3;

bool divides(std::int64_t divisor) {
    const fourreal::Divisor fast(divisor);
    const std::int64_t most = (std::int64_t{1} << 31) - 1;
    std::vector<std::int64_t> values{0, 1, most, most - 1, most / 2};
    for (std::int64_t k : {std::int64_t{1}, std::int64_t{2}, std::int64_t{7}, most / divisor})
        for (std::int64_t shift = -1; shift <= 1; ++shift) values.push_back(k * divisor + shift);
    for (std::int64_t value : values) {
        if (value < 0 || value > most) continue;
        if (fast.divide(static_cast<std::uint32_t>(value)) != static_cast<std::uint32_t>(value / divisor)) {
            std::printf("%lld / %lld\n", static_cast<long long>(value), static_cast<long long>(divisor));
            return false;
        }
    }
    return true;
}

// Strides of a tensor stored in `order` (outermost first), with `gap` unused entries at the end of every axis.
std::vector<std::int64_t> stored(const std::int64_t* sizes, const int* order, std::int64_t gap) {
    std::vector<std::int64_t> strides(kAxes);
    std::int64_t step = 8;
    for (int i = kAxes - 1; i >= 0; --i) {
        strides[order[i]] = step;
        step *= sizes[order[i]] + gap;
    }
    return strides;
}

bool locates(const std::int64_t (&sizes)[kAxes], const std::vector<std::int64_t> (&strides)[kOperands]) {
    const std::int64_t* const pointers[kOperands] = {strides[0].data(), strides[1].data(), strides[2].data()};
    const auto merged = fourreal::merge_axes<kAxes, kOperands>(sizes, pointers);
    std::uint32_t position = 0;
    for (std::int64_t a = 0; a < sizes[0]; ++a)
        for (std::int64_t b = 0; b < sizes[1]; ++b)
            for (std::int64_t c = 0; c < sizes[2]; ++c)
                for (std::int64_t d = 0; d < sizes[3]; ++d, ++position) {
                    std::int64_t offsets[kOperands];
                    merged.locate(position, offsets);
                    for (int k = 0; k < kOperands; ++k)
                        if (offsets[k] != a * pointers[k][0] + b * pointers[k][1] + c * pointers[k][2] + d * pointers[k][3])
                            return false;
                }
    return true;
}

}  // namespace

int main() {
    for (std::int64_t divisor = 1; divisor <= 5000; ++divisor)
        if (!divides(divisor)) return 1;
    for (int bit = 12; bit <= 31; ++bit)
        for (std::int64_t shift = -1; shift <= (bit < 31 ? 1 : 0); ++shift)
            if (!divides((std::int64_t{1} << bit) + shift)) return 1;

    const std::int64_t choices[] = {1, 2, 3, 5};
    std::int64_t combinations = 0;
    for (int code = 0; code < 256; ++code) {
        const std::int64_t sizes[kAxes] = {choices[code & 3], choices[code >> 2 & 3], choices[code >> 4 & 3],
                                           choices[code >> 6]};
        int order[kAxes] = {0, 1, 2, 3};
        do {
            for (int broadcast = 0; broadcast < 16; ++broadcast) {
                const int natural[kAxes] = {0, 1, 2, 3};
                std::vector<std::int64_t> strides[kOperands] = {stored(sizes, natural, 0), stored(sizes, order, 0),
                                                                stored(sizes, natural, broadcast & 1)};
                for (int axis = 0; axis < kAxes; ++axis)
                    if (broadcast >> axis & 1) strides[2][axis] = 0;
                if (!locates(sizes, strides)) {
                    std::printf("sizes %d, broadcast %d\n", code, broadcast);
                    return 1;
                }
                ++combinations;
            }
        } while (std::next_permutation(order, order + kAxes));
    }
    std::printf("%lld combinations\n", static_cast<long long>(combinations));
    return 0;
}
