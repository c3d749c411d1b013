// Numbers of a file as a model holds them: rounded, turned where the file has them the other way round, and proven to be finite, in one
// pass over them.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <type_traits>

#include "kernels.h"
#include "turn.h"

namespace brigade {
namespace {
constexpr int TILE = 64;          // rows and columns that are turned at once: they stay in a core's first cache
constexpr int64_t RUN = 1 << 16;  // numbers of one piece of work where nothing is turned

// The bits of a float16 as those of a float32, which has all its numbers as normal ones.
uint32_t widened(uint16_t half) {
    constexpr uint32_t SHIFTED = 112u << 23, LEAST = 113u << 23;  // between the exponents; of 2^-14
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
    uint32_t bits = rest + LEAST;  // of a number without an exponent of its own: 2^-14 and it
    float number;
    std::memcpy(&number, &bits, 4);
    number -= 0x1p-14f;
    std::memcpy(&bits, &number, 4);
    if (half & 0x7c00) bits = (half & 0x7c00) == 0x7c00 ? rest | 0x7f800000 : rest + SHIFTED;
    return sign | bits;
}

template <class From, class To>
struct As;
template <class T>
struct As<T, T> { static T of(T x) { return x; } };
template <>
struct As<uint32_t, uint16_t> { static uint16_t of(uint32_t x) { return rounded_to_bf16(x); } };
template <>
struct As<uint16_t, uint32_t> { static uint32_t of(uint16_t x) { return (uint32_t)x << 16; } };
struct Half { uint16_t bits; };
template <>
struct As<Half, uint32_t> { static uint32_t of(Half x) { return widened(x.bits); } };
template <>
struct As<Half, uint16_t> { static uint16_t of(Half x) { return rounded_to_bf16(widened(x.bits)); } };

// Converts a run, or leaves it where it is if `to` is null; says whether all of its numbers are finite then.
template <class From, class To>
bool convert(const From* __restrict from, To* __restrict to, int64_t count) {
    using Signed = std::conditional_t<sizeof(To) == 2, int16_t, int32_t>;  // which every processor compares many at once
    constexpr Signed WITHOUT_SIGN = sizeof(To) == 2 ? 0x7fff : 0x7fffffff, INFINITE = sizeof(To) == 2 ? 0x7f80 : 0x7f800000;
    Signed most = 0;  // by their bits without the sign
    if (!to) {
        for (int64_t i = 0; i < count; i++) most = std::max(most, (Signed)((Signed)As<From, To>::of(from[i]) & WITHOUT_SIGN));
        return most < INFINITE;
    }
    for (int64_t i = 0; i < count; i++) {
        const To number = As<From, To>::of(from[i]);
        most = std::max(most, (Signed)((Signed)number & WITHOUT_SIGN));
        to[i] = number;
    }
    return most < INFINITE;
}

template <class From, class To>
bool hold(const From* from, To* to, int64_t rows, int64_t columns, bool is_turned) {
    std::atomic<bool> is_finite{true};
    if (!is_turned) {
        parallel((rows * columns + RUN - 1) / RUN, 1, [&](int64_t first, int64_t last) {
            const int64_t begin = first * RUN, count = std::min(last * RUN, rows * columns) - begin;
            if (!convert(from + begin, to ? to + begin : nullptr, count)) is_finite = false;
        });
        return is_finite;
    }
    parallel((rows + TILE - 1) / TILE, 1, [&](int64_t first, int64_t last) {
        To tile[TILE][TILE];
        for (int64_t row = first * TILE; row < std::min(last * TILE, rows); row += TILE) {
            const int64_t tall = std::min<int64_t>(TILE, rows - row);
            for (int64_t column = 0; column < columns; column += TILE) {
                const int64_t wide = std::min<int64_t>(TILE, columns - column);
                for (int64_t c = 0; c < wide; c++)
                    if (!convert(from + (column + c) * rows + row, tile[c], tall)) is_finite = false;
                turn_rows(&tile[0][0], TILE, wide, tall, to + row * columns + column, columns);
            }
        }
    });
    return is_finite;
}

template <class From>
bool hold_as(const void* from, void* to, bool is_half, int64_t rows, int64_t columns, bool is_turned) {
    return is_half ? hold((const From*)from, (uint16_t*)to, rows, columns, is_turned)
                   : hold((const From*)from, (uint32_t*)to, rows, columns, is_turned);
}
}  // namespace
}  // namespace brigade

using namespace brigade;

extern "C" int br_hold(const void* from, int kind, void* to, int is_half, int64_t rows, int64_t columns, int is_turned) {
    switch (kind) {
        case BR_FLOAT32: return hold_as<uint32_t>(from, to, is_half, rows, columns, is_turned);
        case BR_BFLOAT16: return hold_as<uint16_t>(from, to, is_half, rows, columns, is_turned);
        default: return hold_as<Half>(from, to, is_half, rows, columns, is_turned);
    }
}
