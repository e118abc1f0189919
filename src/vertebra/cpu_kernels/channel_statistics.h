/* Means and variances of a map's channels, from sums of each thread; for inclusion in a source. */

#ifndef CHANNEL_STATISTICS_H
#define CHANNEL_STATISTICS_H

#include "threads.h"

/* totals (threads, size): the first get the sums of all threads. */
static void add_threads(double *totals, Index size, int threads) {
    for (int thread = 1; thread < threads; thread++)
        for (Index i = 0; i < size; i++) totals[i] += totals[thread * size + i];
}

/* totals (2, channels): sums of x - shift, so that they do not cancel, and of its square → statistics (2, channels): mean
 * and variance, without Bessel's correction. */
static void find_statistics(double *statistics, const double *totals, const float *shift, Index rows, Index channels) {
    for (Index c = 0; c < channels; c++) {
        double offset = totals[c] / rows, variance = totals[channels + c] / rows - offset * offset;
        statistics[c] = shift[c] + offset;
        statistics[channels + c] = variance < 0 ? 0 : variance; /* NaN stays NaN */
    }
}

#endif
