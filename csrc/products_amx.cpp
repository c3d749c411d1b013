// Products with AMX tiles. A tile row is computed by itself, so one row and sixteen give the same bits.
#include "path.h"
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AMX_INT8__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace brigade {
namespace {
// c 0 1 / 2 3: two groups of rows by two tiles of columns; 4 5: left; 6 7: right.
#define BR_LOAD()                                                     \
    if (carry) {                                                           \
        _tile_loadd(0, c, PANEL * 4);                                      \
        _tile_loadd(1, (char*)c + 64, PANEL * 4);                          \
        if (two) _tile_loadd(2, (char*)c + 16 * PANEL * 4, PANEL * 4);     \
        if (two) _tile_loadd(3, (char*)c + 16 * PANEL * 4 + 64, PANEL * 4); \
    } else {                                                               \
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);        \
    }
#define BR_STORE()                                                          \
    _tile_stored(0, c, PANEL * 4);                                          \
    _tile_stored(1, (char*)c + 64, PANEL * 4);                              \
    if (two) _tile_stored(2, (char*)c + 16 * PANEL * 4, PANEL * 4);         \
    if (two) _tile_stored(3, (char*)c + 16 * PANEL * 4 + 64, PANEL * 4);
#define BR_PRODUCT(name, op)                                                                                  \
    void name(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int steps, void* c, int carry, \
              const uint8_t* next) {                                                                          \
        const bool two = rows > 16;                                                                           \
        const uint8_t* ahead = next ? next : b + 8 * TILE;                                                    \
        BR_LOAD()                                                                                             \
        if (two) {                                                                                            \
            for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE) {                                       \
                _tile_loadd(6, b, 2 * LINE);                                                                      \
                _tile_loadd(7, b + LINE, 2 * LINE);                                                               \
                _tile_loadd(4, a, LINE);                                                                      \
                op(0, 4, 6);                                                                                  \
                op(1, 4, 7);                                                                                  \
                _tile_loadd(5, a + group_bytes, LINE);                                                        \
                op(2, 5, 6);                                                                                  \
                op(3, 5, 7);                                                                                  \
            }                                                                                                 \
        } else {                                                                                              \
            for (int s = 0; s < steps; s++, a += TILE, b += 2 * TILE) {                                       \
                for (int i = 0; i < 2 * TILE; i += LINE, ahead += LINE) _mm_prefetch((const char*)ahead, _MM_HINT_T0); \
                _tile_loadd(4, a, LINE);                                                                      \
                _tile_loadd(6, b, 2 * LINE);                                                                      \
                op(0, 4, 6);                                                                                  \
                _tile_loadd(7, b + LINE, 2 * LINE);                                                               \
                op(1, 4, 7);                                                                                  \
            }                                                                                                 \
        }                                                                                                     \
        BR_STORE()                                                                                            \
    }
BR_PRODUCT(bf16_product, _tile_dpbf16ps)
BR_PRODUCT(i8_product, _tile_dpbssd)
}  // namespace

const TileProduct amx_bf16 = bf16_product, amx_i8 = i8_product;

void amx_begin() {
    struct Config {
        uint8_t palette, start, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    };
    // Not on the stack: the compiler believes that only the first word is read, and drops stores to the rest.
    alignas(64) static const Config config = {
        1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&config);
}
bool amx_permitted() {
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
}
}  // namespace brigade
#else
namespace brigade {
const TileProduct amx_bf16 = nullptr, amx_i8 = nullptr;
void amx_begin() {}
bool amx_permitted() { return false; }
}  // namespace brigade
#endif
