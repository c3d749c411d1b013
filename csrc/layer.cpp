// Whole layers, and the single operations for whoever puts a layer together differently: the same functions, the same bits.
#include <algorithm>
#include <cstring>
#include <ctime>
#include <vector>

#include "kernels.h"

namespace brigade {
namespace {
struct Room {  // a caller's memory between the parts of a layer
    Scratch left, left_scale, mixed, mixed_scale, wide, qkv, heads, part, most, sums;
};
Room& room() {
    thread_local Room r;
    return r;
}

void norm_into(const BrNorm& norm, const float* x, const Rows& to, int width) {
    parallel(to.rows, 4, [&](int64_t first, int64_t last) {
        thread_local Scratch row;
        float* y = (float*)row.get((int64_t)width * 4);
        for (int64_t r = first; r < last; r++) {
            path().norm_row(norm, x + r * width, y);
            path().put_row(to, (int)r, y);
        }
    });
}

// The left operand of a row-parallel matrix; row r is at `at(r)`. Where ranks share a row, int8 quantises it by the greatest number of
// them all.
template <class At>
int32_t put_shared(const BrExchange* e, Rows& to, const At& at) {
    if (e && to.kind == BR_I8 && to.rows) {
        float* most = (float*)room().most.get((int64_t)to.rows * 4);
        parallel(to.rows, 4, [&](int64_t first, int64_t last) {
            for (int64_t r = first; r < last; r++) most[r] = path().most_of(at(r), to.k);
        });
        to.most = most;
        if (const int32_t lost = e->maximum(e->state, most, to.rows)) return lost;
    }
    parallel(to.rows, 4, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) path().put_row(to, (int)r, at(r));
    });
    return 0;
}

// The product of a row-parallel matrix: on one rank at once, else cut where the ranks add their parts.
int32_t multiply_shared(const BrExchange* e, const BrMatrix& m, const Rows& a, const Finish& f) {
    if (!e) return multiply(m, a, f), 0;
    if (!a.rows) return 0;
    void* sums = room().sums.get((int64_t)a.rows * m.n * 4);
    make_part(m, a, sums);
    if (const int32_t lost = e->tree(e->state, sums, a.rows, m.n, a.kind == BR_I8)) return lost;
    finish_whole(m, sums, a.scale, a.rows, f);
    return 0;
}

void norm_all(const BrNorm& norm, const float* x, int rows, float* out) {
    parallel(rows, 4, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) path().norm_row(norm, x + r * norm.size, out + r * norm.size);
    });
}

void norm_heads(const BrNorm* norm, float* x, int heads, int dim, bool each) {
    if (!norm) return;
    for (int h = 0; h < (each ? heads : 1); h++) path().norm_row(*norm, x + h * dim, x + h * dim);
}

// Rows of [q | k | v] in place: normalised, clipped, turned.
void prepare_heads(const BrAttention& a, const BrStep& s, float* qkv) {
    const int q_size = a.heads * a.dim, kv_size = a.kv_heads * a.dim, width = q_size + 2 * kv_size;
    if (!a.q_norm && !a.k_norm && a.clip <= 0 && !a.rotary) return;
    parallel(s.rows, 2, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) {
            float *q = qkv + r * width, *k = q + q_size;
            norm_heads(a.q_norm, q, a.heads, a.dim, a.norm_heads);
            norm_heads(a.k_norm, k, a.kv_heads, a.dim, a.norm_heads);
            if (a.clip > 0) path().clip(q, width, a.clip);
            const int64_t turn = (int64_t)s.positions[r] * a.rotary;
            for (int h = 0; a.rotary && h < a.heads + a.kv_heads; h++)
                path().rotate_head(q + h * a.dim, a.cos + turn, a.sin + turn, a.rotary, a.interleaved);
        }
    });
}

// x's attention, before the residual is added; straight into `f`, which has the picked rows alone, if there is no second norm.
// Returns what its exchange with other ranks returned, as everything here that may have one: of another number than 0 the step is lost.
int32_t attention_part(const BrLayer& l, const BrStep& s, const Cache& cache, const Pick& pick, const float* x, const BrNorm* norm,
                       const Finish& f) {
    Room& m = room();
    const BrAttention& a = l.attention;
    const int width = l.qkv.k, row = l.qkv.n;
    const Rows in = make_rows(l.qkv, s.rows, m.left, m.left_scale);
    if (norm) norm_into(*norm, x, in, width);
    else put_all(in, x);
    float* qkv = (float*)m.qkv.get((int64_t)s.rows * row * 4);
    multiply(l.qkv, in, {nullptr, nullptr, qkv, nullptr});
    prepare_heads(a, s, qkv);
    const int q_size = a.heads * a.dim, kv_size = a.kv_heads * a.dim;
    Rows mixed = make_rows(l.out, pick.count, m.mixed, m.mixed_scale);
    const bool straight = !pick.rows && takes_packed(l.out) && a.dim % 16 == 0;
    float* heads = straight ? nullptr : (float*)m.heads.get((int64_t)s.rows * q_size * 4);
    attend_all(a, s, pick, {cache, qkv, qkv + q_size, qkv + q_size + kv_size, row, row, heads, q_size, straight ? &mixed : nullptr});
    if (!straight) {
        const auto at = [&](int64_t r) { return heads + (int64_t)pick[(int)r] * q_size; };
        if (const int32_t lost = put_shared(l.exchange, mixed, at)) return lost;
    }
    return multiply_shared(l.exchange, l.out, mixed, f);
}

