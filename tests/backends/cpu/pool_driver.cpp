// For the thread sanitizer: callers on several threads who say what comes next, a pool that is resized under them, and a forked child.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "pool.h"

static const uint8_t weights[1 << 16] = {};

static bool sums_up(int64_t count, int64_t piece) {
    std::vector<int64_t> out((size_t)count, 0);
    const BrAhead ahead{{weights, weights}, {sizeof weights, 5000}, 2};  // fetched by those who are done first
    const auto body = [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) out[(size_t)i] += i;  // each place by one thread, once
    };
    brigade::parallel(count, piece, body, &ahead);
    int64_t total = 0;
    for (int64_t x : out) total += x;
    return total == count * (count - 1) / 2;
}

int main() {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    brigade::pool_resize(3, nullptr);
    for (int t = 0; t < 3; t++)
        callers.emplace_back([&] { for (int i = 0; i < 200; i++) wrong += !sums_up(1 + i * 5, 1 + i % 7); });
    for (int i = 0; i < 40; i++) brigade::pool_resize(1 + i % 4, nullptr);
    for (auto& t : callers) t.join();
    brigade::pool_resize(4, nullptr);
    const pid_t child = fork();
    if (child == 0) _exit(sums_up(997, 3) ? 0 : 1);
    int status = 0;
    waitpid(child, &status, 0);
    wrong += status != 0;
    std::printf("%d wrong\n", wrong.load());
    return wrong != 0;
}
