// Short stretches of a file, many at once: a rank's columns of a matrix are a few thousand bytes of every row.
#include <cerrno>
#include <unistd.h>

#include "brigade.h"

extern "C" int64_t br_read(int file, const int64_t* starts, int64_t count, int64_t length, uint8_t* into) {
    for (int64_t i = 0; i < count; i++, into += length)
        for (int64_t done = 0; done < length;) {  // a system reads at most 2 GiB at once, and stops for a signal
            const ssize_t more = pread(file, into + done, (size_t)(length - done), (off_t)(starts[i] + done));
            if (more < 0 && errno == EINTR) continue;
            if (more <= 0) return more < 0 ? -(int64_t)errno : i * length + done;
            done += more;
        }
    return count * length;
}
