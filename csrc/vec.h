// Sixteen floats. Every instruction set computes the same bits: only IEEE operations and fused multiply-adds, lane by lane.
// Included inside a namespace of its own by each path, so that no two paths share an inline function.
//
// NaN is never turned into a number. Where one operand of `vmax` or `vmin` is NaN the result is the second operand, so what is
// computed stands second and a constant first.
struct alignas(64) Lanes { float x[16]; };

// `higher`: of two numbers without sign the greater. Their bits have the same order as integers, where NaN is above all others.
#if defined(BR_AVX512) || defined(BR_AVX2)
static inline __m256 higher8(__m256 a, __m256 b) { return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b))); }
static inline __m128 higher4(__m128 a, __m128 b) { return _mm_castsi128_ps(_mm_max_epi32(_mm_castps_si128(a), _mm_castps_si128(b))); }
#endif

#if defined(BR_AVX512)
struct F { __m512 v; };
struct W { __m512i v; };  // sixteen 32-bit words
static inline F set1(float x) { return {_mm512_set1_ps(x)}; }
static inline F zero() { return {_mm512_setzero_ps()}; }
static inline F ld(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void st(float* p, F a) { _mm512_storeu_ps(p, a.v); }
#if defined(__SANITIZE_ADDRESS__)  // which does not see what masked moves touch
static inline F ldn(const float* p, int n) { Lanes t{}; __builtin_memcpy(t.x, p, sizeof(float) * (size_t)n); return ld(t.x); }
static inline void stn(float* p, F a, int n) { Lanes t; st(t.x, a); __builtin_memcpy(p, t.x, sizeof(float) * (size_t)n); }
#else
static inline F ldn(const float* p, int n) { return {_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p)}; }
static inline void stn(float* p, F a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a.v); }
#endif
static inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F vmax(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F vmin(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F higher(F a, F b) { return {_mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a.v), _mm512_castps_si512(b.v)))}; }
static inline F rint(F a) { return {_mm512_roundscale_ps(a.v, 8)}; }
static inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
// where a < b then x else y
static inline F lt(F a, F b, F x, F y) { return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)}; }
static inline F times_pow2(F a, F n) { return {_mm512_scalef_ps(a.v, n.v)}; }  // n whole, -126..127
static inline W ldw(const void* p) { return {_mm512_loadu_si512(p)}; }
static inline W set1w(uint32_t x) { return {_mm512_set1_epi32((int)x)}; }
static inline W zerow() { return {_mm512_setzero_si512()}; }
static inline W subw(W a, W b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline W andw(W a, W b) { return {_mm512_and_si512(a.v, b.v)}; }
static inline W orw(W a, W b) { return {_mm512_or_si512(a.v, b.v)}; }
static inline W xorw(W a, W b) { return {_mm512_xor_si512(a.v, b.v)}; }
static inline W halves(W low, W high) { return {_mm512_mask_blend_epi16(0xaaaaaaaa, low.v, high.v)}; }  // of each word
template <int N> static inline W shr16(W a) { return {_mm512_srli_epi16(a.v, N)}; }  // each half
template <int N> static inline W shl(W a) { return {_mm512_slli_epi32(a.v, N)}; }
template <int N> static inline W sra(W a) { return {_mm512_srai_epi32(a.v, N)}; }
static inline W ld_i16(const void* p) { return {_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i*)p))}; }  // sixteen with a sign
static inline W times128(W a) { return {_mm512_slli_epi32(a.v, 7)}; }
static inline void stw(void* p, W a) { _mm512_storeu_si512(p, a.v); }
static inline F bf_lo(W w) { return {_mm512_castsi512_ps(_mm512_slli_epi32(w.v, 16))}; }
static inline F bf_hi(W w) { return {_mm512_castsi512_ps(_mm512_and_si512(w.v, _mm512_set1_epi32((int)0xffff0000u)))}; }
static inline F as_float(W w) { return {_mm512_castsi512_ps(w.v)}; }
static inline F to_float(W w) { return {_mm512_cvtepi32_ps(w.v)}; }
static inline W to_int(F a) { return {_mm512_cvtps_epi32(a.v)}; }
static inline W dot8(W acc, W a, W b) {  // four signed byte products a word
    const __m512i al = _mm512_srai_epi16(_mm512_slli_epi16(a.v, 8), 8), ah = _mm512_srai_epi16(a.v, 8);
    const __m512i bl = _mm512_srai_epi16(_mm512_slli_epi16(b.v, 8), 8), bh = _mm512_srai_epi16(b.v, 8);
    return {_mm512_add_epi32(acc.v, _mm512_add_epi32(_mm512_madd_epi16(al, bl), _mm512_madd_epi16(ah, bh)))};
}
static inline __m512i rounded(F a) {  // to bf16, in the upper halves: to nearest even; rounding up could turn a NaN into 0
    const __m512i u = _mm512_castps_si512(a.v);
    const __m512i up = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1)), _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(_mm512_set1_epi32(0x7fc00000), _mm512_cmp_ps_mask(a.v, a.v, _CMP_ORD_Q), u, up);
}
static inline F as_bf16(F a) { return {_mm512_castsi512_ps(_mm512_and_si512(rounded(a), _mm512_set1_epi32((int)0xffff0000u)))}; }
static inline void st_bf16(uint16_t* p, F a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(a), 16))); }
static inline void st_i8(int8_t* p, F a, int flip) {
    _mm_storeu_si128((__m128i*)p, _mm_xor_si128(_mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)), _mm_set1_epi8((char)flip)));
}
static inline F ld_bf16(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
#elif defined(BR_AVX2)
struct F { __m256 a, b; };
struct W { __m256i a, b; };
static inline F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F zero() { return set1(0.0f); }
static inline F ld(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void st(float* p, F v) { _mm256_storeu_ps(p, v.a); _mm256_storeu_ps(p + 8, v.b); }
static inline F ldn(const float* p, int n) { Lanes t{}; __builtin_memcpy(t.x, p, sizeof(float) * (size_t)n); return ld(t.x); }
static inline void stn(float* p, F v, int n) { Lanes t; st(t.x, v); __builtin_memcpy(p, t.x, sizeof(float) * (size_t)n); }
#define BR_TWO(name, op) static inline F name(F x, F y) { return {op(x.a, y.a), op(x.b, y.b)}; }
BR_TWO(add, _mm256_add_ps) BR_TWO(sub, _mm256_sub_ps) BR_TWO(mul, _mm256_mul_ps) BR_TWO(div, _mm256_div_ps)
BR_TWO(vmax, _mm256_max_ps) BR_TWO(vmin, _mm256_min_ps)
#undef BR_TWO
static inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline F higher(F x, F y) { return {higher8(x.a, y.a), higher8(x.b, y.b)}; }
static inline F rint(F x) { return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)}; }
static inline F abs(F x) { const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)); return {_mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m)}; }
static inline F lt(F p, F q, F x, F y) {
    return {_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(p.a, q.a, _CMP_LT_OQ)), _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(p.b, q.b, _CMP_LT_OQ))};
}
static inline __m256 pow2_half(__m256 n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23)); }
static inline F times_pow2(F x, F n) { return {_mm256_mul_ps(x.a, pow2_half(n.a)), _mm256_mul_ps(x.b, pow2_half(n.b))}; }
static inline W ldw(const void* p) { return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)}; }
static inline W set1w(uint32_t x) { return {_mm256_set1_epi32((int)x), _mm256_set1_epi32((int)x)}; }
static inline W zerow() { return set1w(0); }
static inline W andw(W x, W y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
static inline W orw(W x, W y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
static inline W xorw(W x, W y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
// Of each word; AVX-512 alone uses it and `shr16`.
static inline W halves(W low, W high) { return {_mm256_blend_epi16(low.a, high.a, 0xaa), _mm256_blend_epi16(low.b, high.b, 0xaa)}; }
template <int N> static inline W shr16(W x) { return {_mm256_srli_epi16(x.a, N), _mm256_srli_epi16(x.b, N)}; }  // each half
template <int N> static inline W shl(W x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N> static inline W sra(W x) { return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)}; }
static inline W ld_i16(const void* p) {  // sixteen with a sign
    return {_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i*)p + 1))};
}
static inline W subw(W x, W y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
static inline W times128(W x) { return {_mm256_slli_epi32(x.a, 7), _mm256_slli_epi32(x.b, 7)}; }
static inline void stw(void* p, W w) { _mm256_storeu_si256((__m256i*)p, w.a); _mm256_storeu_si256((__m256i*)p + 1, w.b); }
static inline F bf_lo(W w) { return {_mm256_castsi256_ps(_mm256_slli_epi32(w.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(w.b, 16))}; }
alignas(32) static const uint32_t UPPER[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u, 0xffff0000u};
static inline __m256 upper(__m256i w) {  // the mask stays in memory: products need all sixteen registers, and a compiler would spill sums
    __m256i u;
    __asm__("vpand %2, %1, %0" : "=x"(u) : "x"(w), "m"(UPPER));
    return _mm256_castsi256_ps(u);
}
static inline F bf_hi(W w) { return {upper(w.a), upper(w.b)}; }
static inline F as_float(W w) { return {_mm256_castsi256_ps(w.a), _mm256_castsi256_ps(w.b)}; }
static inline F to_float(W w) { return {_mm256_cvtepi32_ps(w.a), _mm256_cvtepi32_ps(w.b)}; }
static inline W to_int(F v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
static inline __m256i rounded_half(__m256 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i up = _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)), _mm256_set1_epi32(0x7fff));
    const __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(u, up)), none = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return _mm256_castps_si256(_mm256_blendv_ps(y, none, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}
static inline F as_bf16(F v) { return {upper(rounded_half(v.a)), upper(rounded_half(v.b))}; }
static inline void st_bf16(uint16_t* p, F v) {
    const __m256i w = _mm256_packus_epi32(_mm256_srli_epi32(rounded_half(v.a), 16), _mm256_srli_epi32(rounded_half(v.b), 16));
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(w, 0xd8));  // packing goes by halves
}
static inline __m256i packed_16(F v) {  // to 16 bits, each half in its place
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)), 0xd8);
}
static inline void st_i8(int8_t* p, F v, int flip) {
    const __m256i w = packed_16(v);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
    _mm_storeu_si128((__m128i*)p, _mm_xor_si128(bytes, _mm_set1_epi8((char)flip)));
}
static inline F ld_bf16(const uint16_t* p) {
    const __m256i w = _mm256_loadu_si256((const __m256i*)p);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(w)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm256_extracti128_si256(w, 1)), 16))};
}
#else
struct F { float x[16]; };
struct W { int32_t x[16]; };
#define BR_EACH for (int i = 0; i < 16; i++)
static inline F set1(float v) { F r; BR_EACH r.x[i] = v; return r; }
static inline F zero() { return set1(0.0f); }
static inline F ldn(const float* p, int n) { F r = zero(); for (int i = 0; i < n; i++) r.x[i] = p[i]; return r; }
static inline F ld(const float* p) { return ldn(p, 16); }
static inline void stn(float* p, F a, int n) { for (int i = 0; i < n; i++) p[i] = a.x[i]; }
static inline void st(float* p, F a) { stn(p, a, 16); }
static inline F add(F a, F b) { BR_EACH a.x[i] = a.x[i] + b.x[i]; return a; }
static inline F sub(F a, F b) { BR_EACH a.x[i] = a.x[i] - b.x[i]; return a; }
static inline F mul(F a, F b) { BR_EACH a.x[i] = a.x[i] * b.x[i]; return a; }
static inline F div(F a, F b) { BR_EACH a.x[i] = a.x[i] / b.x[i]; return a; }
static inline F fma(F a, F b, F c) { BR_EACH c.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]); return c; }
static inline F vmax(F a, F b) { BR_EACH a.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i]; return a; }
static inline F vmin(F a, F b) { BR_EACH a.x[i] = a.x[i] < b.x[i] ? a.x[i] : b.x[i]; return a; }
static inline float higher_one(float a, float b) {
    int32_t x, y;
    __builtin_memcpy(&x, &a, 4);
    __builtin_memcpy(&y, &b, 4);
    return x > y ? a : b;
}
static inline F higher(F a, F b) { BR_EACH a.x[i] = higher_one(a.x[i], b.x[i]); return a; }
static inline F rint(F a) { BR_EACH a.x[i] = __builtin_rintf(a.x[i]); return a; }
static inline F abs(F a) { BR_EACH a.x[i] = __builtin_fabsf(a.x[i]); return a; }
static inline F lt(F a, F b, F x, F y) { BR_EACH y.x[i] = a.x[i] < b.x[i] ? x.x[i] : y.x[i]; return y; }
static inline F times_pow2(F a, F n) { BR_EACH { uint32_t u = (uint32_t)((int32_t)n.x[i] + 127) << 23; __builtin_memcpy(&n.x[i], &u, 4); } return mul(a, n); }
static inline W ldw(const void* p) { W r; __builtin_memcpy(r.x, p, 64); return r; }
static inline W set1w(uint32_t v) { W r; BR_EACH r.x[i] = (int32_t)v; return r; }
static inline W zerow() { return set1w(0); }
static inline W subw(W a, W b) { BR_EACH a.x[i] -= b.x[i]; return a; }
static inline W andw(W a, W b) { BR_EACH a.x[i] &= b.x[i]; return a; }
static inline W orw(W a, W b) { BR_EACH a.x[i] |= b.x[i]; return a; }
static inline W xorw(W a, W b) { BR_EACH a.x[i] ^= b.x[i]; return a; }
static inline W halves(W low, W high) { BR_EACH low.x[i] = (int32_t)(((uint32_t)low.x[i] & 0xffff) | ((uint32_t)high.x[i] & 0xffff0000u)); return low; }
template <int N> static inline W shr16(W a) { BR_EACH a.x[i] = (int32_t)((uint32_t)a.x[i] >> N & (0xffffu >> N) * 0x10001u); return a; }  // each half
template <int N> static inline W shl(W a) { BR_EACH a.x[i] = (int32_t)((uint32_t)a.x[i] << N); return a; }
template <int N> static inline W sra(W a) { BR_EACH a.x[i] >>= N; return a; }
static inline W ld_i16(const void* p) { int16_t w[16]; __builtin_memcpy(w, p, 32); W r; BR_EACH r.x[i] = w[i]; return r; }  // with a sign
static inline W times128(W a) { BR_EACH a.x[i] *= 128; return a; }
static inline void stw(void* p, W a) { __builtin_memcpy(p, a.x, 64); }
static inline F as_float(W w) { F r; __builtin_memcpy(r.x, w.x, 64); return r; }
static inline F bf_lo(W w) { BR_EACH w.x[i] = (int32_t)((uint32_t)w.x[i] << 16); return as_float(w); }
static inline F bf_hi(W w) { BR_EACH w.x[i] = (int32_t)((uint32_t)w.x[i] & 0xffff0000u); return as_float(w); }
static inline F to_float(W w) { F r; BR_EACH r.x[i] = (float)w.x[i]; return r; }
static inline int32_t to_int_one(float a) {  // what fits into no integer is the least one, as the instructions have it
    const float v = __builtin_rintf(a);
    return v >= -0x1p31f && v < 0x1p31f ? (int32_t)v : INT32_MIN;
}
static inline W to_int(F a) { W r; BR_EACH r.x[i] = to_int_one(a.x[i]); return r; }
static inline W dot8(W acc, W a, W b) {
    BR_EACH for (int j = 0; j < 32; j += 8) acc.x[i] += (int8_t)((uint32_t)a.x[i] >> j) * (int8_t)((uint32_t)b.x[i] >> j);
    return acc;
}
static inline void st_bf16(uint16_t* p, F a) {
    BR_EACH {
        uint32_t u;
        __builtin_memcpy(&u, &a.x[i], 4);
        p[i] = (u & 0x7fffffff) > 0x7f800000 ? (uint16_t)0x7fc0 : (uint16_t)((u + ((u >> 16) & 1) + 0x7fff) >> 16);
    }
}
static inline void st_i8(int8_t* p, F a, int flip) {
    BR_EACH { const int32_t v = to_int_one(a.x[i]); p[i] = (int8_t)((v > 127 ? 127 : v < -128 ? -128 : v) ^ flip); }
}
static inline F as_bf16(F a) {
    alignas(64) uint16_t half[16];
    st_bf16(half, a);
    BR_EACH { const uint32_t u = (uint32_t)half[i] << 16; __builtin_memcpy(&a.x[i], &u, 4); }
    return a;
}
static inline F ld_bf16(const uint16_t* p) { F r; BR_EACH { uint32_t u = (uint32_t)p[i] << 16; __builtin_memcpy(&r.x[i], &u, 4); } return r; }
#undef BR_EACH
#endif

