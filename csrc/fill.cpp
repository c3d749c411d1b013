// How a packed panel is filled from a matrix's rows. The numbers of its 32 columns are read, rounded or quantised, each column a run
// along K, and then turned, so that the columns stand side by side. No sum is decided here but the choice of 4-bit scales.
#include <algorithm>
#include <cstring>
#include <vector>

#include "fill.h"
#include "turn.h"

namespace brigade {
namespace {
constexpr int PIECE = 512;  // numbers of a column that are turned at once: those of 32 columns stay in a core's caches
constexpr float ROUND = 12582912.0f;  // adding and taking it away rounds to the nearest integer, the even one of two

void read_numbers(const SourceRows& from, int64_t row, int64_t k, int count, float* out) {
    if (!from.is_half) {
        std::memcpy(out, (const float*)from.data + row * from.k + k, (size_t)count * 4);
        return;
    }
    const uint16_t* half = (const uint16_t*)from.data + row * from.k + k;
    for (int i = 0; i < count; i++) {
        const uint32_t u = (uint32_t)half[i] << 16;
        std::memcpy(out + i, &u, 4);
    }
}

void round_to_bf16(const float* from, int count, uint16_t* out) {
    for (int i = 0; i < count; i++) {
        uint32_t u;
        std::memcpy(&u, from + i, 4);
        out[i] = rounded_to_bf16(u);
    }
}

void read_bf16(const SourceRows& from, int64_t row, int64_t k, int count, uint16_t* out) {
    if (from.is_half) {
        const uint16_t* half = (const uint16_t*)from.data + row * from.k + k;
        for (int i = 0; i < count; i++) out[i] = (half[i] & 0x7fff) > 0x7f80 ? (uint16_t)0x7fc0 : half[i];
        return;
    }
    float numbers[PIECE];
    read_numbers(from, row, k, count, numbers);
    round_to_bf16(numbers, count, out);
}

// The greatest number without its sign. By their bits, where NaN is above all others: a scale made from it is NaN as well.
float greatest(const float* x, int64_t count) {
    int32_t most = 0;
    for (int64_t i = 0; i < count; i++) {
        int32_t u;
        std::memcpy(&u, x + i, 4);
        most = std::max(most, u & 0x7fffffff);
    }
    float found;
    std::memcpy(&found, &most, 4);
    return found;
}

// By how much a number that is held in 4 bits with the scale s is missed, squared.
inline float miss(float x, float s, float over) {
    const float v = std::max(-8.0f, std::min(7.0f, x * over + ROUND - ROUND));
    const float by = x - v * s;
    return by * by;
}

// The scale of a group in 4 bits, -8 to 7: the one whose rounded values miss the group least, in squares. Letting the largest
// be cut off pays where it stands alone. A fixed set of candidates, summed in a fixed order: the same on every machine.
float best_scale(const float* from, int count) {
    constexpr int LANES = 8, CANDIDATES = 20;
    const float most = greatest(from, count);
    float best = most, least = 0;
    for (int c = 0; most > 0 && c < CANDIDATES; c++) {
        const float s = most / 7.0f * (1.0f - 0.025f * (float)c);
        const float over = 1.0f / s;
        float lanes[LANES] = {};
        int i = 0;
        for (; i + LANES <= count; i += LANES)
            for (int lane = 0; lane < LANES; lane++) lanes[lane] += miss(from[i + lane], s, over);
        for (; i < count; i++) lanes[i % LANES] += miss(from[i], s, over);
        float total = 0;
        for (const float lane : lanes) total += lane;
        if (c == 0 || total < least) least = total, best = s;
    }
    return best;
}

// Numbers in units of `s`, as integers from `lowest` to `highest`; a scale that is 0 or no number makes zeros.
void quantise(const float* x, int count, float s, float lowest, float highest, int8_t* out) {
    if (!(s > 0)) {
        std::memset(out, 0, (size_t)count);
        return;
    }
    for (int i = 0; i < count; i++) out[i] = (int8_t)(int32_t)std::max(lowest, std::min(highest, x[i] / s + ROUND - ROUND));
}

// 32 columns of `count` words, `pitch` bytes from column to column, as lines of 32 words.
template <class Word>
void turn(const uint8_t* columns, int64_t pitch, int count, Word* out) {
    turn_rows((const Word*)columns, pitch / (int64_t)sizeof(Word), PANEL, count, out, PANEL);
}

// Four steps of K of columns c and c + 16, numbers of -8 to 7 one a byte, in half the bytes: those of c below, those of c + 16 above.
inline uint32_t two_columns(const int8_t* low, const int8_t* high) {
    uint32_t a, b;
    std::memcpy(&a, low, 4);
    std::memcpy(&b, high, 4);
    constexpr uint32_t EIGHT = 0x08080808, NIBBLE = 0x0f0f0f0f;  // -8 to 7 becomes 0 to 15: the fourth bit is turned over
    return ((a ^ EIGHT) & NIBBLE) | ((b ^ EIGHT) & NIBBLE) << 4;
}

void turn_w4a8(const int8_t* columns, int count, uint8_t* lines) {
    for (int k = 0; k < count; k += 4, lines += LINE)
        for (int column = 0; column < 16; column++) {
            const uint32_t word = two_columns(columns + column * PIECE + k, columns + (column + 16) * PIECE + k);
            std::memcpy(lines + column * 4, &word, 4);
        }
}

void turn_w4(const int8_t* columns, int count, uint8_t* lines) {  // steps 0 and 1 in the lower byte of a word, 2 and 3 in the upper
    for (int k = 0; k < count; k += 4, lines += LINE)
        for (int column = 0; column < 16; column++) {
            const uint32_t x = two_columns(columns + column * PIECE + k, columns + (column + 16) * PIECE + k);
            const uint32_t word = (x & 0xff) | (x >> 16 & 0xff) << 8 | (x >> 8 & 0xff) << 16 | (x >> 24) << 24;
            std::memcpy(lines + column * 4, &word, 4);
        }
}

// One panel on its way.
class Filling {
public:
    Filling(const BrMatrix& m, const SourceRows& from, const ColumnScales& known, const PackedArrays& to, int64_t panel)
        : m(m), from(from), known(known), to(to), panel(panel), data(to.data + panel * panel_bytes(m)) {}

