/* The two passes of squeeze-excitation over a map, and their gradients: the mean of each channel, and a factor for it.
 *
 * Maps are float32 in channels-last memory (images, pixels, channels); each image is one thread's.
 */

#include <string.h>

#include "threads.h"

/* means (images, channels) */
void channel_means(const float *x, Index images, Index pixels, Index channels, float *means, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index image = 0; image < images; image++) {
        const float *restrict p = x + image * pixels * channels;
        float *restrict mean = means + image * channels;
        memset(mean, 0, channels * sizeof *mean);
        for (Index pixel = 0; pixel < pixels; pixel++, p += channels) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) mean[c] += p[c];
        }
        for (Index c = 0; c < channels; c++) mean[c] /= pixels;
    }
}

/* y = x·factor, factor (images, channels) */
void scale_channels(const float *x, const float *factors, Index images, Index pixels, Index channels, float *y,
                    int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index image = 0; image < images; image++) {
        const float *restrict p = x + image * pixels * channels, *restrict factor = factors + image * channels;
        float *restrict q = y + image * pixels * channels;
        for (Index pixel = 0; pixel < pixels; pixel++, p += channels, q += channels) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) q[c] = p[c] * factor[c];
        }
    }
}

/* The gradient of the factors: dfactors (images, channels) = sum of dy·x */
void factor_gradients(const float *x, const float *dy, Index images, Index pixels, Index channels, float *dfactors,
                      int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index image = 0; image < images; image++) {
        const float *restrict p = x + image * pixels * channels, *restrict q = dy + image * pixels * channels;
        float *restrict sum = dfactors + image * channels;
        memset(sum, 0, channels * sizeof *sum);
        for (Index pixel = 0; pixel < pixels; pixel++, p += channels, q += channels) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) sum[c] += p[c] * q[c];
        }
    }
}

/* The gradient of x, of which the means are taken too: dx = dy·factor + dmean / pixels */
void scaled_gradients(const float *dy, const float *factors, const float *dmeans, Index images, Index pixels,
                      Index channels, float *dx, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index image = 0; image < images; image++) {
        const float *restrict p = dy + image * pixels * channels, *restrict factor = factors + image * channels;
        const float *restrict dmean = dmeans + image * channels;
        float *restrict q = dx + image * pixels * channels, share = 1.0f / pixels;
        for (Index pixel = 0; pixel < pixels; pixel++, p += channels, q += channels) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) q[c] = p[c] * factor[c] + dmean[c] * share;
        }
    }
}
