// The portable path. Compiled with the flags that setup.py gives this file alone.
#include "path.h"

#define BR_PATH_NAME "portable"
#define BR_MOST_ROWS 4
#define BR_PAIR_ROWS 0
#define BR_BOTH_ROWS 4

#include "path.inc"
namespace brigade {
const Path* portable_path = &path;
}