int32_t mlp_part(const BrLayer& l, int rows, const float* x, const BrNorm* norm, const Finish& f) {
    Room& m = room();
    const Rows in = make_rows(l.up, rows, m.left, m.left_scale);
    if (norm) norm_into(*norm, x, in, l.up.k);
    else put_all(in, x);
    Rows inner = make_rows(l.down, rows, m.mixed, m.mixed_scale);
    if (takes_packed(l.down) && (l.up.gated ? l.up.n / 2 : l.up.n) % 16 == 0) {
        multiply(l.up, in, {nullptr, nullptr, nullptr, &inner});
    } else {
        float* wide = (float*)m.wide.get((int64_t)rows * l.down.k * 4);
        multiply(l.up, in, {nullptr, nullptr, wide, nullptr});
        if (const int32_t lost = put_shared(l.exchange, inner, [&](int64_t r) { return wide + r * l.down.k; })) return lost;
    }
    return multiply_shared(l.exchange, l.down, inner, f);
}

void add_into(float* x, const float* y, int64_t count) {
    parallel((count + 4095) / 4096, 4, [&](int64_t first, int64_t last) {
        const int64_t at = first * 4096, n = std::min(last * 4096, count) - at;
        path().add(x + at, y + at, n, x + at);
    });
}

// Part of a step: rows first .. last, whose earlier positions are in the cache by then. A long step is cut, so that what lies
// between two products stays in a cache.
constexpr int SLICE_ROWS = 512;

struct Slice {
    std::vector<int32_t> rows, tables;
    BrStep step;
    Slice(const BrStep& s, int first, int last) : step(s) {
        if (last - first == s.rows) return;
        for (int i = 0; i < s.spans; i++) {
            const int begin = std::max(s.span_row[i], first), end = std::min(s.span_row[i + 1], last);
            if (begin >= end) continue;
            rows.push_back(begin - first);
            tables.push_back(s.span_table[i]);
        }
        step.spans = (int)rows.size();
        rows.push_back(last - first);
        step.rows = last - first;
        step.positions = s.positions + first;
        step.span_row = rows.data();
        step.span_table = tables.data();
    }
    Slice(const Slice&) = delete;  // `step` points into it
};

// `x` is what comes in, of all rows; `y` is where the picked rows are and stay: x itself if that is all of them.
int32_t layer(const BrLayer& l, const BrStep& s, const Cache& cache, const Pick& pick, const float* x, float* y) {
    Room& m = room();
    const int rows = pick.count;
    const int64_t count = (int64_t)rows * l.qkv.k;
    float* part = (float*)m.part.get(count * 4);
    int32_t lost = 0;
    if (l.norm_after) {
        if ((lost = attention_part(l, s, cache, pick, x, nullptr, {y, nullptr, y, nullptr}))) return lost;
        norm_all(l.attention_norm, y, rows, y);
        if (!l.has_mlp) return 0;
        if ((lost = mlp_part(l, rows, y, nullptr, {y, nullptr, y, nullptr}))) return lost;
        norm_all(l.mlp_norm, y, rows, y);
        return 0;
    }
    if (l.parallel) {
        if ((lost = attention_part(l, s, cache, pick, x, &l.attention_norm, {nullptr, nullptr, part, nullptr}))) return lost;
        return mlp_part(l, rows, y, &l.mlp_norm, {part, y, y, nullptr});
    }
    if (l.has_attention_post) {
        if ((lost = attention_part(l, s, cache, pick, x, &l.attention_norm, {nullptr, nullptr, part, nullptr}))) return lost;
        norm_all(l.attention_post, part, rows, part);
        add_into(y, part, count);
    } else {
        if ((lost = attention_part(l, s, cache, pick, x, &l.attention_norm, {y, nullptr, y, nullptr}))) return lost;
    }
    if (!l.has_mlp) return 0;
    if (!l.has_mlp_post) return mlp_part(l, rows, y, &l.mlp_norm, {y, nullptr, y, nullptr});
    if ((lost = mlp_part(l, rows, y, &l.mlp_norm, {nullptr, nullptr, part, nullptr}))) return lost;
    norm_all(l.mlp_post, part, rows, part);
    add_into(y, part, count);
    return 0;
}
}  // namespace
}  // namespace brigade

