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
        const S* scale = entry_of(parameters_.input_scale, b, kStreams);
        const S* weight = inputs_ > 1 ? static_cast<const S*>(parameters_.weight) : nullptr;
        const S* gates = entry_of(parameters_.gate, b, outputs_);
        for (int o = 0; o < outputs_; ++o)
            for (int s = 0; s < inputs_; ++s, list += length_)
                fill_product(list, S(1), part(weight, o * kStreams + s), part(weight ? scale : nullptr, s), part(gates, o));
        const S* bias = static_cast<const S*>(parameters_.bias);
        for (int o = 0; o < outputs_; ++o, list += length_)
            fill_product(list, bias ? S(1) : S(0), part(bias ? gates : nullptr, o), part(bias, o), nullptr);
        if (!norm_) return;
        for (int s = 0; s < kStreams; ++s, list += length_)
            fill_product(list, S(1), part(entry_of(norm_->branch_gate, b, kStreams), s), nullptr, nullptr);
        for (int s = 0; s < kStreams; ++s, list += length_) {
            const S* norm_scale = part(entry_of(norm_->norm_scale, b, kStreams), s);
            for (std::int64_t c = 0; c < shape_.channels; ++c) list[c] = S(1) + norm_scale[c];
        }
        for (int s = 0; s < kStreams; ++s, list += length_)
            fill_product(list, S(1), part(entry_of(norm_->norm_shift, b, kStreams), s), nullptr, nullptr);
    }

    // value * a * b * c, those that are there; one loop per factor, which vectorises.
    void fill_product(S* list, S value, const S* first, const S* second, const S* third) {
        std::fill(list, list + shape_.channels, value);
        for (const S* factor : {first, second, third})
            for (std::int64_t c = 0; factor && c < shape_.channels; ++c) list[c] *= factor[c];
        for (std::int64_t copy = 1; copy < shape_.repeats; ++copy)
            std::copy(list, list + shape_.channels, list + copy * shape_.channels);
    }

    // The entry of one batch in (B, parts * C), and one of its parts; null where there is none.
    const S* entry_of(const void* values, std::int64_t b, int parts) const {
        return values ? static_cast<const S*>(values) + b * parts * shape_.channels : nullptr;
    }
    const S* part(const S* values, int index) const { return values ? values + index * shape_.channels : nullptr; }

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
