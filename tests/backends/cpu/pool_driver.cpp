// For the thread sanitizer: callers on several threads who say what comes next, one who says that work comes, a pool that is resized
// under them, and a forked child.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <thread>
#include <vector>

#include "pool.h"

static const uint8_t weights[1 << 16] = {};

static bool sums_up(int64_t count, int64_t piece) {
    std::vector<int64_t> out((size_t)count, 0);
    BrAhead ahead{};  // fetched by those who are done first
    ahead.count = 2;
    for (int i = 0; i < 2; i++) ahead.data[i] = weights, ahead.bytes[i] = ahead.stride[i] = i ? 5000 : sizeof weights, ahead.runs[i] = 1;
    const auto body = [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) out[(size_t)i] += i;  // each place by one thread, once
    };
    brigade::parallel(count, piece, body, &ahead);
    int64_t total = 0;
    for (int64_t x : out) total += x;
    return total == count * (count - 1) / 2;
}

static void rest() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }  // so long that the pool's threads fall asleep

int main() {
    std::atomic<int> wrong{0};
    std::atomic<bool> ended{false};
    std::vector<std::thread> callers;
    brigade::pool_resize(3, nullptr);
    for (int t = 0; t < 3; t++)
        callers.emplace_back([&] {
            for (int i = 0; i < 200; i++) {
                wrong += !sums_up(1 + i * 5, 1 + i % 7);
                if (i % 10 == 0) rest();
            }
        });
    std::thread waker([&] { for (; !ended; rest()) brigade::pool_wake(); });
    for (int i = 0; i < 40; i++) brigade::pool_resize(1 + i % 4, nullptr);
    for (auto& t : callers) t.join();
    ended = true;
    waker.join();
    brigade::pool_resize(4, nullptr);
    const pid_t child = fork();
    if (child == 0) _exit(sums_up(997, 3) ? 0 : 1);
    int status = 0;
    waitpid(child, &status, 0);
    wrong += status != 0;
    std::printf("%d wrong\n", wrong.load());
    return wrong != 0;
}
