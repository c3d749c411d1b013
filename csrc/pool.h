// One pool of threads for the process. Of the items of a piece of work each thread has a share, always the same part in their order, so
// that rows which one thread made are read by it again: cores need not share a cache. It is taken in small pieces, and who is done
// helps the others, so a slow core does less. There are fewer than 2^32 items.
#pragma once
#include <cstdint>

#include "brigade.h"

namespace brigade {
using Work = void (*)(void* context, int64_t first, int64_t last);

// `cpus`: one for each thread, the caller's first, which stays unpinned; or null. Returns how many threads there could be: where that
// is less than was asked for, the pool has one.
int pool_resize(int threads, const int32_t* cpus);
int pool_size();
void pool_wake();  // work comes within some tens of microseconds: a thread that sleeps takes 50 to 100 to wake
// `ahead`, or null: while a thread waits after this work, it fetches its share of it.
void pool_run(int64_t items, int64_t piece, Work work, void* context, const BrAhead* ahead);

template <class Body>
void parallel(int64_t items, int64_t piece, const Body& body, const BrAhead* ahead = nullptr) {  // body(first, last)
    pool_run(items, piece, [](void* c, int64_t f, int64_t l) { (*static_cast<const Body*>(c))(f, l); }, (void*)&body, ahead);
}
}  // namespace brigade
