// Products that AVX2 has of its own. Of int8 rows, since no instruction of it multiplies bytes with signs: `vpmaddubsw` multiplies bytes
// without a sign with bytes that have one, and adds two products in 16 bits, where it must not run over. Whole numbers, so every order
// gives the same. And of one row with nibbles, which takes every register and every unit.
#include "path.h"
#if defined(__AVX2__)
#include <immintrin.h>

namespace brigade {
namespace {
constexpr int HALF = 32;         // bytes of a register: 8 outputs of a line's 16
constexpr int BOTH_ROWS = 1;     // rows whose sums of a whole panel lie in registers; of more, those of one line after the other
constexpr int MOST_ROWS = 6;
constexpr int PART = 4;          // tiles of K that one line is walked along before the other is
constexpr int AHEAD = 4 * TILE;  // how far the lines of nibbles are fetched
constexpr int NIBBLE_ROWS = 3;   // of nibbles, likewise

inline __m256i words(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline __m256i word(const uint8_t* row, int i) { return _mm256_set1_epi32(((const int*)row)[i]); }

// The weight without its sign times the row's number with the weight's sign. Either may be as far from 0 as 127, so two products are at
// most 32,258. Only a row that is not finite holds -128, which has no opposite: its scale is NaN, and so are its products.
template <int R, int LINES>
inline void i8_rows(const uint8_t* a, const uint8_t* b, int steps, int32_t* c, int carry) {
    constexpr int N = 2 * LINES;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[R][N];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) sum[r][j] = carry ? words(c + r * PANEL + j * 8) : _mm256_setzero_si256();
    for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE)
        for (int i = 0; i < 16; i++) {
            __m256i w[N], size[N];
            for (int j = 0; j < N; j++) w[j] = words(b + 2 * i * LINE + j * HALF), size[j] = _mm256_abs_epi8(w[j]);
            for (int j = 0; j < LINES; j++) __builtin_prefetch(b + PART * 2 * TILE + (2 * i + j) * LINE);
            for (int r = 0; r < R; r++) {
                const __m256i v = word(a + r * LINE, i);
                for (int j = 0; j < N; j++) {
                    const __m256i pairs = _mm256_maddubs_epi16(size[j], _mm256_sign_epi8(v, w[j]));
                    sum[r][j] = _mm256_add_epi32(sum[r][j], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < N; j++) _mm256_storeu_si256((__m256i*)(c + r * PANEL + j * 8), sum[r][j]);
}

void i8_product(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int steps, void* c, int carry, const uint8_t*) {
    if (rows <= BOTH_ROWS) return i8_rows<1, 2>(a, b, steps, (int32_t*)c, carry);
    for (int s = 0; s < steps; s += PART) {
        const int now = steps - s < PART ? steps - s : PART;
        for (int line = 0; line < 2; line++)
            in_passes<MOST_ROWS>(rows, [&](int row, auto count, int) {
                i8_rows<decltype(count)::rows, 1>(row_of(a, group_bytes, row) + (int64_t)s * TILE, b + (int64_t)s * 2 * TILE + line * LINE,
                                                  now, (int32_t*)c + row * PANEL + line * 16, carry || s);
            });
    }
}

// 8 times the row's numbers of each pair of bytes, added over a run of `lines` words (8 or 16), and taken from 0: what a nibble stands
// for is 8 less than it is. Two sums of 16 bits.
inline int less_of(const uint8_t* row, int lines) {
    const __m256i eights = _mm256_set1_epi8(8);
    __m256i eight = _mm256_maddubs_epi16(eights, words(row));
    if (lines == 16) eight = _mm256_add_epi16(eight, _mm256_maddubs_epi16(eights, words(row + HALF)));
    __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi16(sum, _mm_shuffle_epi32(sum, 0xb1));
    return _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), sum));
}

// A run of nibbles of one group, of HALVES registers of each line. Of `lines` pairs at most 8 x 127 x 2 lines come together, which is
// below 32,768 at 16 lines; what runs over on the way comes back. Then times what the group's numbers are multiplied by.
template <int R, int HALVES>
inline void nibble_run(const uint8_t* a, const uint8_t* b, int lines, const __m256i (*times)[2], const int* less, int32_t* c, bool first) {
    const __m256i low = _mm256_set1_epi8(15);
    __m256i sum[R][HALVES][2];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++) sum[r][h][0] = sum[r][h][1] = _mm256_set1_epi32(less[r]);
    for (int i = 0; i < lines; i++, b += LINE) {
        __builtin_prefetch(b + AHEAD);
        for (int h = 0; h < HALVES; h++) {
            const __m256i w = words(b + h * HALF), w0 = _mm256_and_si256(w, low), w1 = _mm256_and_si256(_mm256_srli_epi16(w, 4), low);
            for (int r = 0; r < R; r++) {
                const __m256i v = word(a + r * LINE, i);
                sum[r][h][0] = _mm256_add_epi16(sum[r][h][0], _mm256_maddubs_epi16(w0, v));
                sum[r][h][1] = _mm256_add_epi16(sum[r][h][1], _mm256_maddubs_epi16(w1, v));
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < HALVES; h++)
            for (int j = 0; j < 2; j++) {
                int32_t* at = c + r * PANEL + j * 16 + h * 8;
                const __m256i now = _mm256_madd_epi16(sum[r][h][j], times[h][j]);
                _mm256_storeu_si256((__m256i*)at, first ? now : _mm256_add_epi32(now, words(at)));
            }
}

template <int R>
inline void w4a8_rows(const uint8_t* a, const uint8_t* b, int groups, int group, int32_t* c) {
    const int all = group / 4;  // lines of a group
    bool first = true;
    for (int g = 0, at = 0; g < groups; g++) {
        __m256i times[2][2];  // of each half of the outputs' lines: twice 16 bits
        for (int h = 0; h < 2; h++)
            for (int j = 0; j < 2; j++) {
                const __m256i t = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)(b + j * HALF + h * 16)));
                times[h][j] = _mm256_or_si256(t, _mm256_slli_epi32(t, 16));
            }
        b += LINE;
        for (int done = 0, lines; done < all; done += lines, at += lines, b += lines * LINE, first = false) {
            lines = at % 16 ? 8 : all - done < 16 ? all - done : 16;  // within a tile of the rows
            const uint8_t* left = a + at / 16 * TILE + at % 16 * 4;
            int less[R];
            for (int r = 0; r < R; r++) less[r] = less_of(left + r * LINE, lines);
            if constexpr (R <= NIBBLE_ROWS) nibble_run<R, 2>(left, b, lines, times, less, c, first);
            else {
                nibble_run<R, 1>(left, b, lines, times, less, c, first);
                nibble_run<R, 1>(left, b + HALF, lines, times + 1, less, c + 8, first);
            }
        }
    }
}

