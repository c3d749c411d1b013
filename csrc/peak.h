// The most that a path's instructions can do: loops that multiply and add in registers, and touch no memory.
#pragma once
#include <cstdint>

namespace brigade {

struct Peak {
    void (*loop)(int64_t rounds);
    int64_t each;  // multiply-adds of a round
};
struct Peaks { Peak f32, bf16, i8; };

// Null, and loops that are null, where the compiler could not build them.
extern const Peaks *portable_peaks, *avx2_peaks, *avx512_peaks;
extern const Peak avx512_bf16_peak, avx512_i8_peak, amx_bf16_peak, amx_i8_peak;

const Peaks& peaks();  // of the path in force
}  // namespace brigade
