// Preloaded: counts the mutexes that the calling thread locks.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>

static __thread long count;

int pthread_mutex_lock(pthread_mutex_t* mutex) {
    static int (*real)(pthread_mutex_t*);
    if (!real) real = (int (*)(pthread_mutex_t*))dlsym(RTLD_NEXT, "pthread_mutex_lock");
    count++;
    return real(mutex);
}
long locks_of_this_thread(void) { return count; }
