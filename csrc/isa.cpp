// What this processor has, and which path is used.
#include <cstdio>
#include <cstring>

#include "kernels.h"
#include "peak.h"

namespace brigade {
namespace {
struct Features { bool avx2, avx512, vnni, bf16, amx; };

Features read_features() {
    Features f{};
#if defined(__x86_64__)
    __builtin_cpu_init();
    f.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    f.avx512 = f.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
    f.vnni = f.avx512 && __builtin_cpu_supports("avx512vnni");
    unsigned a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    const bool amx = (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1);
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
    f.bf16 = f.vnni && (a >> 5 & 1);
    f.amx = amx && f.bf16 && amx_permitted();
#endif
    return f;
}
const Features& features() {
    static const Features f = read_features();
    return f;
}

constexpr const char* NAMES[] = {"amx", "avx512-bf16", "avx512-vnni", "avx512", "avx2", "portable"};  // fastest first

struct Choice { Path path; Peaks peaks; };

// The path of that name, where the compiler could build it and the processor has it.
bool find(const char* name, Choice& found) {
    const Features& f = features();
    const auto is = [&](const char* n) { return !std::strcmp(name, n); };
    const auto take = [&](const Path* path, const Peaks* peaks) {
        if (path && peaks) found = {*path, *peaks};
        return path && peaks;
    };
    Path& p = found.path;
    Peaks& k = found.peaks;
    if (is("amx")) {
        if (!f.amx || !amx_bf16 || !take(avx512_path, avx512_peaks)) return false;
        p.name = "amx", p.bf16_name = "bf16-amx";
        p.products = {p.products.f32, amx_bf16, amx_i8, nullptr, nullptr, nullptr, false, false};
        k.bf16 = amx_bf16_peak, k.i8 = amx_i8_peak;
    } else if (is("avx512-bf16")) {
        if (!f.bf16 || !avx512_bf16 || !take(avx512_path, avx512_peaks)) return false;
        p.name = "avx512-bf16", p.bf16_name = "bf16-avx512";
        p.products = {p.products.f32, avx512_bf16, avx512_i8, nullptr, avx512_w4, avx512_w4a8, false, true};
        k.bf16 = avx512_bf16_peak, k.i8 = avx512_i8_peak;
    } else if (is("avx512-vnni")) {
        if (!f.vnni || !avx512_i8 || !take(avx512_path, avx512_peaks)) return false;
        p.name = "avx512-vnni";
        p.products.i8 = avx512_i8, p.products.w4a8 = avx512_w4a8, p.products.i8_biased = true;
        k.i8 = avx512_i8_peak;
    } else if (is("avx512")) {
        if (!f.avx512 || !take(avx512_path, avx512_peaks)) return false;
        p.products.w4a8 = avx512_bytes_w4a8;
    } else if (is("avx2")) {
        if (!f.avx2 || !avx2_i8 || !take(avx2_path, avx2_peaks)) return false;
        p.products.i8 = avx2_i8, p.products.w4a8 = avx2_w4a8, p.products.w4_one = avx2_w4_one;
    } else if (is("portable")) {
        return take(portable_path, portable_peaks);
    } else {
        return false;
    }
    return true;
}

Choice chosen;
bool is_chosen = false;

bool choose(const char* name) {
    Choice found;
    bool there = *name && find(name, found);
    for (const char* each : NAMES) there = there || (!*name && find(each, found));
    if (there) chosen = found, is_chosen = true;
    return there;
}
}  // namespace

const Path& path() {
    if (!is_chosen) choose("");
    return chosen.path;
}
const Peaks& peaks() { return path(), chosen.peaks; }

// Each time: other libraries in the process use tiles too, and leave them released.
void enter() {
    if (amx_bf16 && path().products.bf16 == amx_bf16) amx_begin();
}
}  // namespace brigade

using namespace brigade;

extern "C" {
const char* br_describe(void) {
    static char text[96];
    const Features& f = features();
    std::snprintf(text, sizeof text, "%s%s%s%s%s", f.avx2 ? "avx2 " : "", f.avx512 ? "avx512 " : "", f.vnni ? "vnni " : "",
                  f.bf16 ? "bf16 " : "", f.amx ? "amx" : "");
    return text;
}
int br_choose_path(const char* name) { return choose(name) ? 0 : -1; }
const char* br_path(void) { return path().name; }
const char* br_bf16_of(const char* name) {
    Choice found;
    return find(name, found) ? found.path.bf16_name : nullptr;
}
const char* br_bf16_name(void) { return path().bf16_name; }
}