void w4a8_product(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int groups, int group, int32_t* c) {
    in_passes<MOST_ROWS>(rows, [&](int row, auto count, int) {
        w4a8_rows<decltype(count)::rows>(row_of(a, group_bytes, row), b, groups, group, c + row * PANEL);
    });
}

// Nibbles that meet one row of floats: `tiles.inc` says how they become floats two at a time. Here half a line goes through all of it
// before the other half comes, which leaves room in sixteen registers for the sums of two groups.
struct Nibbles {
    const __m256i two = _mm256_set1_epi32(0x000f000f), exponent = _mm256_set1_epi32(0x43000000), less = _mm256_set1_epi32(0x43080000);
    const __m256 up = _mm256_set1_ps(0x1p16f), down = _mm256_set1_ps(-(0x88p16f + 8));

    // Of every word the nibbles J and J + 4, times the row's numbers at two steps of K.
    template <int J>
    __m256 meet(const uint8_t* b, __m256 first, __m256 second, __m256 sum) const {
        const __m256i moved = _mm256_srli_epi16(words(b), 4 * J), bits = J == 3 ? moved : _mm256_and_si256(moved, two);
        const __m256 lower = _mm256_castsi256_ps(_mm256_blend_epi16(bits, less, 0xaa));
        const __m256 both = _mm256_castsi256_ps(_mm256_or_si256(bits, exponent));
        sum = _mm256_fmadd_ps(first, _mm256_fmadd_ps(lower, up, down), sum);
        return _mm256_fmadd_ps(second, _mm256_sub_ps(both, lower), sum);
    }
};

