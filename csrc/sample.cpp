// Drawing tokens: what top-k, top-p and min-p leave of a row, and the inverse of its running sum. engine/sampling says the same by
// sorting whole rows. Here a histogram finds the least logit that is kept: masses are integers, so their sums have no order.
#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "kernels.h"

namespace brigade {
namespace {
constexpr int RUN = 512;        // tokens weighed at a time; a search passes over them by their total
constexpr int BINS = 1024;      // by how far a logit is below the greatest; the last bin takes the rest
constexpr float FINENESS = 32;  // bins to a unit of temperature: what is 30.5 below has no mass, so the rest has none
constexpr float NEAR = 4;       // units of temperature in which the kept tokens are looked for at first
constexpr float NONE = -std::numeric_limits<float>::infinity();

struct Bin { int64_t mass, count; };

// One row at a time; its memory serves the next one.
class Row {
public:
    int64_t draw(const float* logits, int width, float greatest, const BrDraw& wish) {
        logits_ = logits, width_ = width, greatest_ = greatest, wish_ = wish;
        by_count_ = wish.top_k > 0 && wish.top_k < width, by_mass_ = wish.top_p < 1.0;
        weigh();
        if (by_count_ || by_mass_) {
            take_near();
            return pick_of_taken(least_kept());
        }
        if (wish.min_p <= 0) return pick_of_all();
        take(weights_.data(), wish.min_p);
        return pick_of_taken(NONE);
    }

private:
    void weigh() {
        weights_.resize((size_t)width_), taken_.resize((size_t)round_up(width_, 16) + 16);
        runs_.clear(), total_ = 0;
        for (int i = 0; i < width_; i += RUN) {
            runs_.push_back(path().weigh(logits_ + i, std::min(RUN, width_ - i), greatest_, wish_.temperature, weights_.data() + i));
            total_ += runs_.back();
        }
    }

    void take(const float* values, float least) { count_ = path().find(values, width_, least, taken_.data()); }

    // Takes tokens enough for top-k and top-p: those at most so far below the greatest, or twice, or four times, or all.
    void take_near() {
        for (float near = NEAR;; near *= 2) {
            const bool all = near * FINENESS >= BINS;
            take(logits_, all ? NONE : greatest_ - near * wish_.temperature);
            if (all) return;
            if (by_count_ ? count_ < wish_.top_k : mass_taken() < wish_.top_p * (double)total_) continue;
            return;
        }
    }

    double mass_taken() const {
        int64_t mass = 0;
        for (int i = 0; i < count_; i++) mass += mass_of(weights_[taken_[i]]);
        return (double)mass;
    }

    // The least logit that top-k and top-p keep.
    float least_kept() {
        fill_bins();
        int last = BINS - 1;  // the bin where top-k ends
        float least = NONE;
        int64_t total = total_;
        if (by_count_) {
            int64_t left = wish_.top_k;
            for (last = 0, total = 0; bins_[last].count < left; last++) left -= bins_[last].count, total += bins_[last].mass;
            sort_bin(last, NONE);
            least = members_[(size_t)left - 1].first;
            for (const auto& m : members_)
                if (m.first >= least) total += m.second;
        }
        if (!by_mass_) return least;
        const double wanted = wish_.top_p * (double)total;
        int64_t sum = 0;
        int b = 0;
        for (; b < last && (double)(sum + bins_[b].mass) < wanted; b++) sum += bins_[b].mass;
        sort_bin(b, least);
        for (const auto& m : members_)
            if ((double)(sum += m.second) >= wanted) return m.first;
        return least;  // never: the last of them reaches the total
    }

    void fill_bins() {
        bins_.assign(BINS, {0, 0});
        bin_of_.resize((size_t)count_);
        const float scale = FINENESS / wish_.temperature;
        for (int i = 0; i < count_; i++) {
            const int token = taken_[i], bin = (int)std::min((greatest_ - logits_[token]) * scale, BINS - 1.0f);
            bin_of_[i] = bin;
            bins_[bin].mass += mass_of(weights_[token]);
            bins_[bin].count++;
        }
    }

    // A bin's logits from `least` on, the greatest first, with their masses.
    void sort_bin(int bin, float least) {
        members_.clear();
        for (int i = 0; i < count_; i++)
            if (bin_of_[i] == bin && logits_[taken_[i]] >= least) members_.push_back({logits_[taken_[i]], mass_of(weights_[taken_[i]])});
        std::sort(members_.begin(), members_.end(), std::greater<>());
    }

    int64_t target(int64_t total) const { return (int64_t)((unsigned __int128)wish_.bits * (uint64_t)total >> 53); }

    int64_t pick_of_all() const {
        int64_t left = target(total_);
        size_t run = 0;
        while (left >= runs_[run]) left -= runs_[run++];
        int64_t token = (int64_t)run * RUN;
        while ((left -= mass_of(weights_[token])) >= 0) token++;
        return token;
    }

    int64_t pick_of_taken(float least) {
        int kept = 0;
        int64_t total = 0;
        for (int i = 0; i < count_; i++) {
            const int token = taken_[i];
            taken_[kept] = token;
            if (logits_[token] >= least && weights_[token] >= wish_.min_p) total += mass_of(weights_[token]), kept++;
        }
        int64_t left = target(total);
        int i = 0;
        while ((left -= mass_of(weights_[taken_[i]])) >= 0) i++;
        return taken_[i];
    }

    const float* logits_;
    int width_, count_;  // count_: of what is taken
    float greatest_;
    BrDraw wish_;
    bool by_count_, by_mass_;
    int64_t total_;
    std::vector<float> weights_;
    std::vector<int64_t> runs_;    // masses, RUN tokens each
    std::vector<int32_t> taken_;   // tokens, ascending
    std::vector<int32_t> bin_of_;  // of each that is taken
    std::vector<Bin> bins_;
    std::vector<std::pair<float, int64_t>> members_;
};
}  // namespace
}  // namespace brigade

using namespace brigade;

extern "C" {
int br_best(const float* logits, int rows, int width, int64_t* tokens, float* greatest) {
    parallel(rows, 2, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) {
            tokens[r] = path().best_of(logits + r * width, width);
            greatest[r] = logits[r * width + tokens[r]];
        }
    });
    int bad = 0;
    for (int r = 0; r < rows; r++) bad += !(greatest[r] - greatest[r] == 0.0f);
    return bad;
}

void br_weigh(const float* logits, int rows, int width, const float* greatest, const float* temperature, float* weights, int64_t* totals) {
    parallel(rows, 4, [&](int64_t first, int64_t last) {
        thread_local Scratch scratch;
        float* passing = weights ? nullptr : (float*)scratch.get(sizeof(float) * (int64_t)width);
        for (int64_t r = first; r < last; r++)
            totals[r] = path().weigh(logits + r * width, width, greatest[r], temperature[r], weights ? weights + r * width : passing);
    });
}

void br_draw(const float* logits, int rows, int width, const float* greatest, const BrDraw* draws, int64_t* tokens) {
    parallel(rows, 4, [&](int64_t first, int64_t last) {
        thread_local Row row;
        for (int64_t r = first; r < last; r++) tokens[r] = row.draw(logits + r * width, width, greatest[r], draws[r]);
    });
}
}
