// How many multiply-adds a second the path in force can do at most, and how fast the clock runs meanwhile.
#include "peak.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "kernels.h"

namespace brigade {
namespace {
using Loop = void (*)(int64_t rounds);
constexpr double RUN = 5e-4;  // seconds: shorter than a turn of the scheduler, so that on a busy machine some runs are whole

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Each addition waits for the one before, and takes one cycle. The operands are registers: sums with a constant may be folded.
constexpr int64_t ADDS = 64;  // of a round
void add_chain(int64_t rounds) {
    uint64_t sum = 1, more = 3;
    __asm__ volatile("" : "+r"(sum), "+r"(more));
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 64
        for (int i = 0; i < ADDS; i++) {
            sum += more;
            __asm__ volatile("" : "+r"(sum));
        }
    }
}

// Rounds for about RUN seconds.
int64_t rounds_of_a_run(Loop loop) {
    for (int64_t rounds = 64;; rounds *= 4) {
        const double begun = now();
        loop(rounds);
        const double took = now() - begun;
        if (took > RUN / 8) return (int64_t)((double)rounds * RUN / took) + 1;
    }
}

// Rounds a second of each of `threads` threads at work for about `seconds`: the best run of each by its own time, of those begun when
// all were there and ended when none had left (or its first, where it has no such run). So cores that share what they have are measured sharing it, and a busy machine, on
// which they seldom run together, still shows what each can do. Threads of its own, whatever the pool has.
std::vector<double> best_rates(Loop loop, int threads, double seconds) {
    enter();
    const int64_t rounds = rounds_of_a_run(loop);
    std::atomic<int> here{0};
    std::atomic<bool> over{false};
    std::vector<double> best((size_t)threads, 0.0);
    const auto work = [&](int i) {
        enter();
        here.fetch_add(1);
        while (here.load() < threads) std::this_thread::yield();
        const double ends = now() + seconds;
        double shortest = 1e9;
        while (!over.load(std::memory_order_relaxed) || shortest == 1e9) {
            const double start = now();
            loop(rounds);
            const double end = now();
            if (shortest == 1e9 || (end - start < shortest && !over.load(std::memory_order_relaxed))) shortest = end - start;
            if (end >= ends) over = true;
        }
        best[(size_t)i] = (double)rounds / shortest;
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back(work, i);
    work(0);
    for (auto& thread : others) thread.join();
    return best;
}
}  // namespace
}  // namespace brigade

using namespace brigade;

extern "C" {
double br_peak(int kind, int threads, double seconds) {
    const Peaks& all = peaks();
    const Peak& peak = kind == BR_F32 ? all.f32 : kind == BR_BF16 ? all.bf16 : all.i8;
    double rounds = 0;
    for (double rate : best_rates(peak.loop, threads, seconds)) rounds += rate;
    return rounds * (double)peak.each;
}
double br_clock(int threads, double seconds) {
    const std::vector<double> rates = best_rates(add_chain, threads, seconds);
    return *std::max_element(rates.begin(), rates.end()) * (double)ADDS;
}
}