template <int GROUPS>
inline void w4_groups(const uint8_t* a, const uint8_t* b, int steps, const float* scale, float* c, bool carry) {
    const int64_t row_bytes = (int64_t)steps * 2 * TILE, bytes = (int64_t)steps * (TILE / 2);  // of a group
    const Nibbles nibbles;
    __m256 sum[GROUPS][4];
    for (int g = 0; g < GROUPS; g++)
        for (int j = 0; j < 4; j++) sum[g][j] = _mm256_setzero_ps();
    for (int s = 0; s < 2 * steps; s++, a += TILE)
#pragma GCC unroll 1
        for (int i = 0; i < 4; i++, b += LINE)
            for (int g = 0; g < GROUPS; g++) {
                const float* row = (const float*)(a + g * row_bytes) + 4 * i;
                const uint8_t* from = b + g * bytes;
                __builtin_prefetch(from + AHEAD);
                const __m256 v0 = _mm256_set1_ps(row[0]), v1 = _mm256_set1_ps(row[1]);
                for (int h = 0; h < 2; h++) sum[g][h] = nibbles.meet<0>(from + h * HALF, v0, v1, sum[g][h]);
                for (int h = 0; h < 2; h++) sum[g][2 + h] = nibbles.meet<1>(from + h * HALF, v0, v1, sum[g][2 + h]);
                const __m256 v2 = _mm256_set1_ps(row[2]), v3 = _mm256_set1_ps(row[3]);
                for (int h = 0; h < 2; h++) sum[g][h] = nibbles.meet<2>(from + h * HALF, v2, v3, sum[g][h]);
                for (int h = 0; h < 2; h++) sum[g][2 + h] = nibbles.meet<3>(from + h * HALF, v2, v3, sum[g][2 + h]);
            }
    for (int j = 0; j < 4; j++) {
        __m256 whole = carry ? _mm256_loadu_ps(c + j * 8) : _mm256_setzero_ps();
        for (int g = 0; g < GROUPS; g++) whole = _mm256_fmadd_ps(sum[g][j], _mm256_loadu_ps(scale + g * PANEL + j * 8), whole);
        _mm256_storeu_ps(c + j * 8, whole);
    }
}

void w4_one(const uint8_t* a, int64_t, int, const uint8_t* b, int groups, int steps, const float* scale, float* c) {
    for (int g = 0, now; g < groups; g += now) {
        const uint8_t *row = a + (int64_t)g * steps * 2 * TILE, *from = b + (int64_t)g * steps * (TILE / 2);
        now = groups - g < 2 ? 1 : 2;
        if (now == 2) w4_groups<2>(row, from, steps, scale + g * PANEL, c, g > 0);
        else w4_groups<1>(row, from, steps, scale + g * PANEL, c, g > 0);
    }
}
}  // namespace
const TileProduct avx2_i8 = i8_product;
const NibbleProduct avx2_w4_one = w4_one;
const TimesProduct avx2_w4a8 = w4a8_product;
}  // namespace brigade
#else
namespace brigade {
const TileProduct avx2_i8 = nullptr;
const NibbleProduct avx2_w4_one = nullptr;
const TimesProduct avx2_w4a8 = nullptr;
}
#endif
