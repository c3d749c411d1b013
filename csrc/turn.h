// Squares of numbers, rows made columns, through registers of 16 bytes, which every x86-64 processor has: 4 x 4 of 32 bits, 8 x 8 of
// 16 bits.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace brigade {
template <class Word>
constexpr int SQUARE = 16 / (int)sizeof(Word);

// A square of `from`, whose rows are `pitch` numbers apart, into `to`, whose rows are `to_pitch` apart.
#if defined(__SSE2__)
template <class Word>
inline __m128i row_of(const Word* from) { return _mm_loadu_si128((const __m128i*)from); }
template <class Word>
inline void put_row(Word* to, __m128i row) { _mm_storeu_si128((__m128i*)to, row); }

inline void turn_square(const uint32_t* from, int64_t pitch, uint32_t* to, int64_t to_pitch) {
    const __m128i a = row_of(from), b = row_of(from + pitch), c = row_of(from + 2 * pitch), d = row_of(from + 3 * pitch);
    const __m128i e = _mm_unpacklo_epi32(a, b), f = _mm_unpackhi_epi32(a, b), g = _mm_unpacklo_epi32(c, d), h = _mm_unpackhi_epi32(c, d);
    put_row(to, _mm_unpacklo_epi64(e, g));
    put_row(to + to_pitch, _mm_unpackhi_epi64(e, g));
    put_row(to + 2 * to_pitch, _mm_unpacklo_epi64(f, h));
    put_row(to + 3 * to_pitch, _mm_unpackhi_epi64(f, h));
}

inline void turn_square(const uint16_t* from, int64_t pitch, uint16_t* to, int64_t to_pitch) {
    __m128i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        const __m128i even = row_of(from + i * pitch), odd = row_of(from + (i + 1) * pitch);
        a[i] = _mm_unpacklo_epi16(even, odd);
        a[i + 1] = _mm_unpackhi_epi16(even, odd);
    }
    for (int i = 0; i < 8; i += 4)
        for (int half = 0; half < 2; half++) {
            b[i + 2 * half] = _mm_unpacklo_epi32(a[i + half], a[i + 2 + half]);
            b[i + 2 * half + 1] = _mm_unpackhi_epi32(a[i + half], a[i + 2 + half]);
        }
    for (int i = 0; i < 4; i++) {
        put_row(to + 2 * i * to_pitch, _mm_unpacklo_epi64(b[i], b[i + 4]));
        put_row(to + (2 * i + 1) * to_pitch, _mm_unpackhi_epi64(b[i], b[i + 4]));
    }
}
#else
template <class Word>
inline void turn_square(const Word* from, int64_t pitch, Word* to, int64_t to_pitch) {
    for (int r = 0; r < SQUARE<Word>; r++)
        for (int c = 0; c < SQUARE<Word>; c++) std::memcpy(to + c * to_pitch + r, from + r * pitch + c, sizeof(Word));
}
#endif

// Words are moved as bytes, whatever type they were written as. `rows` x `columns` of `from` as `columns` x `rows` of `to`.
template <class Word>
inline void turn_rows(const Word* from, int64_t pitch, int64_t rows, int64_t columns, Word* to, int64_t to_pitch) {
    constexpr int S = SQUARE<Word>;
    const int64_t tall = rows / S * S, wide = columns / S * S;
    for (int64_t c = 0; c < wide; c += S)
        for (int64_t r = 0; r < tall; r += S) turn_square(from + r * pitch + c, pitch, to + c * to_pitch + r, to_pitch);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = r < tall ? wide : 0; c < columns; c++) std::memcpy(to + c * to_pitch + r, from + r * pitch + c, sizeof(Word));
}
}  // namespace brigade
