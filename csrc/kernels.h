// What the interface, the layer and the packing share.
#pragma once
#include <sys/mman.h>

#include <cstdlib>

#include "path.h"
#include "pool.h"

namespace brigade {
const Path& path();  // the one in force
void enter();        // before each piece of work with products

// Memory that grows and is used again; one for each purpose and calling thread.
class Scratch {
public:
    void* get(int64_t bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = round_up(bytes + bytes / 4, bytes < HUGE_PAGE ? 4096 : HUGE_PAGE);
            data_ = std::aligned_alloc(bytes < HUGE_PAGE ? 64 : HUGE_PAGE, (size_t)size_);
            if (!data_) std::abort();
            if (bytes >= HUGE_PAGE) madvise(data_, (size_t)size_, MADV_HUGEPAGE);
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
bool takes_packed(const BrMatrix& next);  // whether a product may be written straight into next's left operand
int padded_columns(const BrMatrix& m);
}  // namespace brigade