#if defined(BR_AVX512)
static inline void st_bf16_pairs(void* p, F lo, F hi) {  // word i: lo[i], hi[i]
    _mm512_storeu_si512(p, _mm512_or_si512(_mm512_srli_epi32(rounded(lo), 16), _mm512_and_si512(rounded(hi), _mm512_set1_epi32((int)0xffff0000u))));
}
// 64 bytes: four times sixteen numbers.
static inline void st_i8_line(int8_t* p, F a, F b, F c, F d, int flip) {
    const __m512i ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a.v), _mm512_cvtps_epi32(b.v)), cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c.v), _mm512_cvtps_epi32(d.v));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // packing goes by quarters
    _mm512_storeu_si512(p, _mm512_xor_si512(_mm512_permutexvar_epi32(order, _mm512_packs_epi16(ab, cd)), _mm512_set1_epi8((char)flip)));
}
// Sixteen words of each of sixteen rows; word i of all of them becomes the line at `to + i * stride`.
static inline void st_turned(const uint32_t (*rows)[16], uint8_t* to, int64_t stride) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_load_si512(rows[i]);
    for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {  // word i of each quarter, of four rows a register
        const __m512i p = _mm512_shuffle_i32x4(a[i], a[4 + i], 0x88), q = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0x88);
        const __m512i r = _mm512_shuffle_i32x4(a[i], a[4 + i], 0xdd), s = _mm512_shuffle_i32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_si512(to + i * stride, _mm512_shuffle_i32x4(p, q, 0x88));
        _mm512_storeu_si512(to + (4 + i) * stride, _mm512_shuffle_i32x4(r, s, 0x88));
        _mm512_storeu_si512(to + (8 + i) * stride, _mm512_shuffle_i32x4(p, q, 0xdd));
        _mm512_storeu_si512(to + (12 + i) * stride, _mm512_shuffle_i32x4(r, s, 0xdd));
    }
}
#elif defined(BR_AVX2)
static inline void st_bf16_pairs(void* p, F lo, F hi) {
    const __m256i a = _mm256_blend_epi16(_mm256_srli_epi32(rounded_half(lo.a), 16), rounded_half(hi.a), 0xaa);
    const __m256i b = _mm256_blend_epi16(_mm256_srli_epi32(rounded_half(lo.b), 16), rounded_half(hi.b), 0xaa);
    stw(p, {a, b});
}
static inline __m256i i8_of(F x, F y, __m256i flip) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packing goes by halves
    const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), b = _mm256_packs_epi32(_mm256_cvtps_epi32(y.a), _mm256_cvtps_epi32(y.b));
    return _mm256_xor_si256(_mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order), flip);
}
static inline void st_i8_line(int8_t* p, F a, F b, F c, F d, int flip) {
    const __m256i by = _mm256_set1_epi8((char)flip);
    stw(p, {i8_of(a, b, by), i8_of(c, d, by)});
}
// Sixteen words of each of sixteen rows; word i of all of them becomes the line at `to + i * stride`. By squares of eight.
static inline void st_turned(const uint32_t (*rows)[16], uint8_t* to, int64_t stride) {
    for (int down = 0; down < 16; down += 8)
        for (int along = 0; along < 16; along += 8) {
            __m256i a[8], b[8];
            for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_si256((const __m256i*)(rows[down + i] + along));
            for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
            for (int i = 0; i < 8; i += 4)
                for (int j = 0; j < 2; j++) {
                    a[i + 2 * j] = _mm256_unpacklo_epi64(b[i + j], b[i + 2 + j]);
                    a[i + 2 * j + 1] = _mm256_unpackhi_epi64(b[i + j], b[i + 2 + j]);
                }
            for (int i = 0; i < 4; i++) {
                uint8_t* line = to + (along + i) * stride + down * 4;
                _mm256_storeu_si256((__m256i*)line, _mm256_permute2x128_si256(a[i], a[4 + i], 0x20));
                _mm256_storeu_si256((__m256i*)(line + 4 * stride), _mm256_permute2x128_si256(a[i], a[4 + i], 0x31));
            }
        }
}
#else
static inline void st_bf16_pairs(void* p, F lo, F hi) {
    alignas(64) uint16_t a[16], b[16];
    st_bf16(a, lo);
    st_bf16(b, hi);
    alignas(64) uint32_t w[16];
    for (int i = 0; i < 16; i++) w[i] = a[i] | (uint32_t)b[i] << 16;
    __builtin_memcpy(p, w, 64);
}
static inline void st_i8_line(int8_t* p, F a, F b, F c, F d, int flip) {
    st_i8(p, a, flip), st_i8(p + 16, b, flip), st_i8(p + 32, c, flip), st_i8(p + 48, d, flip);
}
static inline void st_turned(const uint32_t (*rows)[16], uint8_t* to, int64_t stride) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) __builtin_memcpy(to + i * stride + 4 * j, &rows[j][i], 4);
}
#endif

