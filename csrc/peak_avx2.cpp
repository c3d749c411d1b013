// The peak loops of the avx2 path. Compiled with the flags that setup.py gives this file alone.
#include "peak.h"
#if defined(__AVX2__)
#include <immintrin.h>
#define BR_AVX2
#include "peak.inc"
namespace brigade {
const Peaks* avx2_peaks = &all;
}
#else
namespace brigade {
const Peaks* avx2_peaks = nullptr;  // another architecture, or a compiler without it
}
#endif
