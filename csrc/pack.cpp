// How a matrix lies: packing its numbers, finding them again, and cutting a part out of it. No sum is decided here.
#include <algorithm>
#include <cstring>

#include "fill.h"

namespace brigade {
static int weight_bits(int kind) { return kind == BR_F32 ? 32 : kind == BR_BF16 ? 16 : kind == BR_W4 ? 4 : 8; }
int64_t groups_of(const BrMatrix& m) { return is_nibbles(m.kind) ? (int64_t)m.blocks * m.block_k / m.group : 1; }

int64_t panel_bytes(const BrMatrix& m) {
    if (m.kind == BR_W4A8) return groups_of(m) * times_bytes(m.group);
    return (int64_t)m.blocks * m.block_k * PANEL * weight_bits(m.kind) / 8;
}

// The source row of padded column n, or -1: gated panels hold 16 gate rows, then the 16 up rows that belong to them.
int source_row(const BrMatrix& m, int n) {
    if (!m.gated) return n < m.n ? n : -1;
    const int half = m.n / 2, at = n / PANEL * 16 + n % 16;
    return at < half ? at + (n % PANEL >= 16 ? half : 0) : -1;
}

namespace {
// Where an element stands, in units of its kind, in the panel.
int64_t place(const BrMatrix& m, int column, int64_t k) {
    const int per = tile_k(row_kind(m.kind)), words = per / 16;
    const int64_t line = k / words * 2 + column / 16;
    const int word = column % 16, sub = (int)(k % words);
    if (m.kind == BR_W4A8) return (k / m.group * times_bytes(m.group) + LINE + k % m.group / 4 * LINE + word * 4 + sub) * 2 + column / 16;
    if (m.kind == BR_W4) return (line / 4 * 32 + word * 2 + sub) * 4 + line % 4;  // nibble of a 16-bit word
    return line * per + word * words + sub;
}

float take(const BrMatrix& m, const uint8_t* panel, int64_t at) {
    uint32_t u;
    float v;
    switch (m.kind) {
        case BR_F32: return ((const float*)panel)[at];
        case BR_BF16: u = (uint32_t)((const uint16_t*)panel)[at] << 16; std::memcpy(&v, &u, 4); return v;
        case BR_W4:
        case BR_W4A8: return (float)((panel[at / 2] >> (at % 2 * 4) & 15) - 8);
        default: return (float)((const int8_t*)panel)[at];
    }
}
float* scale_at(const BrMatrix& m, float* scale, int n, int64_t k) {
    return m.kind == BR_W4 ? scale + panel_place(m, n / PANEL) * m.scale_stride + k / m.group * PANEL + n % PANEL : scale + n;
}

uint16_t& times_at(const BrMatrix& m, uint8_t* panel, int64_t k, int column) {
    return ((uint16_t*)(panel + k / m.group * times_bytes(m.group)))[column];
}

// Columns of a whole matrix that stand together there as they shall here.
bool is_whole_panel(const int32_t* source) {
    for (int column = 0; column < PANEL; column++)
        if (source[column] != source[0] + column) return false;
    return source[0] >= 0 && source[0] % PANEL == 0;
}

// One column of a run of lines of nibbles: four steps of K in each, in the lower or the upper halves of four bytes.
void copy_nibbles(const uint8_t* from, int there, uint8_t* to, int column, int64_t lines) {
    constexpr uint32_t LOW = 0x0f0f0f0f;
    const int right = there / 16 * 4, left = column / 16 * 4;
    from += there % 16 * 4, to += column % 16 * 4;
    for (int64_t line = 0; line < lines; line++, from += LINE, to += LINE) {
        uint32_t found, old;
        std::memcpy(&found, from, 4);
        std::memcpy(&old, to, 4);
        old = (old & ~(LOW << left)) | (found >> right & LOW) << left;
        std::memcpy(to, &old, 4);
    }
}

// The same of what is no nibble: words of 16 columns a line, two lines for each step along K.
void copy_words(const uint8_t* from, int there, uint8_t* to, int column, int64_t steps, int word) {
    from += there * word, to += column * word;
    for (int64_t step = 0; step < steps; step++, from += PANEL * word, to += PANEL * word) {
        if (word == 4) std::memcpy(to, from, 4);
        else std::memcpy(to, from, 2);
    }
}

// A panel of `to`, column by column; one whose source is below 0 is filling.
void cut_columns(const BrMatrix& from, const BrMatrix& to, const int32_t* source, int first_block, uint8_t* data) {
    const int64_t length = (int64_t)to.blocks * to.block_k, skipped = panel_bytes(to) / to.blocks * first_block;
    const int words = tile_k(row_kind(to.kind)) / 16;
    std::memset(data, is_nibbles(to.kind) ? 0x88 : 0, (size_t)panel_bytes(to));
    for (int column = 0; column < PANEL; column++) {
        const int n = source[column], there = n % PANEL;
        const uint8_t* run = n < 0 ? nullptr : panel_data(from, n / PANEL) + skipped;
        for (int64_t k = 0; to.kind == BR_W4A8 && k < length; k += to.group) {
            times_at(to, data, k, column) = run ? times_at(from, (uint8_t*)run, k, there) : (uint16_t)1;
            const int64_t at = k / to.group * times_bytes(to.group) + LINE;
            if (run) copy_nibbles(run + at, there, data + at, column, to.group / 4);
        }
        if (run && to.kind == BR_W4) copy_nibbles(run, there, data, column, length / 4);
        if (run && !is_nibbles(to.kind)) copy_words(run, there, data, column, length / words, words * weight_bits(to.kind) / 8);
    }
}

void cut_scales(const BrMatrix& from, const BrMatrix& to, const int32_t* source, int first_block, int panel) {
    const int64_t length = to.kind == BR_W4 ? (int64_t)to.blocks * to.block_k : 1, skipped = (int64_t)first_block * to.block_k;
    for (int64_t k = 0; to.kind >= BR_I8 && k < length; k += to.group)
        for (int column = 0; column < PANEL; column++) {
            const int n = source[column];
            *scale_at(to, (float*)to.scale, panel * PANEL + column, k) = n < 0 ? 0.0f : *scale_at(from, (float*)from.scale, n, skipped + k);
        }
}

// The sums of a panel's columns, each a run of int8 numbers: what `colsum` holds.
void sum_columns(const BrMatrix& m, const uint8_t* panel, int32_t* sums) {
    std::fill(sums, sums + PANEL, 0);
    // Two numbers of a column at once, in 16 bits, which have room for 127 such pairs.
    if (m.kind == BR_I8) {
        constexpr int PAIRS = 64;
        const int64_t lines = panel_bytes(m) / (2 * LINE);
        for (int64_t first = 0; first < lines; first += PAIRS) {
            int16_t part[LINE] = {};
            for (int64_t line = first; line < std::min(first + PAIRS, lines); line++)
                for (int i = 0; i < LINE; i++) {
                    const int8_t* pair = (const int8_t*)panel + line * 2 * LINE + 2 * i;
                    part[i] = (int16_t)(part[i] + pair[0] + pair[1]);
                }
            for (int i = 0; i < LINE; i++) sums[i / 2] += part[i];
        }
        return;
    }
    for (const uint8_t* group = panel; group < panel + panel_bytes(m); group += times_bytes(m.group)) {
        uint16_t low[LINE / 2] = {}, high[LINE / 2] = {};
        for (const uint8_t* line = group + LINE; line < group + times_bytes(m.group); line += LINE)
            for (int i = 0; i < LINE / 2; i++) {
                low[i] = (uint16_t)(low[i] + (line[2 * i] & 15) + (line[2 * i + 1] & 15));
                high[i] = (uint16_t)(high[i] + (line[2 * i] >> 4) + (line[2 * i + 1] >> 4));
            }
        for (int column = 0; column < PANEL; column++) {
            const uint16_t* part = (column < 16 ? low : high) + column % 16 * 2;
            sums[column] += (part[0] + part[1] - 8 * m.group) * ((const uint16_t*)group)[column];
        }
    }
}
}  // namespace

int padded_columns(const BrMatrix& m) { return (int)(m.gated ? round_up(m.n / 2, 16) * 2 : round_up(m.n, PANEL)); }
}  // namespace brigade

