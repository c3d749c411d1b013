// CRC-32C, the checksum of what lies in files: of runs of bytes, as if they were one.
#include <array>
#include <cstring>

#include "brigade.h"

namespace {
constexpr uint32_t POLYNOMIAL = 0x82f63b78;  // its bits in reverse

// tables[i][b]: what the byte b becomes, followed by i zeros.
std::array<std::array<uint32_t, 256>, 8> make_tables() {
    std::array<std::array<uint32_t, 256>, 8> made{};
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t sum = b;
        for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? POLYNOMIAL : 0);
        made[0][b] = sum;
    }
    for (size_t i = 1; i < 8; i++)
        for (size_t b = 0; b < 256; b++) made[i][b] = made[i - 1][b] >> 8 ^ made[0][made[i - 1][b] & 255];
    return made;
}

uint32_t by_tables(uint32_t sum, const uint8_t* data, int64_t bytes) {
    static const auto tables = make_tables();
    for (; bytes >= 8; bytes -= 8, data += 8) {
        const uint32_t low = sum ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24);
        sum = tables[7][low & 255] ^ tables[6][low >> 8 & 255] ^ tables[5][low >> 16 & 255] ^ tables[4][low >> 24] ^ tables[3][data[4]] ^
              tables[2][data[5]] ^ tables[1][data[6]] ^ tables[0][data[7]];
    }
    for (; bytes > 0; bytes--) sum = sum >> 8 ^ tables[0][(sum ^ *data++) & 255];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(uint32_t sum, const uint8_t* data, int64_t bytes) {
    uint64_t wide = sum;
    for (; bytes >= 8; bytes -= 8, data += 8) {
        uint64_t word;
        std::memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    sum = (uint32_t)wide;
    for (; bytes > 0; bytes--) sum = __builtin_ia32_crc32qi(sum, *data++);
    return sum;
}
#endif

using Sum = uint32_t (*)(uint32_t, const uint8_t*, int64_t);
Sum best() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return by_instruction;
#endif
    return by_tables;
}
}  // namespace

extern "C" {
uint32_t br_checksum(const uint8_t* data, int64_t bytes, int64_t stride, int64_t runs) {
    static const Sum add = best();
    uint32_t sum = ~0u;
    for (int64_t run = 0; run < runs; run++) sum = add(sum, data + run * stride, bytes);
    return ~sum;
}
uint32_t br_checksum_by_tables(const uint8_t* data, int64_t bytes) { return ~by_tables(~0u, data, bytes); }
}
