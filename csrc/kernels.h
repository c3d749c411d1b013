// What the interface, the layer and the packing share.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "path.h"
#include "pool.h"

namespace brigade {
const Path& path();  // the one in force
void enter();        // before each piece of work with products

// The bits of a float32 to those of a bfloat16: to nearest even; a NaN stays one.
static inline uint16_t rounded_to_bf16(uint32_t u) {
    const bool is_nan = (int32_t)(u & 0x7fffffff) > 0x7f800000;  // of signed integers, which every processor compares many at once
    return (uint16_t)(is_nan ? 0x7fc0 : (u + ((u >> 16) & 1) + 0x7fff) >> 16);
}

// Memory that grows and is used again; one for each purpose and calling thread.
class Scratch {
public:
    void* get(int64_t bytes) {
        if (bytes > size_) {
            std::free(data_);
            const bool huge = bytes >= HUGE_PAGE;
            size_ = round_up(bytes + bytes / 4, huge ? HUGE_PAGE : 4096);
#if defined(__SANITIZE_ADDRESS__)
            size_ = bytes;  // no slack in which a byte too far would go unseen
#endif
            if (posix_memalign(&data_, huge ? HUGE_PAGE : 64, (size_t)size_)) std::abort();
            if (huge) madvise(data_, (size_t)size_, MADV_HUGEPAGE);
            __builtin_memset(data_, 0, (size_t)size_);
        }
        return data_;
    }
    ~Scratch() { std::free(data_); }

private:
    static constexpr int64_t HUGE_PAGE = 2 << 20;
    void* data_ = nullptr;
    int64_t size_ = 0;
};

Rows make_rows(const BrMatrix& m, int rows, Scratch& data, Scratch& scale);  // the left operand that m wants
void multiply(const BrMatrix& m, const Rows& a, const Finish& f);

// A product whose sums are spread over ranks has three steps, the nodes that a layout may put other work between. This rank's blocks:
void make_part(const BrMatrix& m, const Rows& a, void* part);  // [rows, n]: float32, of int8 rows int32
// ... `BrExchange::tree`, which makes of all ranks' parts the whole sums; and what follows a sum (`row_scale`: of the left operand):
void finish_whole(const BrMatrix& m, const void* whole, const float* row_scale, int rows, const Finish& f);
void put_all(const Rows& to, const float* x);  // x [rows, k]
bool takes_packed(const BrMatrix& next);  // whether a product may be written straight into next's left operand
int padded_columns(const BrMatrix& m);
inline bool is_nibbles(int kind) { return kind == BR_W4 || kind == BR_W4A8; }

// Some rows of a step, in order; null `rows` means all.
struct Pick {
    const int32_t* rows;
    int count;
    int operator[](int i) const { return rows ? rows[i] : i; }
    bool has(int row) const { return !rows || std::binary_search(rows, rows + count, row); }
};

void attend_all(const BrAttention& a, const BrStep& s, const Pick& pick, const Heads& h);  // `pick`: whose results are wanted
}  // namespace brigade
