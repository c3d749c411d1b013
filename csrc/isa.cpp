// What this processor has, and which path is used.
#include <cstdio>
#include <cstring>

#include "kernels.h"

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

Path chosen;
bool is_chosen = false;

bool choose(const char* name) {
    const Features& f = features();
    const bool any = !*name;
    const auto wanted = [&](const char* n) { return any || !std::strcmp(name, n); };
    if (wanted("amx") && f.amx && avx512_path && amx_bf16) {
        chosen = *avx512_path;
        chosen.name = "amx", chosen.bf16_name = "bf16-amx";
        chosen.products = {chosen.products.f32, amx_bf16, amx_i8, nullptr, nullptr, 0};
    } else if (wanted("avx512-bf16") && f.bf16 && avx512_path && avx512_bf16) {
        chosen = *avx512_path;
        chosen.name = "avx512-bf16", chosen.bf16_name = "bf16-avx512";
        chosen.products = {chosen.products.f32, avx512_bf16, avx512_i8, avx512_w4, avx512_w4a8, 1};
    } else if (wanted("avx512-vnni") && f.vnni && avx512_path && avx512_i8) {
        chosen = *avx512_path;
        chosen.name = "avx512-vnni";
        chosen.products = {chosen.products.f32, chosen.products.bf16, avx512_i8, nullptr, avx512_w4a8, 1};
    } else if (wanted("avx512") && f.avx512 && avx512_path) chosen = *avx512_path;
    else if (wanted("avx2") && f.avx2 && avx2_path) chosen = *avx2_path;
    else if (wanted("portable")) chosen = *portable_path;
    else return false;
    return is_chosen = true;
}
}  // namespace

const Path& path() {
    if (!is_chosen) choose("");
    return chosen;
}

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
const char* br_bf16_name(void) { return path().bf16_name; }
}
