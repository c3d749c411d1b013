// Products with the instructions for bf16 pairs and int8 quads of AVX-512; an older compiler may know the second alone.
#include "path.h"
#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace brigade {
namespace {
// What to fetch while a run of weights is walked, into the second-level cache: the first has too few misses in flight to keep memory
// busy. One pass of few rows: the lines 4 KB ahead. Several passes over the same run: a part of the next run in each, so that memory
// works all the time and not in the first pass alone.
struct Fetch {
    static constexpr int64_t AHEAD = 4 * TILE;
    const uint8_t* at;
    int64_t stride;  // one line or two for every pair of lines that is used
    // Of 2 to 4 rows the processor follows the run by itself, and asking for every other line helps it most.
    template <int ROWS>
    void next() {
        _mm_prefetch((const char*)at, _MM_HINT_T1);
        if (ROWS < 2 || ROWS > 4) _mm_prefetch((const char*)(at + stride - LINE), _MM_HINT_T1);
        at += stride;
    }
};

// The same for nibbles. One or two rows wait for memory; more are busy with unpacking, and want their lines in the first level.
template <int R>
inline void fetch_nibbles(const uint8_t* b, int line) {
    if (R > 2) _mm_prefetch((const char*)(b + 2 * TILE), _MM_HINT_T0);
    else if (line % 2) _mm_prefetch((const char*)(b + 2 * TILE), _MM_HINT_T1);
}

#if defined(__AVX512BF16__)
template <int R>
inline void bf16_rows(const uint8_t* a, const uint8_t* b, int steps, float* c, int carry, Fetch f) {
    __m512 acc[R][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) acc[r][j] = carry ? _mm512_loadu_ps(c + r * PANEL + j * 16) : _mm512_setzero_ps();
    for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE)
        for (int i = 0; i < 16; i++) {
            const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + 2 * i * LINE), b1 = (__m512bh)_mm512_loadu_si512(b + (2 * i + 1) * LINE);
            f.next<R>();
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
inline void i8_rows(const uint8_t* a, const uint8_t* b, int steps, int32_t* c, int carry, Fetch f) {
    __m512i acc[R][2];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) acc[r][j] = carry ? _mm512_loadu_si512(c + r * PANEL + j * 16) : _mm512_setzero_si512();
    for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE)
        for (int i = 0; i < 16; i++) {
            const __m512i b0 = _mm512_loadu_si512(b + 2 * i * LINE), b1 = _mm512_loadu_si512(b + (2 * i + 1) * LINE);
            f.next<R>();
            for (int r = 0; r < R; r++) {
                const __m512i v = _mm512_set1_epi32(((const int*)(a + r * LINE))[i]);
                acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], v, b0);
                acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], v, b1);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) _mm512_storeu_si512(c + r * PANEL + j * 16, acc[r][j]);
}

// Of many rows all passes go over a part of the panel before the next part is begun, which stays in the first-level cache meanwhile;
// sums are carried from part to part in the same chain.
constexpr int PART = 16;  // tiles of K

#define BR_BY_ROWS(name, rows_fn, type)                                                                             \
    void name(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int steps, void* c, int carry,     \
              const uint8_t* next) {                                                                                \
        const int part = rows > 8 ? PART : steps;                                                                   \
        const uint8_t* after = next ? next : b + (int64_t)steps * 2 * TILE;                                         \
        for (int s = 0; s < steps; s += part) {                                                                     \
            const int now = steps - s < part ? steps - s : part;                                                    \
            const int64_t at = (int64_t)s * 2 * TILE, half = (int64_t)now * TILE;                                   \
            in_passes<8>(rows, [&](int row, auto count, int pass) {                                                 \
                const uint8_t* left = row_of(a, group_bytes, row) + (int64_t)s * TILE;                              \
                const Fetch f = rows > 8 ? Fetch{after + at + pass % 2 * half, LINE}                                \
                                         : Fetch{next ? next : b + Fetch::AHEAD, 2 * LINE};                         \
                rows_fn<decltype(count)::rows>(left, b + at, now, (type*)c + row * PANEL, carry || s, f);           \
            });                                                                                                     \
        }                                                                                                           \
    }
#if defined(__AVX512BF16__)
BR_BY_ROWS(bf16_product, bf16_rows, float)

