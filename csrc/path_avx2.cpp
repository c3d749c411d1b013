// The avx2 path. Compiled with the flags that setup.py gives this file alone.
#include "path.h"
#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define BR_AVX2
#endif
#define BR_PATH_NAME "avx2"
#define BR_MOST_ROWS 6
#define BR_PAIR_ROWS 0
#define BR_BOTH_ROWS 2
#if defined(BR_AVX2)
#include "path.inc"
namespace brigade {
const Path* avx2_path = &path;
}
#else
namespace brigade {
const Path* avx2_path = nullptr;  // another architecture, or a compiler without it
}
#endif