// A fixed tree: halves onto halves.
#if defined(BR_AVX512) || defined(BR_AVX2)
#if defined(BR_AVX512)
static inline __m256 low_half(F a) { return _mm512_castps512_ps256(a.v); }
static inline __m256 high_half(F a) { return _mm512_extractf32x8_ps(a.v, 1); }
#else
static inline __m256 low_half(F x) { return x.a; }
static inline __m256 high_half(F x) { return x.b; }
#endif
#define BR_TREE(name, op8, op4, op1)                                                        \
    static inline float name(F a) {                                                         \
        const __m256 e = op8(low_half(a), high_half(a));                                    \
        const __m128 q = op4(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));       \
        const __m128 d = op4(q, _mm_movehl_ps(q, q));                                       \
        return _mm_cvtss_f32(op1(d, _mm_shuffle_ps(d, d, 1)));                              \
    }
BR_TREE(sum, _mm256_add_ps, _mm_add_ps, _mm_add_ss)
BR_TREE(peak, _mm256_max_ps, _mm_max_ps, _mm_max_ss)
BR_TREE(highest, higher8, higher4, higher4)  // of numbers without sign
#undef BR_TREE
#else
static inline float sum(F a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.x[i] = a.x[i] + a.x[i + half];
    return a.x[0];
}
static inline float peak(F a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.x[i] = a.x[i] > a.x[i + half] ? a.x[i] : a.x[i + half];
    return a.x[0];
}
static inline float highest(F a) {  // of numbers without sign
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.x[i] = higher_one(a.x[i], a.x[i + half]);
    return a.x[0];
}
#endif

