/* A network's own threads. The caller is thread 0; the others wait for work: they spin briefly, then sleep. */
#ifndef VK_THREADS_H
#define VK_THREADS_H

#include <stdatomic.h>

struct vk_barrier {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint generation; /* rises when all have arrived; what sleepers wait on */
    atomic_uint sleepers;
    unsigned members;
};

void vk_barrier_init(struct vk_barrier *barrier, unsigned members);
/* Returns when all members have arrived. What they wrote before is visible to all. */
void vk_barrier_wait(struct vk_barrier *barrier);

struct vk_threads;
typedef void vk_job(void *context, int rank);

/* NULL if the threads cannot be started. */
struct vk_threads *vk_threads_start(int count);
/* Runs job(context, rank) on every thread and returns when all have ended. One caller at a time: others wait.
 * In a process forked since, the threads are started anew. Returns 0, or -1 if that fails. */
int vk_threads_run(struct vk_threads *threads, vk_job *job, void *context);
void vk_threads_stop(struct vk_threads *threads);
int vk_threads_count(const struct vk_threads *threads);
/* Among all threads of a job. */
void vk_threads_meet(struct vk_threads *threads);

#endif
