// What one instruction set brings: the product of a block of rows with a panel, and everything that works row by row.
#pragma once
#include "brigade.h"

namespace brigade {

constexpr int GROUP_ROWS = 16;  // rows that lie together in a packed left operand
constexpr int BLOCK_ROWS = 32;  // rows of one block product
constexpr int PANEL = 32;       // outputs of one panel
constexpr int LINE = 64;        // bytes
constexpr int TILE = 1024;      // bytes of a tile: 16 lines
constexpr int KEY_TILE = 64;    // positions that attention handles at a time

// What a nibble stands for in bf16, n - 8; twice, so that the bit above it does not matter.
alignas(64) constexpr uint16_t NIBBLES[32] = {
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
    0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};

// `static`, and members `always_inline`: each path compiles its own, with its own instructions.
static inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

static inline int64_t mass_of(float weight) { return (int64_t)(weight * 0x1p44f); }  // of a sampler's token

// Elements of the summed axis in a tile: the left operand's kind decides.
static inline int tile_k(int kind) { return kind == BR_F32 ? 16 : kind == BR_I8 ? 64 : 32; }
static inline int row_kind(int kind) { return kind == BR_W8 || kind == BR_W4 ? BR_BF16 : kind == BR_W4A8 ? BR_I8 : kind; }
static inline int element_size(int kind) { return kind == BR_F32 ? 4 : kind == BR_I8 ? 1 : 2; }

// Where a panel's bytes begin, and of W4 its scales, wherever the matrix lies.
static inline int64_t panel_place(const BrMatrix& m, int64_t panel) {
    return panel + (panel >= m.second ? m.to_second : 0) + (panel >= m.third ? m.to_third : 0);
}
static inline const uint8_t* panel_data(const BrMatrix& m, int64_t panel) { return m.data + panel_place(m, panel) * m.panel_stride; }
static inline const float* panel_scales(const BrMatrix& m, int64_t panel) { return m.scale + panel_place(m, panel) * m.scale_stride; }

// Rows packed as a left operand: [groups of 16 rows][tiles along K][16 rows][64 bytes]; K in the blocks of its matrix.
struct Rows {
    int kind, rows, k, blocks, block_k;
    uint8_t* data;
    float* scale;  // I8: one a row
    int flip;      // I8: what every byte is turned by; 0x80 makes it unsigned, 128 more than it was
    bool wide;     // BF16: rounded numbers that lie as floats, for products that have no instruction for two of them
    const float* most = nullptr;  // I8: each row's greatest number without its sign, where that is not of this part of it alone
    [[gnu::always_inline]] int tile() const { return wide ? 16 : tile_k(kind); }  // elements of K in a tile
    [[gnu::always_inline]] int64_t group_bytes() const { return (int64_t)blocks * block_k / tile() * TILE; }
};

// Passes over a run of weights (or over groups of it): at most `MOST` rows in each, and of sixteen about as many in each as in the
// others, whatever their number. Calls f(first row, how many of them as a constant, which pass).
template <int R> struct Count { static constexpr int rows = R; };
template <int MOST, class F>
static inline void in_passes(int rows, F f) {
    static_assert(MOST <= 12);
    for (int row = 0, pass = 0; row < rows; pass++) {
        const int left = (rows < 16 || row >= 16 ? rows : 16) - row, passes = (left + MOST - 1) / MOST, now = (left + passes - 1) / passes;
        switch (now) {
            case 1: f(row, Count<1>(), pass); break;
            case 2: f(row, Count<MOST < 2 ? MOST : 2>(), pass); break;
            case 3: f(row, Count<MOST < 3 ? MOST : 3>(), pass); break;
            case 4: f(row, Count<MOST < 4 ? MOST : 4>(), pass); break;
            case 5: f(row, Count<MOST < 5 ? MOST : 5>(), pass); break;
            case 6: f(row, Count<MOST < 6 ? MOST : 6>(), pass); break;
            case 7: f(row, Count<MOST < 7 ? MOST : 7>(), pass); break;
            case 8: f(row, Count<MOST < 8 ? MOST : 8>(), pass); break;
            case 9: f(row, Count<MOST < 9 ? MOST : 9>(), pass); break;
            case 10: f(row, Count<MOST < 10 ? MOST : 10>(), pass); break;
            case 11: f(row, Count<MOST < 11 ? MOST : 11>(), pass); break;
            default: f(row, Count<MOST>(), pass);
        }
        row += now;
    }
}
static inline const uint8_t* row_of(const uint8_t* a, int64_t group_bytes, int row) {
    return a + (row / 16) * group_bytes + (row % 16) * LINE;
}

// What becomes of a product. y = act(product + bias), times up where gated; then y + first, then that + second.
struct Finish {
    const float *first, *second;  // [rows, n]
    float* out;                   // [rows, n], or null
    Rows* packed;                 // or straight into the next product's left operand
    bool bare = false;            // `out` gets the sums as they are, of int8 as int32, and nothing of the above happens
};

// Product of up to 32 rows (two groups, `group_bytes` apart) with a panel, over `steps` tiles of K. c is [32][32], 4 bytes each;
// `carry`: go on from what is there. `next`: a run of the same length that will be wanted soon, or null for the one behind b.
using TileProduct = void (*)(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int steps, void* c, int carry,
                             const uint8_t* next);

// The same for few rows and a panel of nibbles, over `groups` groups of `steps` tiles, each with its scale; c is the whole sum.
using NibbleProduct = void (*)(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int groups, int steps, const float* scale,
                               float* c);

// And for nibbles that become int8: a group of K is a line of what each column's are multiplied by, 16 bits each, and its nibbles, a
// line for every pair of lines.
using TimesProduct = void (*)(const uint8_t* a, int64_t group_bytes, int rows, const uint8_t* b, int groups, int group, int32_t* c);
static inline int64_t times_bytes(int group) { return LINE + (int64_t)group * PANEL / 2; }

struct Products {
    TileProduct f32, bf16, i8;
    TileProduct w8;     // of few rows that meet int8 weights as bf16 numbers; or null: weights are expanded first
    NibbleProduct w4;   // likewise
    TimesProduct w4a8;  // likewise
    bool wide_rows;     // bf16 rows lie as floats: see `Rows`
    bool i8_biased;     // the int8 product takes its left operand with 128 added, and returns as many times the columns' sums too much
    NibbleProduct w4_one = nullptr;  // w4 of one row, where a path has better for it
};

// What attention does at once: rows first .. first + count of one span, for each of `heads` key-value heads from `head` on; a row is a
// (token, query head) pair. Heads lie side by side in the cache, so few rows of many heads walk it in long runs. `stores`: of a span of
// one token, whose key and value are in the cache only when its portion has come to their place.
struct Portion { int span, head, heads, first, count; bool stores; };

struct Cache { uint8_t *keys, *values; };  // of one layer

// A step's rows of queries, keys and values, so many floats apart, where earlier ones lie, and what attention makes of them.
struct Heads {
    Cache cache;
    const float *q, *k, *v;
    int q_stride, kv_stride;
    float* out;
    int out_stride;
    const Rows* packed;  // or straight into the next product's left operand, whose rows are the step's
};

struct Path {
    const char* name;
    const char* bf16_name;  // decides the bits of a bf16 product, so it is part of the numerics id
    Products products;
    void (*panel)(const Products&, const BrMatrix&, const Rows&, int row, int rows, int panel, const uint8_t* expanded, const Finish&);
    void (*finish)(const BrMatrix&, const float* sums, const float* row_scale, int row, int rows, int panel, const Finish&);  // of bare sums
    void (*expand)(const BrMatrix&, int panel, int first, int steps, uint8_t* out);  // W8, W4 to bf16 tiles, W4A8 to int8
    void (*put_row)(const Rows&, int row, const float* x);
    float (*most_of)(const float* x, int count);  // the greatest number without its sign; NaN is above all others
    void (*norm_row)(const BrNorm&, const float* x, float* y);
    void (*rotate_head)(float* x, const float* cos, const float* sin, int rotary, int interleaved);
    void (*activate)(int kind, const float* x, int64_t count, float* out);
    void (*clip)(float* x, int64_t count, float limit);
    void (*softcap)(float* x, int64_t count, float cap);
    void (*softmax_row)(const float* x, int width, float* out);
    int64_t (*weigh)(const float* x, int count, float greatest, float temperature, float* weights);
    int (*find)(const float* x, int count, float least, int32_t* found);
    int (*best_of)(const float* x, int count);  // the first place of the greatest number, or of the first NaN
    void (*add)(const float* a, const float* b, int64_t count, float* out);
    void (*store_kv)(const BrAttention&, const BrStep&, const Heads&, int row, int block, int offset, int count, int head);
    void (*attend)(const Products&, const BrAttention&, const BrStep&, const Portion&, const Portion* next, const Heads&);
    void (*sum_panel)(const BrMatrix&, const uint8_t* panel, const BrKeys&, uint64_t* sums);
    uint64_t (*sum_row)(const uint32_t* words, int64_t count, const uint32_t* low_keys, const uint32_t* high_keys);
};

extern const Path *portable_path, *avx2_path, *avx512_path;  // null where the compiler could not build them
extern const TileProduct amx_bf16, amx_i8, avx512_bf16, avx512_i8, avx2_i8;
extern const NibbleProduct avx512_w4, avx2_w4_one;
extern const TimesProduct avx512_w4a8, avx512_bytes_w4a8, avx2_w4a8;
void amx_begin();      // in each thread, before its first product
bool amx_permitted();  // asks the kernel once

}  // namespace brigade