// Nibbles become bf16 in registers. Four lines of weights lie in one line of nibbles: two pairs.
template <int R>
inline void w4_rows(const uint8_t* a, const uint8_t* b, int groups, int steps, const float* scale, float* c) {
    const __m512i values = _mm512_load_si512(NIBBLES);
    __m512 sum[R][2];
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    for (int g = 0; g < groups; g++, scale += PANEL) {
        __m512 acc[R][2];
        for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
        for (int s = 0; s < steps; s++, a += TILE)
            for (int i = 0; i < 16; i += 2, b += LINE) {
                __m512i w = _mm512_loadu_si512(b);
                fetch_nibbles<R>(b, i / 2);
                for (int j = 0; j < 2; j++) {
                    const __m512bh b0 = (__m512bh)_mm512_permutexvar_epi16(w, values);
                    const __m512bh b1 = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(w, 4), values);
                    for (int r = 0; r < R; r++) {
                        const __m512bh v = (__m512bh)_mm512_set1_epi32(((const int*)(a + r * LINE))[i + j]);
                        acc[r][0] = _mm512_dpbf16_ps(acc[r][0], v, b0);
                        acc[r][1] = _mm512_dpbf16_ps(acc[r][1], v, b1);
                    }
                    w = _mm512_srli_epi16(w, 8);
                }
            }
        for (int j = 0; j < 2; j++) {
            const __m512 by = _mm512_loadu_ps(scale + j * 16);
            for (int r = 0; r < R; r++) sum[r][j] = _mm512_fmadd_ps(acc[r][j], by, sum[r][j]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) _mm512_storeu_ps(c + r * PANEL + j * 16, sum[r][j]);
}

void w4_product(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int groups, int steps, const float* scale, float* c) {
    in_passes<4>(rows, [&](int row, auto count, int) {
        w4_rows<decltype(count)::rows>(row_of(a, group_bytes, row), b, groups, steps, scale, c + row * PANEL);
    });
}
#else
constexpr TileProduct bf16_product = nullptr;
constexpr NibbleProduct w4_product = nullptr;
#endif
BR_BY_ROWS(i8_product, i8_rows, int32_t)

// Nibbles become int8 in registers, times their group's number: a nibble times 16 still fits in a byte.
template <int R>
inline void w4a8_rows(const uint8_t* a, const uint8_t* b, int groups, int group, int32_t* c) {
    constexpr int RUN = 8;  // pairs of lines: half a tile, and the least group
    const __m512i low = _mm512_set1_epi8(15), twice = _mm512_set1_epi32(0x10001), eight = _mm512_set1_epi16(0x0808);
    __m512i acc[R][2];
    for (int r = 0; r < R; r++) acc[r][0] = acc[r][1] = _mm512_setzero_si512();
    for (int g = 0, run = 0; g < groups; g++) {
        const __m512i t0 = _mm512_mullo_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)b)), twice);
        const __m512i t1 = _mm512_mullo_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)b + 1)), twice);
        const __m512i less0 = _mm512_mullo_epi16(t0, eight), less1 = _mm512_mullo_epi16(t1, eight);
        b += LINE;
        for (int i = 0; i < group / (4 * RUN); i++, run++) {
            const int* left = (const int*)(a + run / 2 * TILE) + run % 2 * RUN;
            for (int p = 0; p < RUN; p++, b += LINE) {
                const __m512i w = _mm512_loadu_si512(b);
                fetch_nibbles<R>(b, p);
                const __m512i b0 = _mm512_sub_epi8(_mm512_mullo_epi16(_mm512_and_si512(w, low), t0), less0);
                const __m512i b1 = _mm512_sub_epi8(_mm512_mullo_epi16(_mm512_and_si512(_mm512_srli_epi16(w, 4), low), t1), less1);
                for (int r = 0; r < R; r++) {
                    const __m512i v = _mm512_set1_epi32(left[r * 16 + p]);
                    acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], v, b0);
                    acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], v, b1);
                }
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 2; j++) _mm512_storeu_si512(c + r * PANEL + j * 16, acc[r][j]);
}

void w4a8_product(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int groups, int group, int32_t* c) {
    in_passes<8>(rows, [&](int row, auto count, int) {
        w4a8_rows<decltype(count)::rows>(row_of(a, group_bytes, row), b, groups, group, c + row * PANEL);
    });
}
}  // namespace
const TileProduct avx512_bf16 = bf16_product, avx512_i8 = i8_product;
const NibbleProduct avx512_w4 = w4_product;
const TimesProduct avx512_w4a8 = w4a8_product;
}  // namespace brigade
#else
namespace brigade {
const TileProduct avx512_bf16 = nullptr, avx512_i8 = nullptr;
const NibbleProduct avx512_w4 = nullptr;
const TimesProduct avx512_w4a8 = nullptr;
}
#endif
