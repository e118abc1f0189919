/* Batch norm in training, with the activation behind it and the shortcut between them, in as few passes over memory
 * as there can be: two over the input forwards, two over input and gradient backwards.
 *
 * Maps are float32 in channels-last memory: ROWS = N·H·W rows of `channels` values. Each thread has the same rows in
 * every call with the same number of threads, and sums are added in the order of the threads: results are equal bit
 * for bit from run to run.
 */

#include <math.h>
#include <omp.h>

#include "activation.h"

typedef int64_t Index;

enum { BLOCK = 128 }; /* rows that are summed in float32, before the sum is added to one in float64 */

INLINE Index first_row(Index rows, int thread, int threads) { return rows * thread / threads; }

/* totals (threads, 2, channels): add up all threads' in the first's. */
static void add_totals(double *totals, Index channels, int threads) {
    for (int thread = 1; thread < threads; thread++)
        for (Index c = 0; c < 2 * channels; c++) totals[c] += totals[thread * 2 * channels + c];
}

/* Sums of (x - shift) and its square: shifted by the channel's first value, so that they do not cancel. */
INLINE void sum_block(const float *restrict x, Index rows, Index channels, const float *restrict shift,
                      float *restrict sum, float *restrict square) {
    Index row = 0;
    for (; row + 4 <= rows; row += 4) {
        const float *restrict p = x + row * channels;
#pragma omp simd
        for (Index c = 0; c < channels; c++) {
            float s = shift[c];
            float a = p[c] - s, b = p[channels + c] - s, d = p[2 * channels + c] - s, e = p[3 * channels + c] - s;
            sum[c] += (a + b) + (d + e);
            square[c] += (a * a + b * b) + (d * d + e * e);
        }
    }
    for (; row < rows; row++) {
        const float *restrict p = x + row * channels;
#pragma omp simd
        for (Index c = 0; c < channels; c++) {
            float a = p[c] - shift[c];
            sum[c] += a;
            square[c] += a * a;
        }
    }
}

INLINE void apply_rows(const float *restrict x, const float *restrict shortcut, Index rows, Index channels,
                       const float *restrict scale, const float *restrict shift, float *restrict y,
                       const int activation) {
    for (Index row = 0; row < rows; row++, x += channels, y += channels) {
        if (shortcut) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) y[c] = activate(x[c] * scale[c] + shift[c] + shortcut[c], activation);
            shortcut += channels;
        } else {
#pragma omp simd
            for (Index c = 0; c < channels; c++) y[c] = activate(x[c] * scale[c] + shift[c], activation);
        }
    }
}

/* y = activation(batch_norm(x) + shortcut); `shortcut` may be NULL.
 *
 * saved (4, channels) gets what the backward pass needs: mean, 1 / standard deviation, and the scale and shift that
 * make the normalised value of x. Running statistics are updated. totals (threads, 2, channels) and
 * sums (threads, 2, channels) are scratch.
 */
void batch_norm_forward(const float *x, const float *shortcut, Index rows, Index channels, const float *weight,
                        const float *bias, float *running_mean, float *running_variance, double momentum, double eps,
                        int activation, float *y, float *saved, double *totals, float *sums, int threads) {
    memset(totals, 0, threads * 2 * channels * sizeof *totals);
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Index end = first_row(rows, thread + 1, threads);
        double *total = totals + thread * 2 * channels;
        float *sum = sums + thread * 2 * channels;
        for (Index row = first_row(rows, thread, threads); row < end; row += BLOCK) {
            Index count = end - row < BLOCK ? end - row : BLOCK;
            memset(sum, 0, 2 * channels * sizeof *sum);
            sum_block(x + row * channels, count, channels, x, sum, sum + channels);
            for (Index c = 0; c < 2 * channels; c++) total[c] += sum[c];
        }
    }
    add_totals(totals, channels, threads);
    float *mean = saved, *inverse = saved + channels, *scale = saved + 2 * channels, *shift = saved + 3 * channels;
    for (Index c = 0; c < channels; c++) {
        double offset = totals[c] / rows, variance = totals[channels + c] / rows - offset * offset;
        variance = variance < 0 ? 0 : variance; /* NaN stays NaN */
        double centre = x[c] + offset, factor = 1 / sqrt(variance + eps);
        mean[c] = centre;
        inverse[c] = factor;
        scale[c] = weight[c] * factor;
        shift[c] = bias[c] - centre * weight[c] * factor;
        running_mean[c] += momentum * (centre - running_mean[c]);
        running_variance[c] += momentum * (variance * rows / (rows - 1) - running_variance[c]);
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Index row = first_row(rows, thread, threads), count = first_row(rows, thread + 1, threads) - row;
        Index at = row * channels;
        const float *beside = shortcut ? shortcut + at : 0;
        FOR_ACTIVATION(activation, apply_rows, x + at, beside, count, channels, scale, shift, y + at)
    }
}

