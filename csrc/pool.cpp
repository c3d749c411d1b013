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
// Some 0.2 ms on Zen 5, and longer where `pause` takes longer. Layers follow each other faster than a thread falls asleep. No more,
// since a thread that spins on is made to wait where other processes want its processor, and one that slept is let in at once.
constexpr int SPINS = 8000;

// A thread's part of the items, of which first .. end are left: first in the upper half of `left`, end in the lower. The owner takes from
// the front, in one long run, and helpers take from the back. Both take half of what is left at most, so all are done at the same time.
// On a line of its own, since only helpers share it.
struct alignas(64) Share {
    std::atomic<uint64_t> left{0};

    void fill(int64_t first, int64_t end) { left.store((uint64_t)first << 32 | (uint64_t)end, std::memory_order_relaxed); }
    bool take(int64_t piece, bool own, int64_t& first, int64_t& last) {
        uint64_t now = left.load(std::memory_order_relaxed), then;
        do {
            const int64_t begin = (int64_t)(now >> 32), end = (int64_t)(now & UINT32_MAX), half = (end - begin + 1) / 2;
            if (begin >= end) return false;
            const int64_t count = half < piece ? half : piece;
            first = own ? begin : end - count;
            last = first + count;
            then = own ? (uint64_t)last << 32 | (uint64_t)end : (uint64_t)begin << 32 | (uint64_t)first;
        } while (!left.compare_exchange_weak(now, then));
        return true;
    }
};

struct Pool {
    std::vector<std::thread> threads;
    std::mutex mutex, running;
    std::condition_variable wake;
    std::atomic<uint64_t> round{0}, calls{0};  // calls: how often work was said to come soon
    std::vector<Share> shares;  // of the work in hand, one for each thread
    std::atomic<int> busy{0}, size{1};  // size: the caller too
    std::atomic<bool> stop{false};
    int64_t piece = 1;
    Work work = nullptr;
    void* context = nullptr;
    BrAhead ahead{};

    // The own share first, then what is left of the others'.
    void take(int self) {
        for (int i = 0, who = self; i < size; i++, who = who + 1 < size ? who + 1 : 0) {
            Share& from = shares[(size_t)who];
            for (int64_t first, last; from.take(piece, i == 0, first, last);) work(context, first, last);
        }
    }
    void live(int self, uint64_t seen) {
        for (;;) {
            const uint64_t heard = calls.load(std::memory_order_relaxed);
            for (int i = 0; i < SPINS && round.load(std::memory_order_acquire) == seen; i++) pause();
            if (round.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return round.load() != seen || calls.load() != heard; });
                if (round.load() == seen) continue;
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
        announce(round);
        for (auto& t : threads) t.join();
        threads.clear();
        stop = false;
    }
    void announce(std::atomic<uint64_t>& what) {  // `round` or `calls`
        std::lock_guard<std::mutex> lock(mutex);
        what.fetch_add(1, std::memory_order_release);
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

void pool_wake() {
    Pool& p = pool();
    p.announce(p.calls);
}

void pool_run(int64_t items, int64_t piece, Work work, void* context, const BrAhead* ahead) {
    if (items <= 0) return;
    Pool& p = pool();
    if (p.size == 1 || items <= piece) return work(context, 0, items);
    std::lock_guard<std::mutex> guard(p.running);
    p.piece = piece;
    p.work = work;
    p.context = context;
    p.ahead = ahead ? *ahead : BrAhead{};
    for (int i = 0; i < p.size; i++) {
        p.shares[(size_t)i].fill(items * i / p.size, items * (i + 1) / p.size);
    }
    p.busy = (int)p.threads.size();
    p.announce(p.round);
    p.take(0);
    while (p.busy.load(std::memory_order_acquire)) Pool::pause();
}
}  // namespace brigade