    void run() {
        for (int column = 0; column < PANEL; column++) begin(column);
        for (int b = 0; b < m.blocks; b++)
            for (int k = 0; k < m.block_k; k += PIECE) piece(b, k, std::min(PIECE, m.block_k - k));
        if (to.colsum)
            for (int column = 0; column < PANEL; column++) to.colsum[panel * PANEL + column] = totals[column];
    }

private:
    int64_t padded(int column) const { return panel * PANEL + column; }

    // What belongs to the whole column: where its scale spans all of K.
    void begin(int column) {
        const int64_t n = padded(column);
        rows[column] = source_row(m, (int)n);
        if (m.kind == BR_I8 || m.kind == BR_W8) {
            units[column] = (known.most ? known.most[n] : column_most(m, from, rows[column], nullptr)) / 127.0f;
            to.scale[n] = units[column];
        } else if (m.kind == BR_W4A8) {
            const int64_t groups = groups_of(m);
            own.resize((size_t)groups * PANEL);
            float most = known.most ? known.most[n] : column_most(m, from, rows[column], own.data() + column * groups);
            bests[column] = known.most ? known.best + n * groups : own.data() + column * groups;
            to.scale[n] = units[column] = most / 16.0f;
        }
    }

    void piece(int block, int k, int count) {
        const int length = m.k / m.blocks, real = std::max(0, std::min(count, length - k));
        const int64_t at = (int64_t)block * m.block_k + k, source = (int64_t)block * length + k;
        for (int column = 0; column < PANEL; column++) stage(column, source, at, rows[column] < 0 ? 0 : real, count);
        switch (m.kind) {
            case BR_F32: turn(bytes, PIECE * 4, count, (uint32_t*)data + at * PANEL); break;
            case BR_BF16: turn(bytes, PIECE * 2, count / 2, (uint32_t*)data + at / 2 * PANEL); break;
            case BR_I8: turn(bytes, PIECE, count / 4, (uint32_t*)data + at / 4 * PANEL); break;
            case BR_W8: turn(bytes, PIECE, count / 2, (uint16_t*)data + at / 2 * PANEL); break;
            case BR_W4: turn_w4((const int8_t*)bytes, count, data + at / 4 * LINE); break;
            default:
                for (int done = 0; done < count; done += m.group) {
                    uint8_t* group = data + (at + done) / m.group * times_bytes(m.group);
                    turn_w4a8((const int8_t*)bytes + done, m.group, group + LINE);
                }
        }
    }

