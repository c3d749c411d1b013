// The peak loops of the portable path.
#include "peak.h"

#include "peak.inc"
namespace brigade {
const Peaks* portable_peaks = &all;
}