/* Sums of dz and dz·(x - mean), where dz is the gradient of the normalised value. */
INLINE void sum_gradients(const float *restrict x, const float *restrict y, const float *restrict dy, Index rows,
                          Index channels, const float *restrict mean, const float *restrict scale,
                          const float *restrict shift, float *restrict sum, float *restrict product,
                          const int activation) {
    for (Index row = 0; row < rows; row++, x += channels, dy += channels) {
        if (y) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(y[c], dy[c], activation);
                sum[c] += dz;
                product[c] += dz * (x[c] - mean[c]);
            }
            y += channels;
        } else {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(x[c] * scale[c] + shift[c], dy[c], activation);
                sum[c] += dz;
                product[c] += dz * (x[c] - mean[c]);
            }
        }
    }
}

/* dx = scale·dz + slope·x + offset */
INLINE void apply_gradients(const float *restrict x, const float *restrict y, const float *restrict dy, Index rows,
                            Index channels, const float *restrict scale, const float *restrict shift,
                            const float *restrict slope, const float *restrict offset, float *restrict dx,
                            float *restrict dshortcut, const int activation) {
    for (Index row = 0; row < rows; row++, x += channels, dy += channels, dx += channels) {
        if (y) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(y[c], dy[c], activation);
                dshortcut[c] = dz;
                dx[c] = scale[c] * dz + (slope[c] * x[c] + offset[c]);
            }
            y += channels, dshortcut += channels;
        } else {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(x[c] * scale[c] + shift[c], dy[c], activation);
                dx[c] = scale[c] * dz + (slope[c] * x[c] + offset[c]);
            }
        }
    }
}

/* The gradients of x, weight, bias and, where y is given, of the shortcut.
 *
 * `y` is NULL but where an activation follows a shortcut: it must be ReLU then, whose gradient its output tells.
 * Without an activation the gradient of the shortcut is dy itself. totals (threads, 2, channels) and
 * sums (threads, 2, channels) are scratch.
 */
void batch_norm_backward(const float *x, const float *y, const float *dy, Index rows, Index channels,
                         const float *saved, int activation, float *dx, float *dshortcut, float *dweight, float *dbias,
                         double *totals, float *sums, int threads) {
    const float *mean = saved, *inverse = saved + channels, *scale = saved + 2 * channels, *shift = saved + 3 * channels;
    memset(totals, 0, threads * 2 * channels * sizeof *totals);
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Index end = first_row(rows, thread + 1, threads);
        double *total = totals + thread * 2 * channels;
        float *sum = sums + thread * 2 * channels;
        for (Index row = first_row(rows, thread, threads); row < end; row += BLOCK) {
            Index count = end - row < BLOCK ? end - row : BLOCK, at = row * channels;
            const float *output = y ? y + at : 0;
            memset(sum, 0, 2 * channels * sizeof *sum);
            FOR_ACTIVATION(activation, sum_gradients, x + at, output, dy + at, count, channels, mean, scale, shift, sum,
                           sum + channels)
            for (Index c = 0; c < 2 * channels; c++) total[c] += sum[c];
        }
    }
    add_totals(totals, channels, threads);
    float *slope = sums, *offset = sums + channels;
    for (Index c = 0; c < channels; c++) {
        double sum = totals[c] / rows, product = totals[channels + c] * inverse[c] * inverse[c] / rows;
        dbias[c] = totals[c];
        dweight[c] = totals[channels + c] * inverse[c];
        slope[c] = -scale[c] * product;
        offset[c] = -scale[c] * (sum - product * mean[c]);
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Index row = first_row(rows, thread, threads), count = first_row(rows, thread + 1, threads) - row;
        Index at = row * channels;
        const float *output = y ? y + at : 0;
        float *beside = y ? dshortcut + at : 0;
        FOR_ACTIVATION(activation, apply_gradients, x + at, output, dy + at, count, channels, scale, shift, slope, offset,
                       dx + at, beside)
    }
}
