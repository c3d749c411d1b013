// One number for a matrix, from which a model's fingerprint is made: the sum of its numbers' bits, each times a key of its place. What a
// key is, and what such a sum shows, is said in brigade/backends/sums.py.
#include <atomic>

#include "fill.h"

namespace brigade {
namespace {
const float* scales_of(const BrMatrix& m, int64_t panel) { return m.kind == BR_W4 ? panel_scales(m, panel) : m.scale + panel * PANEL; }

uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

// What the numbers of a panel are multiplied by: as columns of their own.
void sum_scales(const BrMatrix& m, int64_t panel, const BrKeys& keys, uint64_t* sums) {
    for (int64_t g = 0; m.kind >= BR_I8 && g < (m.kind == BR_W4 ? groups_of(m) : 1); g++) {
        const float* scales = scales_of(m, panel) + g * PANEL;
        for (int column = 0; column < PANEL; column++) sums[column] += bits_of(scales[column]) * keys.scales[g];
    }
    for (int64_t g = 0; m.kind == BR_W4A8 && g < groups_of(m); g++) {
        const uint16_t* times = (const uint16_t*)(panel_data(m, panel) + g * times_bytes(m.group));
        for (int column = 0; column < PANEL; column++) sums[column] += times[column] * keys.times[g];
    }
}
}  // namespace
}  // namespace brigade

using namespace brigade;

extern "C" {
uint64_t br_sum(const BrMatrix* m, const BrKeys* keys) {
    std::atomic<uint64_t> total{0};
    parallel(padded_columns(*m) / PANEL, 1, [&](int64_t first, int64_t last) {
        uint64_t own = 0;
        for (int64_t panel = first; panel < last; panel++) {
            uint64_t sums[PANEL] = {};
            path().sum_panel(*m, panel_data(*m, panel), *keys, sums);
            sum_scales(*m, panel, *keys, sums);
            for (int column = 0; column < PANEL; column++) own += sums[column] * keys->columns[panel * PANEL + column];
        }
        total.fetch_add(own, std::memory_order_relaxed);
    });
    return total.load();
}

uint64_t br_sum_rows(const uint32_t* words, int64_t rows, int64_t count, const uint32_t* low_keys, const uint32_t* high_keys,
                     const uint64_t* row_keys) {
    constexpr int64_t PIECE = 64;
    std::atomic<uint64_t> total{0};
    parallel((rows + PIECE - 1) / PIECE, 1, [&](int64_t first, int64_t last) {
        uint64_t own = 0;
        for (int64_t row = first * PIECE; row < std::min(last * PIECE, rows); row++)
            own += path().sum_row(words + row * count, count, low_keys, high_keys) * row_keys[row];
        total.fetch_add(own, std::memory_order_relaxed);
    });
    return total.load();
}
}
