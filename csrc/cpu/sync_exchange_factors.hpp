// Per-channel factors of the exchange: gate, weight, scale and bias multiplied out once per batch entry.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fourreal/sync_exchange.hpp"
#include "kernels/sync_exchange.hpp"

namespace fourreal::cpu {

struct FactorShape {
    Mix mix;
    std::int64_t batch;
    std::int64_t channels;
    std::int64_t repeats;  // how often each list is repeated, for rows that are processed together
};

// S: float or double. Lists of one batch entry lie side by side: mix, offset, and with a norm branch gate, scale, shift.
template <typename S>
class FactorTable {
public:
    FactorTable(const FactorShape& shape, const ExchangeParameters& parameters, const ExchangeNorm* norm)
        : shape_(shape),
          parameters_(parameters),
          norm_(norm),
          outputs_(shape.mix == Mix::kChannelHard || shape.mix == Mix::kDenseHard ? 1 : 2),
          inputs_(shape.mix == Mix::kChannelHard || shape.mix == Mix::kChannelSoft ? 2 : 1),
          length_(shape.channels * shape.repeats),
          lists_(outputs_ * inputs_ + outputs_ + (norm ? kNormLists : 0)),
          entries_(norm || parameters.gate || parameters.input_scale ? shape.batch : 1),
          values_(static_cast<std::size_t>(entries_ * lists_ * length_)) {
        for (std::int64_t b = 0; b < entries_; ++b) fill(b);
    }

    RowFactors of_batch(std::int64_t b) const {
        const S* entry = values_.data() + (entries_ > 1 ? b : 0) * lists_ * length_;
        RowFactors factors{};
        for (int o = 0; o < outputs_; ++o) {
            for (int s = 0; s < inputs_; ++s) factors.mix[o][s] = entry + (o * inputs_ + s) * length_;
            factors.offset[o] = entry + (outputs_ * inputs_ + o) * length_;
        }
        const S* of_norm = entry + (outputs_ * inputs_ + outputs_) * length_;
        for (int s = 0; norm_ && s < kStreams; ++s) {
            factors.branch_gate[s] = of_norm + s * length_;
            factors.norm_scale[s] = of_norm + (kStreams + s) * length_;
            factors.norm_shift[s] = of_norm + (2 * kStreams + s) * length_;
        }
        return factors;
    }

private:
    static constexpr int kNormLists = 3 * kStreams;

    void fill(std::int64_t b) {
        S* list = values_.data() + b * lists_ * length_;
        for (int o = 0; o < outputs_; ++o)
            for (int s = 0; s < inputs_; ++s, list += length_)
                fill_list(list, [&](std::int64_t c) { return gate(b, o, c) * weight(b, o, s, c); });
        for (int o = 0; o < outputs_; ++o, list += length_)
            fill_list(list, [&](std::int64_t c) {
                return parameters_.bias ? gate(b, o, c) * value(parameters_.bias, o * shape_.channels + c) : S(0);
            });
        if (!norm_) return;
        for (int s = 0; s < kStreams; ++s, list += length_)
            fill_list(list, [&](std::int64_t c) { return norm_->branch_gate ? of_both(norm_->branch_gate, b, s, c) : S(1); });
        for (int s = 0; s < kStreams; ++s, list += length_)
            fill_list(list, [&](std::int64_t c) { return S(1) + of_both(norm_->norm_scale, b, s, c); });
        for (int s = 0; s < kStreams; ++s, list += length_)
            fill_list(list, [&](std::int64_t c) { return of_both(norm_->norm_shift, b, s, c); });
    }

    template <typename Value>
    void fill_list(S* list, const Value& value_of) {
        for (std::int64_t c = 0; c < shape_.channels; ++c) list[c] = value_of(c);
        for (std::int64_t copy = 1; copy < shape_.repeats; ++copy)
            std::copy(list, list + shape_.channels, list + copy * shape_.channels);
    }

    static S value(const void* values, std::int64_t index) { return static_cast<const S*>(values)[index]; }
    // Element of a (B, 2C) array.
    S of_both(const void* values, std::int64_t b, int s, std::int64_t c) const {
        return value(values, (b * kStreams + s) * shape_.channels + c);
    }
    S gate(std::int64_t b, int o, std::int64_t c) const {
        return parameters_.gate ? value(parameters_.gate, (b * outputs_ + o) * shape_.channels + c) : S(1);
    }
    S weight(std::int64_t b, int o, int s, std::int64_t c) const {
        if (inputs_ == 1) return S(1);
        const S scale = parameters_.input_scale ? of_both(parameters_.input_scale, b, s, c) : S(1);
        return value(parameters_.weight, (o * kStreams + s) * shape_.channels + c) * scale;
    }

    const FactorShape shape_;
    const ExchangeParameters parameters_;
    const ExchangeNorm* norm_;
    const int outputs_;
    const int inputs_;
    const std::int64_t length_;
    const std::int64_t lists_;
    const std::int64_t entries_;
    std::vector<S> values_;
};

}  // namespace fourreal::cpu
