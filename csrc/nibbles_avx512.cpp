// Nibbles with int8 rows on AVX-512 that has no instruction for four products of bytes (VNNI): as AVX2 does it, in registers of 64 bytes.
#include "path.h"
#if defined(__AVX512BW__)
#include <immintrin.h>

namespace brigade {
namespace {
using Bytes = __m512i;
constexpr int REGISTER = LINE, WHOLE_ROWS = 8, MOST_ROWS = 8;
inline Bytes bytes(const void* p) { return _mm512_loadu_si512(p); }
inline void put_bytes(void* p, Bytes x) { _mm512_storeu_si512(p, x); }
inline Bytes each_byte(int x) { return _mm512_set1_epi8((char)x); }
inline Bytes each_word(int x) { return _mm512_set1_epi32(x); }
inline Bytes both_bits(Bytes x, Bytes y) { return _mm512_and_si512(x, y); }
inline Bytes upper_nibbles(Bytes x) { return _mm512_srli_epi16(x, 4); }
inline Bytes add_16(Bytes x, Bytes y) { return _mm512_add_epi16(x, y); }
inline Bytes add_32(Bytes x, Bytes y) { return _mm512_add_epi32(x, y); }
inline Bytes times_signed(Bytes x, Bytes y) { return _mm512_maddubs_epi16(x, y); }
inline Bytes times_16(Bytes x, Bytes y) { return _mm512_madd_epi16(x, y); }
inline Bytes twice_16(const void* p) {  // each of sixteen numbers of 16 bits, twice
    const Bytes once = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
    return _mm512_or_si512(once, _mm512_slli_epi32(once, 16));
}
#include "nibbles.inc"
}  // namespace
const TimesProduct avx512_bytes_w4a8 = w4a8_product;
}  // namespace brigade
#else
namespace brigade {
const TimesProduct avx512_bytes_w4a8 = nullptr;
}
#endif