using namespace brigade;

extern "C" {
void br_pack_size(const BrMatrix* m, int64_t* data_bytes, int64_t* scale_floats) {
    *data_bytes = panel_bytes(*m) * (padded_columns(*m) / PANEL);
    *scale_floats = m->kind < BR_I8 ? 0 : padded_columns(*m) * (m->kind == BR_W4 ? groups_of(*m) : 1);
}

void br_lay(BrMatrix* m) {
    m->second = m->third = BR_NO_RUN;
    m->to_second = m->to_third = 0;
    m->panel_stride = panel_bytes(*m);
    m->scale_stride = m->kind == BR_W4 ? groups_of(*m) * PANEL : 0;
}

void br_column_most(const BrMatrix* m, const void* weight, int is_half, float* most, float* best) {
    const SourceRows from{weight, is_half != 0, m->k};
    parallel(padded_columns(*m), PANEL, [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; n++)
            most[n] = column_most(*m, from, source_row(*m, (int)n), best ? best + n * groups_of(*m) : nullptr);
    });
}

void br_pack(BrMatrix* m, const void* weight, int is_half, uint8_t* data, float* scale, int32_t* colsum, const float* most, const float* best) {
    const SourceRows from{weight, is_half != 0, m->k};
    parallel(padded_columns(*m) / PANEL, 1, [&](int64_t first, int64_t last) {
        for (int64_t panel = first; panel < last; panel++) fill_panel(*m, from, {most, best}, {data, scale, colsum}, panel);
    });
}

