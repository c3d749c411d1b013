// The peak loops of the instructions for bf16 pairs and int8 quads of AVX-512; an older compiler may know the second alone.
#include "peak.h"
#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace brigade {
namespace {
#define BR_HIDE(x) __asm__ volatile("" : "+v"(x))
constexpr int SUMS = 16;

void i8_peak(int64_t rounds) {
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), sum[SUMS];
    BR_HIDE(a);
    BR_HIDE(b);
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) {
        sum[i] = _mm512_setzero_si512();
        BR_HIDE(sum[i]);
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
    }
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) BR_HIDE(sum[i]);
}

#if defined(__AVX512BF16__)
void bf16_peak(int64_t rounds) {
    __m512i a = _mm512_set1_epi16(0x3f80), b = _mm512_set1_epi16(0x3580);  // 1, and about 1e-6
    __m512 sum[SUMS];
    BR_HIDE(a);
    BR_HIDE(b);
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) {
        sum[i] = _mm512_setzero_ps();
        BR_HIDE(sum[i]);
    }
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], (__m512bh)a, (__m512bh)b);
    }
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) BR_HIDE(sum[i]);
}
#else
constexpr void (*bf16_peak)(int64_t) = nullptr;
#endif
}  // namespace
const Peak avx512_bf16_peak = {bf16_peak, 32 * SUMS}, avx512_i8_peak = {i8_peak, 64 * SUMS};
}  // namespace brigade
#else
namespace brigade {
const Peak avx512_bf16_peak = {nullptr, 1}, avx512_i8_peak = {nullptr, 1};
}
#endif