// e^x to about 1 ulp; exactly 1 at 0, about the least normal number for anything below its logarithm.
static inline F exp_not_zero(F x) {
    const F c = vmin(set1(88.7f), vmax(set1(-87.3f), x));
    const F n = vmin(rint(mul(c, set1(1.44269504f))), set1(127.0f));  // a whole number even of NaN, which r carries on
    F r = fma(n, set1(-0.693359375f), c);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    return times_pow2(add(fma(mul(r, r), p, r), set1(1.0f)), n);
}
static inline F exp(F x) { return lt(x, set1(-87.3f), zero(), exp_not_zero(x)); }
// The same for x of 0 or less in single operations, none of them fused: numpy finds the same bits with the same steps. For the
// sampler alone, which is given finite rows.
static inline F exp_unfused(F x) {
    const F low = set1(-87.3f), c = vmax(x, low), n = rint(mul(c, set1(1.44269504f)));
    const F r = add(sub(c, mul(n, set1(0.693359375f))), mul(n, set1(2.12194440e-4f)));
    F p = set1(1.9875691500e-4f);
    p = add(mul(p, r), set1(1.3981999507e-3f));
    p = add(mul(p, r), set1(8.3334519073e-3f));
    p = add(mul(p, r), set1(4.1665795894e-2f));
    p = add(mul(p, r), set1(1.6666665459e-1f));
    p = add(mul(p, r), set1(5.0000001201e-1f));
    p = add(add(mul(mul(r, r), p), r), set1(1.0f));
    return lt(x, low, zero(), times_pow2(p, n));
}
static inline F tanh(F x) {  // 1 - 2 / (e^2x + 1), and a short series near 0, where that would cancel
    const F e = exp(mul(x, set1(2.0f)));
    const F far = sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
    const F s = mul(x, x);
    F p = set1(-0.0539682540f);
    p = fma(p, s, set1(0.133333333f));
    p = fma(p, s, set1(-0.333333333f));
    return lt(abs(x), set1(0.25f), fma(mul(p, s), x, x), far);
}
// cap tanh(x / cap). An infinity would look like any large number afterwards: of it, as of NaN, x - x is NaN, and 0 otherwise.
static inline F softcapped(F x, float cap) { return sub(mul(tanh(div(x, set1(cap))), set1(cap)), sub(x, x)); }
static inline F erf(F x) {  // Abramowitz and Stegun 7.1.26, and its series near 0
    const F a = abs(x), t = div(set1(1.0f), fma(set1(0.3275911f), a, set1(1.0f)));
    F p = set1(1.061405429f);
    p = fma(p, t, set1(-1.453152027f));
    p = fma(p, t, set1(1.421413741f));
    p = fma(p, t, set1(-0.284496736f));
    p = fma(p, t, set1(0.254829592f));
    const F s = mul(x, x);
    const F far = sub(set1(1.0f), mul(mul(p, t), exp(sub(zero(), s))));
    F q = set1(-0.0008548327f);
    q = fma(q, s, set1(0.0052239776f));
    q = fma(q, s, set1(-0.0268661706f));
    q = fma(q, s, set1(0.1128379167f));
    q = fma(q, s, set1(-0.3761263890f));
    q = fma(q, s, set1(1.1283791671f));
    return lt(a, set1(0.6f), mul(q, x), lt(x, zero(), sub(zero(), far), far));
}
template <int KIND>
static inline F activate(F x) {
    if (KIND == BR_GELU) {
        const F h = mul(x, set1(0.5f));
        return fma(h, erf(mul(x, set1(0.70710678f))), h);
    }
    if (KIND == BR_GELU_TANH) {  // (1 + tanh u) / 2 is 1 / (1 + e^-2u)
        const F u = mul(mul(x, set1(-1.59576912f)), fma(mul(x, x), set1(0.044715f), set1(1.0f)));
        return div(x, add(set1(1.0f), exp_not_zero(u)));  // 1 and so little is 1
    }
    if (KIND == BR_RELU) return add(vmax(zero(), x), zero());  // the sum: -0 becomes 0
    if (KIND == BR_SILU) return div(x, add(set1(1.0f), exp_not_zero(sub(zero(), x))));
    return x;
}
