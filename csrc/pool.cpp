#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace brigade {
namespace {
constexpr int SPINS = 4000;  // some tens of microseconds: layers follow each other faster than a thread falls asleep

struct Pool {
    std::vector<std::thread> threads;
    std::mutex mutex, running;
    std::condition_variable wake;
    std::atomic<uint64_t> round{0};
    std::atomic<int64_t> next{0};
    std::atomic<int> busy{0}, size{1};  // size: the caller too
    std::atomic<bool> stop{false};
    int64_t items = 0, piece = 1;
    Work work = nullptr;
    void* context = nullptr;

    void take() {
        for (int64_t first; (first = next.fetch_add(piece)) < items;) work(context, first, first + piece < items ? first + piece : items);
    }
    void live(uint64_t seen) {
        for (;;) {
            for (int i = 0; i < SPINS && round.load(std::memory_order_acquire) == seen; i++) pause();
            if (round.load(std::memory_order_acquire) == seen) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, [&] { return round.load() != seen; });
            }
            seen++;
            if (stop.load()) return;
            take();
            busy.fetch_sub(1, std::memory_order_release);
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
    for (int i = 1; i < threads; i++) {
        p.threads.emplace_back([&p, seen] { p.live(seen); });
        if (cpus) Pool::pin(p.threads.back().native_handle(), cpus[i]);
    }
    p.size = threads;
    return threads;
}

int pool_size() { return pool().size; }

void pool_run(int64_t items, int64_t piece, Work work, void* context) {
    if (items <= 0) return;
    Pool& p = pool();
    if (p.size == 1 || items <= piece) return work(context, 0, items);
    std::lock_guard<std::mutex> guard(p.running);
    p.items = items;
    p.piece = piece;
    p.work = work;
    p.context = context;
    p.next = 0;
    p.busy = (int)p.threads.size();
    p.announce();
    p.take();
    while (p.busy.load(std::memory_order_acquire)) Pool::pause();
}
}  // namespace brigade
