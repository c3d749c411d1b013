// Paged attention of a step: which positions are stored by whom, which rows and heads meet on which thread. No sum is decided here.
#include <algorithm>
#include <vector>

#include "kernels.h"

namespace brigade {
namespace {
// A span of one token: decode. If it is picked, nobody but one portion sees its keys of a head in this step.
bool stores_itself(const BrAttention& a, const BrStep& s, const Pick& pick, int span) {
    const int row = s.span_row[span];
    return s.span_row[span + 1] - row == 1 && a.heads / a.kv_heads <= GROUP_ROWS && pick.has(row);
}

// Keys and values of all spans whose portions do not store their own: items are (block, head), in the order of their rows.
void store_all(const BrAttention& a, const BrStep& s, const Pick& pick, const Heads& h) {
    struct Run { int row, block, offset, count; };  // positions of one block
    thread_local std::vector<Run> runs;
    runs.clear();
    for (int span = 0; span < s.spans; span++) {
        if (stores_itself(a, s, pick, span)) continue;
        for (int row = s.span_row[span], count; row < s.span_row[span + 1]; row += count) {
            const int at = s.positions[row], offset = at % s.block_size;
            count = std::min(s.block_size - offset, s.span_row[span + 1] - row);
            runs.push_back({row, s.blocks[s.span_table[span] + at / s.block_size], offset, count});
        }
    }
    const Run* items = runs.data();
    const bool few = s.rows < 8 * (int64_t)runs.size();
    parallel((int64_t)runs.size() * a.kv_heads, few ? a.kv_heads : 4, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            const Run& run = items[i / a.kv_heads];
            path().store_kv(a, s, h, run.row, run.block, run.offset, run.count, (int)(i % a.kv_heads));
        }
    });
}
}  // namespace

// One portion for up to 16 (token, query head) pairs of a span, of one key-value head or several; of picked tokens each has its own.
void attend_all(const BrAttention& a, const BrStep& s, const Pick& pick, const Heads& h) {
    store_all(a, s, pick, h);
    const int share = a.heads / a.kv_heads;
    thread_local std::vector<Portion> portions;
    portions.clear();
    const int fair = std::max(s.spans * a.kv_heads / (pool_size() * 4), 1);  // heads of a portion that leave some for every thread
    const auto cut = [&](int span, int first, int last) {
        const int heads = std::max(std::min(fair, GROUP_ROWS / (last - first)), 1);
        const bool stores = stores_itself(a, s, pick, span);
        for (int r = first; r < last; r += GROUP_ROWS)
            for (int head = 0; head < a.kv_heads; head += heads)
                portions.push_back({span, head, std::min(heads, a.kv_heads - head), r, std::min(GROUP_ROWS, last - r), stores});
    };
    for (int i = 0, at = 0; i < s.spans; i++) {
        const int row0 = s.span_row[i], end = s.span_row[i + 1];
        if (!pick.rows) cut(i, 0, (end - row0) * share);
        for (; pick.rows && at < pick.count && pick[at] < end; at++) cut(i, (pick[at] - row0) * share, (pick[at] - row0 + 1) * share);
    }
    const int64_t count = (int64_t)portions.size();
    const Portion* items = portions.data();
    parallel(count, std::max<int64_t>(count / (pool_size() * 16), 2), [&](int64_t first, int64_t last) {
        enter();
        for (int64_t i = first; i < last; i++)
            path().attend(path().products, a, s, items[i], i + 1 < last ? items + i + 1 : nullptr, h);
    });
}
}  // namespace brigade

using namespace brigade;

extern "C" {
void br_attend(const BrAttention* a, const BrStep* s, uint8_t* keys, uint8_t* values, const float* q, const float* k, const float* v,
               float* out) {
    const int width = a->heads * a->dim;
    attend_all(*a, *s, {nullptr, s->rows}, {{keys, values}, q, k, v, width, a->kv_heads * a->dim, out, width, nullptr});
}
}