    // `real` numbers of a column, and zeros up to `count`.
    void stage(int column, int64_t source, int64_t at, int real, int count) {
        const int64_t row = rows[column];
        if (m.kind == BR_F32) {
            float* out = (float*)bytes + column * PIECE;
            read_numbers(from, row, source, real, out);
            std::fill(out + real, out + count, 0.0f);
        } else if (m.kind == BR_BF16) {
            uint16_t* out = (uint16_t*)bytes + column * PIECE;
            read_bf16(from, row, source, real, out);
            std::fill(out + real, out + count, (uint16_t)0);
        } else {
            float numbers[PIECE];
            int8_t* out = (int8_t*)bytes + column * PIECE;
            read_numbers(from, row, source, real, numbers);
            std::memset(out + real, 0, (size_t)(count - real));
            if (is_nibbles(m.kind)) quantise_groups(column, numbers, at, real, count, out);
            else quantise(numbers, real, units[column], -127.0f, 127.0f, out);
            if (m.kind == BR_I8)
                for (int i = 0; i < real; i++) totals[column] += out[i];
        }
    }

    void quantise_groups(int column, const float* numbers, int64_t at, int real, int count, int8_t* out) {
        for (int done = 0; done < count; done += m.group) {
            const int64_t group = (at + done) / m.group;
            const int in_group = std::max(0, std::min(m.group, real - done));
            if (m.kind == BR_W4) {
                const float s = in_group ? best_scale(numbers + done, in_group) : 0.0f;
                to.scale[(panel * groups_of(m) + group) * PANEL + column] = s;
                quantise(numbers + done, in_group, s, -8.0f, 7.0f, out + done);
                continue;
            }
            const float unit = units[column];
            const float times = unit > 0 ? std::max(1.0f, std::min(16.0f, bests[column][group] / unit + ROUND - ROUND)) : 1.0f;
            ((uint16_t*)(data + group * times_bytes(m.group)))[column] = (uint16_t)times;
            quantise(numbers + done, in_group, unit * times, -8.0f, 7.0f, out + done);
            int32_t total = 0;
            for (int i = 0; i < in_group; i++) total += out[done + i];
            totals[column] += total * (int32_t)times;
        }
    }

    const BrMatrix& m;
    const SourceRows& from;
    const ColumnScales& known;
    const PackedArrays& to;
    const int64_t panel;
    uint8_t* const data;
    int rows[PANEL];
    float units[PANEL] = {};
    const float* bests[PANEL] = {};
    int32_t totals[PANEL] = {};
    std::vector<float> own;
    alignas(64) uint8_t bytes[PANEL * PIECE * 4];
};
}  // namespace

float column_most(const BrMatrix& m, const SourceRows& from, int64_t row, float* best) {
    const int length = m.k / m.blocks, each = m.block_k / m.group;
    float numbers[PIECE], most = 0;
    if (m.kind != BR_W4A8) {
        uint32_t found = 0;
        for (int64_t k = 0; row >= 0 && k < m.k; k += PIECE) {
            const int count = (int)std::min<int64_t>(PIECE, m.k - k);
            read_numbers(from, row, k, count, numbers);
            const float here = greatest(numbers, count);
            uint32_t bits;
            std::memcpy(&bits, &here, 4);
            found = std::max(found, bits);
        }
        std::memcpy(&most, &found, 4);
        return most;
    }
    for (int64_t g = 0; g < groups_of(m); g++) {
        const int k = (int)(g % each) * m.group, count = row < 0 ? 0 : std::max(0, std::min(m.group, length - k));
        if (count) read_numbers(from, row, g / each * length + k, count, numbers);
        best[g] = best_scale(numbers, count);
    }
    return greatest(best, groups_of(m));
}

void fill_panel(const BrMatrix& m, const SourceRows& from, const ColumnScales& known, const PackedArrays& to, int64_t panel) {
    Filling(m, from, known, to, panel).run();
}
}  // namespace brigade
