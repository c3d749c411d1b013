// The peak loops of AMX tiles. The calling thread has its tiles configured as `enter` does: 16 rows of 64 bytes.
#include "peak.h"
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include <immintrin.h>

namespace brigade {
namespace {
// Six tiles of sums, so that each is at rest while the five others are added to.
#define BR_PEAK(name, op)                                                                                                        \
    void name(int64_t rounds) {                                                                                                  \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3); _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);   \
        for (int64_t r = 0; r < rounds; r++) {                                                                                   \
            op(0, 6, 7); op(1, 6, 7); op(2, 6, 7); op(3, 6, 7); op(4, 6, 7); op(5, 6, 7);                                        \
        }                                                                                                                        \
    }
BR_PEAK(bf16_peak, _tile_dpbf16ps)
BR_PEAK(i8_peak, _tile_dpbssd)
constexpr int64_t TILES = 6, ROWS = 16, COLUMNS = 16;
}  // namespace
const Peak amx_bf16_peak = {bf16_peak, TILES * ROWS * COLUMNS * 32}, amx_i8_peak = {i8_peak, TILES * ROWS * COLUMNS * 64};
}  // namespace brigade
#else
namespace brigade {
const Peak amx_bf16_peak = {nullptr, 1}, amx_i8_peak = {nullptr, 1};
}
#endif
