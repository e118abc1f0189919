/* Sizes, and the shares of threads in a loop; for inclusion in a source. */

#ifndef THREADS_H
#define THREADS_H

#include <omp.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

typedef int64_t Index;

/* Share `member` of `members` of `count` things: *first … *last - 1. */
INLINE void find_share(Index *first, Index *last, Index count, Index member, Index members) {
    *first = count * member / members, *last = count * (member + 1) / members;
}

/* The share of this thread of those that there are: OpenMP may give fewer than are asked for. */
INLINE void find_own_share(Index *first, Index *last, Index count) {
    find_share(first, last, count, omp_get_thread_num(), omp_get_num_threads());
}

#endif
