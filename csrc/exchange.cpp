// Shared memory between the ranks of one host: *slots*, the exchange of the ranks that share a layer's matrices, and *rings*, streams of
// bytes from one rank to another. The memory is the caller's: no call allocates, and none takes a lock.
//
// Who has to wait looks at a counter `spins` times, then sleeps until the counter's writer wakes it; every 50 ms it looks at the stop
// word, which the leader sets when a rank is gone. Nobody pays for a wake that nobody sleeps for.
#include <atomic>
#include <cstring>

#include "brigade.h"

#if defined(__linux__)
#include <cerrno>
#include <ctime>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {
constexpr int64_t FEW = 128 << 10;  // bytes that everyone reads of all slots rather than meet twice
constexpr int64_t LINE = 16;        // numbers of a cache line: two ranks never write to one
constexpr long LONGEST_SLEEP = 50'000'000;  // nanoseconds

enum Outcome { THERE, LOST, INTERRUPTED };

uint32_t load(const BrCounter& c) { return __atomic_load_n(&c.value, __ATOMIC_SEQ_CST); }
bool reached(uint32_t value, uint32_t target) { return (int32_t)(value - target) >= 0; }  // counters may wrap around

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// After the counter has changed. A sleeper counts itself before it looks a last time, so it is seen here or it sees the change.
void wake(BrCounter& c) {
    if (__atomic_load_n(&c.sleepers, __ATOMIC_SEQ_CST)) syscall(SYS_futex, &c.value, FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
}

// Until the counter reaches the target. A signal ends the wait only where the caller can go on later.
Outcome wait_for(BrCounter& c, uint32_t target, BrWait& how, bool may_interrupt) {
    if (reached(load(c), target)) return THERE;
    const double start = now();
    Outcome outcome = LOST;
    for (int64_t i = 0; i < how.spins && outcome == LOST; i++) {
        pause();
        if (reached(load(c), target)) outcome = THERE;
    }
    if (outcome == LOST) {
        const int32_t before = __atomic_exchange_n(how.state, BR_WAITING, __ATOMIC_RELAXED);
        while (!__atomic_load_n(how.stop, __ATOMIC_ACQUIRE)) {
            const timespec most{0, LONGEST_SLEEP};
            __atomic_fetch_add(&c.sleepers, 1, __ATOMIC_SEQ_CST);
            const uint32_t seen = load(c);
            long slept = 0;
            if (!reached(seen, target)) slept = syscall(SYS_futex, &c.value, FUTEX_WAIT, seen, &most, nullptr, 0);
            const bool signal = slept == -1 && errno == EINTR;
            __atomic_fetch_sub(&c.sleepers, 1, __ATOMIC_SEQ_CST);
            if (reached(load(c), target)) {
                outcome = THERE;
                break;
            }
            if (signal && may_interrupt) {
                outcome = INTERRUPTED;
                break;
            }
        }
        __atomic_store_n(how.state, before, __ATOMIC_RELAXED);
    }
    how.seconds += now() - start;
    return outcome;
}

uint8_t* slot(const BrSlots& s, int rank, uint32_t turn) { return s.data + ((int64_t)(turn & 1) * s.size + rank) * s.slot_bytes; }
uint8_t* own_next(const BrSlots& s) { return slot(s, s.rank, s.turn + 1); }

// This rank has filled its slot of the next turn; afterwards all have. Whoever is at turn n has left turn n - 1, and so has everybody
// read the slots of turn n - 2: two slots in turn are enough.
Outcome meet(BrSlots& s) {
    const uint32_t target = ++s.turn * (uint32_t)s.size;
    if (__atomic_add_fetch(&s.arrived->value, 1, __ATOMIC_SEQ_CST) != target) return wait_for(*s.arrived, target, s.wait, false);
    wake(*s.arrived);  // the last to come
    return THERE;
}

// The upper levels of the tree for number i: neighbours first, then neighbours of those.
template <class T, int SIZE>
struct Tree {
    static T at(const T* const* from, int64_t i) { return Tree<T, SIZE / 2>::at(from, i) + Tree<T, SIZE / 2>::at(from + SIZE / 2, i); }
};
template <class T>
struct Tree<T, 1> {
    static T at(const T* const* from, int64_t i) { return from[0][i]; }
};
template <class T, int SIZE>
void add(const T* const* from, int64_t first, int64_t last, T* __restrict out) {
    const T* own[SIZE];
    for (int r = 0; r < SIZE; r++) own[r] = from[r];
    for (int64_t i = first; i < last; i++) out[i] = Tree<T, SIZE>::at(own, i);
}

template <class T>
void add_all(const BrSlots& s, int64_t first, int64_t last, T* out) {
    const T* from[8];
    for (int r = 0; r < s.size; r++) from[r] = (const T*)slot(s, r, s.turn);
    if (s.size == 2) add<T, 2>(from, first, last, out);
    else if (s.size == 4) add<T, 4>(from, first, last, out);
    else add<T, 8>(from, first, last, out);
}

int64_t border(const BrSlots& s, int64_t count, int rank) { return rank == s.size ? count : count / LINE * rank / s.size * LINE; }

template <class T>
Outcome add_piece(BrSlots& s, T* part, int64_t count) {
    std::memcpy(own_next(s), part, (size_t)count * sizeof(T));
    if (const Outcome o = meet(s)) return o;
    if (count * (int64_t)sizeof(T) * s.size <= FEW) return add_all(s, 0, count, part), THERE;
    add_all(s, border(s, count, s.rank), border(s, count, s.rank + 1), (T*)own_next(s));
    if (const Outcome o = meet(s)) return o;
    for (int r = 0; r < s.size; r++) {
        const int64_t first = border(s, count, r), last = border(s, count, r + 1);
        std::memcpy(part + first, (const T*)slot(s, r, s.turn) + first, (size_t)(last - first) * sizeof(T));
    }
    return THERE;
}

// body(first, count) for pieces that a slot holds.
template <class Body>
int32_t in_pieces(BrSlots& s, int64_t count, int64_t size, const Body& body) {
    const double start = now();
    const int64_t most = s.slot_bytes / size;
    Outcome outcome = THERE;
    for (int64_t first = 0; first < count && outcome == THERE; first += most) outcome = body(first, count - first < most ? count - first : most);
    s.calls++, s.bytes += count * size, s.seconds += now() - start;
    return outcome;
}

int32_t tree(void* state, void* part, int64_t rows, int64_t width, int32_t whole) {
    BrSlots& s = *(BrSlots*)state;
    return in_pieces(s, rows * width, 4, [&](int64_t first, int64_t count) {
        return whole ? add_piece(s, (uint32_t*)part + first, count) : add_piece(s, (float*)part + first, count);
    });
}

// Numbers that are not negative stand in the order of their bits, NaN last.
int32_t maximum(void* state, float* most, int64_t count) {
    BrSlots& s = *(BrSlots*)state;
    return in_pieces(s, count, 4, [&](int64_t first, int64_t n) {
        std::memcpy(own_next(s), most + first, (size_t)n * 4);
        if (const Outcome o = meet(s)) return o;
        uint32_t* out = (uint32_t*)(most + first);
        for (int64_t i = 0; i < n; i++) out[i] = 0;
        for (int r = 0; r < s.size; r++) {
            const uint32_t* from = (const uint32_t*)slot(s, r, s.turn);
            for (int64_t i = 0; i < n; i++) {
                const uint32_t bits = from[i] & 0x7fffffffu;
                out[i] = bits > out[i] ? bits : out[i];
            }
        }
        return THERE;
    });
}
}  // namespace

