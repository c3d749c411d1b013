// The products of whole matrices: which panel with which rows on which thread. No sum is decided here.
#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace brigade {
namespace {
constexpr int FEW_ROWS = 16;                 // that wait for weights
constexpr int64_t LEFT_BYTES = 1 << 18;      // of a left operand that is walked for each panel: what a core's own cache holds
constexpr int64_t EXPANDED_BYTES = 1 << 22;  // the same of panels that are expanded: once more for each chunk of rows
}  // namespace

bool takes_packed(const BrMatrix& next) { return row_kind(next.kind) != BR_I8 && next.k == next.blocks * next.block_k; }

Rows make_rows(const BrMatrix& m, int rows, Scratch& data, Scratch& scale) {
    const Products& p = path().products;
    const int kind = row_kind(m.kind);
    Rows r{kind, rows, m.k, m.blocks, m.block_k, nullptr, nullptr, p.i8_biased ? 0x80 : 0, kind == BR_BF16 && p.wide_rows};
    r.data = (uint8_t*)data.get(round_up(rows, BLOCK_ROWS) / GROUP_ROWS * r.group_bytes());
    r.scale = (float*)scale.get(round_up(rows, BLOCK_ROWS) * 4);
    return r;
}

// Items are (chunk of rows, panel) in that order, so that of many rows each thread has its own, and of few its own run of weights:
// those come from memory, which likes long runs.
void multiply(const BrMatrix& m, const Rows& a, const Finish& f) {
    const Path& p = path();
    const int64_t panels = padded_columns(m) / PANEL;
    const bool expands = m.kind == BR_W8 || is_nibbles(m.kind);
    const int64_t own = round_up((a.rows + pool_size() - 1) / pool_size(), BLOCK_ROWS);  // of each thread, which made them
    const auto rows_in = [&](int64_t bytes) {
        return std::max<int64_t>(bytes / a.group_bytes() * GROUP_ROWS / BLOCK_ROWS * BLOCK_ROWS, BLOCK_ROWS);
    };
    const int64_t chunk = std::max(rows_in(LEFT_BYTES), expands ? std::min(rows_in(EXPANDED_BYTES), own) : 0);
    const int64_t chunks = (a.rows + chunk - 1) / chunk, tiles = (int64_t)m.blocks * m.block_k / tile_k(a.kind);
    const int64_t piece = a.rows > BLOCK_ROWS ? 1 : std::max<int64_t>(panels / (pool_size() * 8), 1);
    parallel(chunks * panels, piece, [&](int64_t first, int64_t last) {
        thread_local Scratch whole;
        enter();
        for (int64_t item = first; item < last; item++) {
            const int64_t row = item / panels * chunk, end = std::min<int64_t>(row + chunk, a.rows);
            const int panel = (int)(item % panels);
            const bool ahead = expands && end - row > BLOCK_ROWS;
            uint8_t* expanded = ahead ? (uint8_t*)whole.get(tiles * 2 * TILE) : nullptr;
            if (ahead) p.expand(m, panel, 0, (int)tiles, expanded);
            for (int64_t r = row; r < end; r += BLOCK_ROWS)
                p.panel(p.products, m, a, (int)r, (int)std::min<int64_t>(BLOCK_ROWS, end - r), panel, expanded, f);
        }
    }, a.rows <= FEW_ROWS ? m.ahead : nullptr);
}

void make_part(const BrMatrix& m, const Rows& a, void* part) { multiply(m, a, {nullptr, nullptr, (float*)part, nullptr, true}); }

void finish_whole(const BrMatrix& m, const void* whole, const float* row_scale, int rows, const Finish& f) {
    const int64_t panels = padded_columns(m) / PANEL, chunks = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    parallel(chunks * panels, std::max<int64_t>(chunks * panels / (pool_size() * 4), 1), [&](int64_t first, int64_t last) {
        for (int64_t item = first; item < last; item++) {
            const int row = (int)(item / panels) * BLOCK_ROWS;
            path().finish(m, (const float*)whole, row_scale, row, std::min(BLOCK_ROWS, rows - row), (int)(item % panels), f);
        }
    });
}

void put_all(const Rows& to, const float* x) {
    parallel(to.rows, 4, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; r++) path().put_row(to, (int)r, x + r * to.k);
    });
}
}  // namespace brigade

using namespace brigade;

extern "C" {
void br_linear(const BrMatrix* m, const float* x, int rows, float* out) {
    thread_local Scratch data, scale;
    const Rows a = make_rows(*m, rows, data, scale);
    put_all(a, x);
    multiply(*m, a, {nullptr, nullptr, out, nullptr});
}

void br_row_most(const float* x, int rows, int width, float* most) {
    for (int64_t r = 0; r < rows; r++) most[r] = path().most_of(x + r * width, width);
}

void br_linear_part(const BrMatrix* m, const float* x, int rows, const float* most, void* part, float* row_scale) {
    if (rows == 0) return;  // an expert that nobody chose; there may be no memory for its scales
    thread_local Scratch data, scale;
    Rows a = make_rows(*m, rows, data, scale);
    a.most = most;
    put_all(a, x);
    make_part(*m, a, part);
    if (a.kind == BR_I8) std::memcpy(row_scale, a.scale, sizeof(float) * (size_t)rows);
}

void br_finish(const BrMatrix* m, const void* whole, const float* row_scale, int rows, float* out) {
    finish_whole(*m, whole, row_scale, rows, {nullptr, nullptr, out, nullptr});
}
}