using namespace brigade;

extern "C" {
int br_threads(int count, int first_cpu) {
    std::vector<int32_t> cpus;
    for (int i = 0; i < count; i++) cpus.push_back(first_cpu + i);
    return pool_resize(count < 1 ? 1 : count, first_cpu < 0 ? nullptr : cpus.data());
}
int br_pin(const int32_t* cpus, int count) { return pool_resize(count < 1 ? 1 : count, cpus); }
int br_pool_size(void) { return pool_size(); }
void br_wake(void) { pool_wake(); }

int32_t br_layer(const BrLayer* l, const BrStep* s, uint8_t* keys, uint8_t* values, float* x) {
    for (int row = 0; row < s->rows; row += SLICE_ROWS) {
        const Slice slice(*s, row, std::min(row + SLICE_ROWS, s->rows));
        float* y = x + (int64_t)row * l->qkv.k;
        if (const int32_t lost = layer(*l, slice.step, {keys, values}, {nullptr, slice.step.rows}, y, y)) return lost;
    }
    return 0;
}

int32_t br_last_layer(const BrLayer* l, const BrStep* s, uint8_t* keys, uint8_t* values, const float* x, const int32_t* wanted, int count,
                      float* out) {
    const int64_t width = l->qkv.k;
    for (int i = 0; i < count; i++) std::memcpy(out + i * width, x + wanted[i] * width, sizeof(float) * (size_t)width);
    std::vector<int32_t> rows;
    rows.reserve(1);  // an address even where nothing is picked: none would mean all
    for (int row = 0, at = 0; row < s->rows; row += SLICE_ROWS) {
        const Slice slice(*s, row, std::min(row + SLICE_ROWS, s->rows));
        rows.clear();
        float* y = out + at * width;
        for (; at < count && wanted[at] < row + slice.step.rows; at++) rows.push_back(wanted[at] - row);
        const Pick pick{rows.data(), (int)rows.size()};
        if (const int32_t lost = layer(*l, slice.step, {keys, values}, pick, x + (int64_t)row * width, y)) return lost;
    }
    return 0;
}

void br_norm(const BrNorm* norm, const float* x, int rows, float* out) { norm_all(*norm, x, rows, out); }

void br_rotate(float* x, int rows, int heads, int dim, const int32_t* positions, const float* cos, const float* sin, int rotary,
               int interleaved) {
    for (int r = 0; r < rows; r++)
        for (int h = 0; h < heads; h++) {
            const int64_t turn = (int64_t)(positions ? positions[r] : r) * rotary;
            path().rotate_head(x + ((int64_t)r * heads + h) * dim, cos + turn, sin + turn, rotary, interleaved);
        }
}

void br_activate(int kind, const float* x, int64_t count, float* out) { path().activate(kind, x, count, out); }
void br_softcap(float* x, int64_t count, float cap) { path().softcap(x, count, cap); }
void br_softmax(const float* x, int rows, int width, float* out) {
    for (int64_t r = 0; r < rows; r++) path().softmax_row(x + r * width, width, out + r * width);
}

void br_embed(const uint16_t* table_bf16, const float* table_f32, int width, const int64_t* ids, int rows, int onto, float* out) {
    parallel(rows, 32, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) {
            float* to = out + r * width;
            for (int i = 0; i < width; i++) {
                float v;
                if (table_f32) {
                    v = table_f32[ids[r] * width + i];
                } else {
                    const uint32_t u = (uint32_t)table_bf16[ids[r] * width + i] << 16;
                    __builtin_memcpy(&v, &u, 4);
                }
                to[i] = onto ? to[i] + v : v;
            }
        }
    });
}

double br_read_bandwidth(const uint8_t* data, int64_t bytes) {
    timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    parallel(bytes >> 16, 16, [&](int64_t first, int64_t last) {
        uint64_t t[8] = {};
        for (const uint64_t *p = (const uint64_t*)(data + (first << 16)), *e = (const uint64_t*)(data + (last << 16)); p < e; p += 8) {
            __builtin_prefetch(p + 512);
            for (int i = 0; i < 8; i++) t[i] ^= p[i];
        }
        volatile uint64_t sink = t[0] ^ t[1] ^ t[2] ^ t[3] ^ t[4] ^ t[5] ^ t[6] ^ t[7];
        (void)sink;
    });
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
}
}