extern "C" {
int br_slots_attach(BrSlots* s, BrExchange* exchange) {
    if (s->size != 2 && s->size != 4 && s->size != 8) return -1;
    if (s->rank < 0 || s->rank >= s->size || s->slot_bytes < 64 || s->slot_bytes % 64) return -1;
    *exchange = {s->rank, s->size, s, tree, maximum};
    return 0;
}

int br_slots_gather(const BrExchange* exchange, const void* mine, int64_t bytes, void* all) {
    BrSlots& s = *(BrSlots*)exchange->state;
    return in_pieces(s, bytes, 1, [&](int64_t first, int64_t count) {
        std::memcpy(own_next(s), (const uint8_t*)mine + first, (size_t)count);
        if (const Outcome o = meet(s)) return o;
        for (int r = 0; all && r < s.size; r++) std::memcpy((uint8_t*)all + r * bytes + first, slot(s, r, s.turn), (size_t)count);
        return THERE;
    });
}

// `written` and `read` count bytes; what lies between them is on its way.
int64_t br_ring_send(BrRing* ring, const void* data, int64_t bytes) {
    int64_t done = 0;
    while (done < bytes) {
        const uint32_t written = load(*ring->written), most = (uint32_t)ring->capacity;
        if (const Outcome o = wait_for(*ring->read, written - most + 1, ring->wait, true)) return o == LOST ? -1 : done;
        const int64_t room = most - (written - load(*ring->read)), at = written % most;
        int64_t piece = bytes - done < room ? bytes - done : room;
        if (piece > most - at) piece = most - at;
        std::memcpy(ring->data + at, (const uint8_t*)data + done, (size_t)piece);
        __atomic_store_n(&ring->written->value, written + (uint32_t)piece, __ATOMIC_SEQ_CST);
        wake(*ring->written);
        done += piece;
    }
    return done;
}

int64_t br_ring_receive(BrRing* ring, void* data, int64_t bytes) {
    int64_t done = 0;
    while (done < bytes) {
        const uint32_t read = load(*ring->read), most = (uint32_t)ring->capacity;
        if (const Outcome o = wait_for(*ring->written, read + 1, ring->wait, true)) return o == LOST ? -1 : done;
        const int64_t there = load(*ring->written) - read, at = read % most;
        int64_t piece = bytes - done < there ? bytes - done : there;
        if (piece > most - at) piece = most - at;
        std::memcpy((uint8_t*)data + done, ring->data + at, (size_t)piece);
        __atomic_store_n(&ring->read->value, read + (uint32_t)piece, __ATOMIC_SEQ_CST);
        wake(*ring->read);
        done += piece;
    }
    return done;
}
}
#else  // the process group is used
extern "C" {
int br_slots_attach(BrSlots*, BrExchange*) { return -1; }
int br_slots_gather(const BrExchange*, const void*, int64_t, void*) { return -1; }
int64_t br_ring_send(BrRing*, const void*, int64_t) { return -1; }
int64_t br_ring_receive(BrRing*, void*, int64_t) { return -1; }
}
#endif