void br_unpack(const BrMatrix* m, float* weight) {
    const int length = m->k / m->blocks;
    for (int n = 0; n < padded_columns(*m); n++) {
        const int row = source_row(*m, n);
        if (row < 0) continue;
        for (int b = 0; b < m->blocks; b++)
            for (int k = 0; k < length; k++) {
                const int64_t at = (int64_t)b * m->block_k + k;
                const uint8_t* panel = panel_data(*m, n / PANEL);
                float v = take(*m, panel, place(*m, n % PANEL, at));
                if (m->kind == BR_W4A8) v *= (float)times_at(*m, (uint8_t*)panel, at, n % PANEL);
                weight[(int64_t)row * m->k + b * length + k] = m->kind >= BR_I8 ? v * *scale_at(*m, (float*)m->scale, n, at) : v;
            }
    }
}

// A panel whose columns stand together in both is one run of bytes: whole blocks follow each other.
void br_cut(const BrMatrix* from, BrMatrix* to, const int32_t* columns, int first_block) {
    const int64_t bytes = panel_bytes(*to), skipped = bytes / to->blocks * first_block;
    parallel(padded_columns(*to) / PANEL, 1, [&](int64_t first, int64_t last) {
        for (int64_t panel = first; panel < last; panel++) {
            const int32_t* source = columns + panel * PANEL;
            uint8_t* data = (uint8_t*)to->data + panel * bytes;
            if (is_whole_panel(source)) std::memcpy(data, panel_data(*from, source[0] / PANEL) + skipped, (size_t)bytes);
            else cut_columns(*from, *to, source, first_block, data);
            cut_scales(*from, *to, source, first_block, (int)panel);
            if (to->colsum) sum_columns(*to, data, (int32_t*)to->colsum + panel * PANEL);
        }
    });
}

void br_column_sums(const BrMatrix* m, int32_t* sums) {
    parallel(padded_columns(*m) / PANEL, 1, [&](int64_t first, int64_t last) {
        for (int64_t panel = first; panel < last; panel++) sum_columns(*m, panel_data(*m, panel), sums + panel * PANEL);
    });
}
}
