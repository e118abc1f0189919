#define _GNU_SOURCE
#include "threads.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* A thread that waits spins for about 30 microseconds, more than a step's imbalance, then yields for some 200 to whoever
 * wants its core, then sleeps: a caller in a loop is back with the next job before a sleeper would have woken. */
enum { SPINS = 1000, YIELDS = 500 };

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void sleep_while(atomic_uint *word, unsigned value) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
    (void)word, (void)value;
    sched_yield();
#endif
}

static void wake(atomic_uint *word, int count) {
#ifdef __linux__
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
#else
    (void)word, (void)count;
#endif
}

static void wait_while(atomic_uint *word, unsigned value, atomic_uint *sleepers) {
    for (int i = 0; i < SPINS + YIELDS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
    atomic_fetch_add(sleepers, 1); /* before the word is read again, so that who changes it sees a sleeper */
    while (atomic_load(word) == value) sleep_while(word, value);
    atomic_fetch_sub(sleepers, 1);
}

static void advance(atomic_uint *word, atomic_uint *sleepers) {
    atomic_fetch_add(word, 1);
    if (atomic_load(sleepers)) wake(word, INT_MAX);
}

void vk_barrier_init(struct vk_barrier *barrier, unsigned members) {
    atomic_init(&barrier->arrived, 0);
    atomic_init(&barrier->generation, 0);
    atomic_init(&barrier->sleepers, 0);
    barrier->members = members;
}

void vk_barrier_wait(struct vk_barrier *barrier) {
    if (barrier->members < 2) return;
    unsigned generation = atomic_load_explicit(&barrier->generation, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 == barrier->members) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        advance(&barrier->generation, &barrier->sleepers);
    } else {
        wait_while(&barrier->generation, generation, &barrier->sleepers);
    }
}

struct vk_threads {
    struct vk_barrier barrier;
    _Alignas(64) atomic_uint round; /* rises with each job */
    atomic_uint sleepers;
    _Alignas(64) atomic_uint owner; /* process that runs a job now, or 0: a lock that a fork does not leave locked */
    atomic_uint owner_sleepers;
    vk_job *job; /* NULL: end */
    void *context;
    int count, running; /* running: threads that were started, without the caller */
    int moved_from;     /* the caller's processor that the workers are kept from, or -1 */
    pid_t process;
    pthread_t *handles;
    struct worker { struct vk_threads *threads; int rank; unsigned round; } *workers;
};

static void *work(void *argument) {
    struct worker *self = argument;
    struct vk_threads *threads = self->threads;
    for (unsigned seen = self->round;; seen++) {
        wait_while(&threads->round, seen, &threads->sleepers);
        if (!threads->job) return NULL;
        threads->job(threads->context, self->rank);
        vk_barrier_wait(&threads->barrier);
    }
}

static void end_workers(struct vk_threads *threads) {
    threads->job = NULL;
    advance(&threads->round, &threads->sleepers);
    for (int i = 0; i < threads->running; i++) pthread_join(threads->handles[i], NULL);
    threads->running = 0;
}

/* Signals are the caller's: a worker takes none. */
static int start_workers(struct vk_threads *threads) {
    sigset_t all, before;
    vk_barrier_init(&threads->barrier, (unsigned)threads->count);
    atomic_store(&threads->sleepers, 0);
    threads->running = 0;
    threads->moved_from = -1;
    threads->process = getpid();
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = 0;
    for (int i = 0; i < threads->count - 1 && !failed; i++) {
        threads->workers[i] = (struct worker){threads, i + 1, atomic_load(&threads->round)};
        failed = pthread_create(&threads->handles[i], NULL, work, &threads->workers[i]);
        if (!failed) threads->running++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) end_workers(threads);
    return failed ? -1 : 0;
}

/* Keeps the workers from the caller's processor, unless there are more threads than processors. A caller that wakes a
 * worker draws it to its own processor, where both take turns for whole milliseconds before one is moved. */
static void keep_apart(struct vk_threads *threads) {
#ifdef __linux__
    cpu_set_t allowed;
    const int here = sched_getcpu();
    if (here < 0 || here == threads->moved_from) return;
    if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < threads->count) return;
    CPU_CLR(here, &allowed);
    for (int i = 0; i < threads->running; i++) pthread_setaffinity_np(threads->handles[i], sizeof allowed, &allowed);
    threads->moved_from = here;
#else
    (void)threads;
#endif
}

struct vk_threads *vk_threads_start(int count) {
    struct vk_threads *threads = aligned_alloc(64, sizeof *threads);
    if (!threads) return NULL;
    *threads = (struct vk_threads){.count = count};
    threads->handles = calloc((size_t)count, sizeof *threads->handles);
    threads->workers = calloc((size_t)count, sizeof *threads->workers);
    if (!threads->handles || !threads->workers || start_workers(threads)) {
        free(threads->handles);
        free(threads->workers);
        free(threads);
        return NULL;
    }
    return threads;
}

int vk_threads_run(struct vk_threads *threads, vk_job *job, void *context) {
    const unsigned self = (unsigned)getpid();
    unsigned owner = 0;
    while (!atomic_compare_exchange_strong(&threads->owner, &owner, self)) {
        if (owner == self) {
            wait_while(&threads->owner, self, &threads->owner_sleepers);
            owner = 0;
        } /* else a process that this one was forked from held it: take it over */
    }
    int status = 0;
    if (threads->process != (pid_t)self || threads->running < threads->count - 1) status = start_workers(threads);
    if (!status) {
        threads->job = job;
        threads->context = context;
        keep_apart(threads);
        advance(&threads->round, &threads->sleepers);
        job(context, 0);
        vk_barrier_wait(&threads->barrier);
    }
    atomic_store(&threads->owner, 0);
    if (atomic_load(&threads->owner_sleepers)) wake(&threads->owner, 1);
    return status;
}

void vk_threads_stop(struct vk_threads *threads) {
    if (!threads) return;
    if (threads->process == getpid()) end_workers(threads);
    free(threads->handles);
    free(threads->workers);
    free(threads);
}

int vk_threads_count(const struct vk_threads *threads) { return threads->count; }

void vk_threads_meet(struct vk_threads *threads) { vk_barrier_wait(&threads->barrier); }
