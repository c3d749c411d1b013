// The avx512 path. Compiled with the flags that setup.py gives this file alone.
#include "path.h"
#if defined(__AVX2__)
#include <immintrin.h>
#define BR_AVX512
#endif
#define BR_PATH_NAME "avx512"
#define BR_MOST_ROWS 12
#define BR_PAIR_ROWS 2
#define BR_BOTH_ROWS 12
#if defined(BR_AVX512)
#include "path.inc"
namespace brigade {
const Path* avx512_path = &path;
}
#else
namespace brigade {
const Path* avx512_path = nullptr;  // another architecture, or a compiler without it
}
#endif
