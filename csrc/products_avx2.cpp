// Products that AVX2 has of its own. Of int8 rows, since no instruction of it multiplies bytes with signs: `vpmaddubsw` multiplies bytes
// without a sign with bytes that have one, and adds two products in 16 bits, where it must not run over. Whole numbers, so every order
// gives the same. And of one row of floats with nibbles, which needs all sixteen registers and is therefore written by hand.
#include "path.h"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

namespace brigade {
namespace {
constexpr int HALF = 32;         // bytes of a register: 8 outputs of a line's 16
constexpr int BOTH_ROWS = 1;     // rows whose sums of a whole panel lie in registers; of more, those of one line after the other
constexpr int MOST_ROWS = 6;
constexpr int PART = 4;          // tiles of K that one line is walked along before the other is

inline __m256i words(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline __m256i word(const uint8_t* row, int i) { return _mm256_set1_epi32(((const int*)row)[i]); }

// The weight without its sign times the row's number with the weight's sign. A weight of `int4-int8` may be -128, whose size fits a byte
// without a sign. No row holds -128 (`put_row`), which has no opposite. So two products are at most 2 * 128 * 127 = 32,512.
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
            if (R == MOST_ROWS) __builtin_prefetch(a + PART * TILE + i * LINE);  // rows that come from further away than a core's own cache
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

using Bytes = __m256i;
constexpr int REGISTER = HALF, WHOLE_ROWS = 3;
inline Bytes bytes(const void* p) { return words(p); }
inline void put_bytes(void* p, Bytes x) { _mm256_storeu_si256((Bytes*)p, x); }
inline Bytes each_byte(int x) { return _mm256_set1_epi8((char)x); }
inline Bytes each_word(int x) { return _mm256_set1_epi32(x); }
inline Bytes both_bits(Bytes x, Bytes y) { return _mm256_and_si256(x, y); }
inline Bytes upper_nibbles(Bytes x) { return _mm256_srli_epi16(x, 4); }
inline Bytes add_16(Bytes x, Bytes y) { return _mm256_add_epi16(x, y); }
inline Bytes add_32(Bytes x, Bytes y) { return _mm256_add_epi32(x, y); }
inline Bytes times_signed(Bytes x, Bytes y) { return _mm256_maddubs_epi16(x, y); }
inline Bytes times_16(Bytes x, Bytes y) { return _mm256_madd_epi16(x, y); }
inline Bytes twice_16(const void* p) {  // each of eight numbers of 16 bits, twice
    const Bytes once = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
    return _mm256_or_si256(once, _mm256_slli_epi32(once, 16));
}
#include "nibbles.inc"

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
#pragma GCC unroll 1  // unrolled, sums would be spilled
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
    in_passes<2>(groups, [&](int g, auto count, int) {
        const uint8_t *row = a + (int64_t)g * steps * 2 * TILE, *from = b + (int64_t)g * steps * (TILE / 2);
        w4_groups<decltype(count)::rows>(row, from, steps, scale + g * PANEL, c, g > 0);
    });
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
