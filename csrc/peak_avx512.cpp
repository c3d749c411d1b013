// The peak loops of the avx512 path. Compiled with the flags that setup.py gives this file alone.
#include "peak.h"
#if defined(__AVX2__)
#include <immintrin.h>
#define BR_AVX512
#include "peak.inc"
namespace brigade {
const Peaks* avx512_peaks = &all;
}
#else
namespace brigade {
const Peaks* avx512_peaks = nullptr;  // another architecture, or a compiler without it
}
#endif
