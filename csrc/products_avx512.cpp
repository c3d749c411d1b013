// Products with the instructions for bf16 pairs and int8 quads of AVX-512; an older compiler may know the second alone.
#include "path.h"
#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace brigade {
namespace {
#if defined(__AVX512BF16__)
template <int R>
inline void bf16_rows(const uint8_t* a, const uint8_t* b, int steps, float* c, int carry) {
    __m512 acc[R][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) acc[r][j] = carry ? _mm512_loadu_ps(c + r * PANEL + j * 16) : _mm512_setzero_ps();
    for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE)
        for (int i = 0; i < 16; i++) {
            const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + i * LINE), b1 = (__m512bh)_mm512_loadu_si512(b + TILE + i * LINE);
            _mm_prefetch((const char*)(b + 8 * TILE + i * LINE), _MM_HINT_T0);
            _mm_prefetch((const char*)(b + 9 * TILE + i * LINE), _MM_HINT_T0);
            for (int r = 0; r < R; r++) {
                const __m512bh v = (__m512bh)_mm512_set1_epi32(((const int*)(a + r * LINE))[i]);
                acc[r][0] = _mm512_dpbf16_ps(acc[r][0], v, b0);
                acc[r][1] = _mm512_dpbf16_ps(acc[r][1], v, b1);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(c + r * PANEL + j * 16, acc[r][j]);
}
#endif

template <int R>
inline void i8_rows(const uint8_t* a, const uint8_t* b, int steps, int32_t* c, int carry) {
    __m512i acc[R][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) acc[r][j] = carry ? _mm512_loadu_si512(c + r * PANEL + j * 16) : _mm512_setzero_si512();
    for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE)
        for (int i = 0; i < 16; i++) {
            const __m512i b0 = _mm512_loadu_si512(b + i * LINE), b1 = _mm512_loadu_si512(b + TILE + i * LINE);
            _mm_prefetch((const char*)(b + 8 * TILE + i * LINE), _MM_HINT_T0);
            _mm_prefetch((const char*)(b + 9 * TILE + i * LINE), _MM_HINT_T0);
            for (int r = 0; r < R; r++) {  // the left side has to be unsigned: 128 more than it is
                const __m512i v = _mm512_set1_epi32(((const int*)(a + r * LINE))[i] ^ (int)0x80808080);
                acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], v, b0);
                acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], v, b1);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) _mm512_storeu_si512(c + r * PANEL + j * 16, acc[r][j]);
}

#define BR_BY_ROWS(name, rows_fn, type)                                                                       \
    void name(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int steps, void* c, int carry) { \
        type* out = (type*)c;                                                                                 \
        for (int row = 0; row < rows;) {                                                                      \
            const int left = (rows < 16 || row >= 16 ? rows : 16) - row;                                      \
            const uint8_t* from = a + (row / 16) * group_bytes + (row % 16) * LINE;                           \
            type* to = out + row * PANEL;                                                                     \
            if (left >= 8) { rows_fn<8>(from, b, steps, to, carry); row += 8; }                               \
            else if (left >= 4) { rows_fn<4>(from, b, steps, to, carry); row += 4; }                          \
            else if (left >= 2) { rows_fn<2>(from, b, steps, to, carry); row += 2; }                          \
            else { rows_fn<1>(from, b, steps, to, carry); row += 1; }                                         \
        }                                                                                                     \
    }
#if defined(__AVX512BF16__)
BR_BY_ROWS(bf16_product, bf16_rows, float)
#else
constexpr TileProduct bf16_product = nullptr;
#endif
BR_BY_ROWS(i8_product, i8_rows, int32_t)
}  // namespace
const TileProduct avx512_bf16 = bf16_product, avx512_i8 = i8_product;
}  // namespace brigade
#else
namespace brigade {
const TileProduct avx512_bf16 = nullptr, avx512_i8 = nullptr;
}
#endif
