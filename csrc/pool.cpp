#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace brigade {
namespace {
constexpr int SPINS = 4000;  // some tens of microseconds: layers follow each other faster than a thread falls asleep

// A thread's part of the items: what it has begun is what lies below `next`. On a line of its own, since only thieves share it.
struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
};

struct Pool {
    std::vector<std::thread> threads;
    std::mutex mutex, running;
    std::condition_variable wake;
    std::atomic<uint64_t> round{0};
    std::vector<Share> shares;  // of the work in hand, one for each thread
    std::atomic<int> busy{0}, size{1};  // size: the caller too
    std::atomic<bool> stop{false};
    int64_t items = 0, piece = 1;
    Work work = nullptr;
    void* context = nullptr;
    BrAhead ahead{};

    // The own share first, then what is left of the others'.
    void take(int self) {
        for (int i = 0, who = self; i < size; i++, who = who + 1 < size ? who + 1 : 0) {
            Share& from = shares[(size_t)who];
            if (i && from.next.load(std::memory_order_relaxed) >= from.end) continue;
            for (int64_t first; (first = from.next.fetch_add(piece)) < from.end;) work(context, first, first + piece < from.end ? first + piece : from.end);
        }
    }
    void live(int self, uint64_t seen) {
        for (;;) {
            for (int i = 0; i < SPINS && round.load(std::memory_order_acquire) == seen; i++) pause();
            if (round.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return round.load() != seen; });
            }
            seen++;
            if (stop.load()) return;
            const BrAhead soon = ahead;
            take(self);
            busy.fetch_sub(1, std::memory_order_release);
            fetch(self, soon, seen);
        }
    }
    // The memory would rest while a caller decides what comes next.
    void fetch(int self, const BrAhead& soon, uint64_t seen) {
        constexpr int64_t RUN = 4096, LINE = 64;
        for (int64_t i = 0; i < soon.count; i++) {
            const int64_t bytes = soon.bytes[i], whole = bytes * soon.runs[i], end = whole * (self + 1) / size;
            for (int64_t at = whole * self / size, count; at < end; at += count) {
                if (round.load(std::memory_order_acquire) != seen) return;
                const uint8_t* from = soon.data[i] + at / bytes * soon.stride[i] + at % bytes;
                count = bytes - at % bytes < RUN ? bytes - at % bytes : RUN;
                // Nearly all are of this length, which the compiler knows and unrolls.
                if (count == RUN) for (int64_t line = 0; line < RUN; line += LINE) __builtin_prefetch(from + line, 0, 2);
                else for (int64_t line = 0; line < count; line += LINE) __builtin_prefetch(from + line, 0, 2);
            }
        }
    }
    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    static void pin(pthread_t thread, int cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        pthread_setaffinity_np(thread, sizeof set, &set);
    }
    void shut() {
        if (threads.empty()) return;
        stop = true;
        announce();
        for (auto& t : threads) t.join();
        threads.clear();
        stop = false;
    }
    void announce() {
        std::lock_guard<std::mutex> lock(mutex);
        round.fetch_add(1, std::memory_order_release);
        wake.notify_all();
    }
};
Pool* in_force = nullptr;

// Never destroyed: threads may outlive static objects. A forked child has none of its parent's threads, and would wait for them
// for ever: it begins with a pool of one.
Pool& pool() {
    static const int once = (in_force = new Pool, pthread_atfork(nullptr, nullptr, [] { in_force = new Pool; }));
    (void)once;
    return *in_force;
}
}  // namespace

int pool_resize(int threads, const int32_t* cpus) {
    Pool& p = pool();
    std::lock_guard<std::mutex> guard(p.running);
    p.shut();
    const uint64_t seen = p.round.load();
    int made = 1;  // the caller
    try {
        p.shares = std::vector<Share>((size_t)threads);
        p.threads.reserve((size_t)threads);
        p.size = threads;
        for (; made < threads; made++) {
            p.threads.emplace_back([&p, made, seen] { p.live(made, seen); });
            if (cpus) Pool::pin(p.threads.back().native_handle(), cpus[made]);
        }
    } catch (const std::exception&) {  // the system gives no more: none is kept
        p.shut();
        p.size = 1;
    }
    return made;
}

int pool_size() { return pool().size; }

void pool_run(int64_t items, int64_t piece, Work work, void* context, const BrAhead* ahead) {
    if (items <= 0) return;
    Pool& p = pool();
    if (p.size == 1 || items <= piece) return work(context, 0, items);
    std::lock_guard<std::mutex> guard(p.running);
    p.items = items;
    p.piece = piece;
    p.work = work;
    p.context = context;
    p.ahead = ahead ? *ahead : BrAhead{};
    for (int i = 0; i < p.size; i++) {
        p.shares[(size_t)i].next.store(items * i / p.size, std::memory_order_relaxed);
        p.shares[(size_t)i].end = items * (i + 1) / p.size;
    }
    p.busy = (int)p.threads.size();
    p.announce();
    p.take(0);
    while (p.busy.load(std::memory_order_acquire)) Pool::pause();
}
}  // namespace brigade
