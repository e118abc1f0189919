/* Batch norm in training, with the activation behind it and the shortcut between them, in as few passes over memory
 * as there can be: two over the input forwards, two over input and gradient backwards.
 *
 * Maps are float32 in channels-last memory: ROWS = N·H·W rows of `channels` values. The input may be a concatenation of
 * several maps, its pieces, which is not made: each piece is read where it is, and its part of the output written. Each
 * thread has the same rows in every call with the same number of threads, and sums are added in the order of the
 * threads: results are equal bit for bit from run to run.
 */

#include <math.h>

#include "activation.h"
#include "channel_statistics.h"

enum { BLOCK = 128 }; /* rows that are summed in float32, before the sum is added to one in float64 */

/* A layer's maps, and what its passes take of each channel; NULL where there is none. */
typedef struct {
    Index rows, channels, width; /* width: channels of all pieces, the distance of rows of the output and its gradient */
    int activation, threads;
    const float *x, *shortcut, *y, *dy;
    const float *mean, *scale, *shift, *slope, *offset;
    float *out, *out_shortcut;
} Pass;

/* Adds `count` rows from the `first` on to sums (2, channels), or writes them. */
typedef void Rows(const Pass *pass, Index first, Index count, float *sums);

/* The first (2, channels) of totals (threads, 2, channels) get the sums; sums (threads, 2, channels) is scratch. */
static void sum_rows(const Pass *pass, Rows *add, double *totals, float *sums) {
    Index size = 2 * pass->channels;
    memset(totals, 0, pass->threads * size * sizeof *totals);
#pragma omp parallel num_threads(pass->threads)
    {
        Index first, end, thread = omp_get_thread_num();
        find_own_share(&first, &end, pass->rows);
        double *total = totals + thread * size;
        float *sum = sums + thread * size;
        for (Index row = first; row < end; row += BLOCK) {
            memset(sum, 0, size * sizeof *sum);
            add(pass, row, end - row < BLOCK ? end - row : BLOCK, sum);
            for (Index c = 0; c < size; c++) total[c] += sum[c];
        }
    }
    add_threads(totals, size, pass->threads);
}

static void write_rows(const Pass *pass, Rows *write) {
#pragma omp parallel num_threads(pass->threads)
    {
        Index first, end;
        find_own_share(&first, &end, pass->rows);
        for (Index row = first; row < end; row += BLOCK)
            write(pass, row, end - row < BLOCK ? end - row : BLOCK, 0);
    }
}

/* Sums of (x - shift) and its square: shifted by the channel's first value, so that they do not cancel. */
static void sum_values(const Pass *pass, Index first, Index count, float *sums) {
    Index channels = pass->channels, row = 0;
    const float *restrict shift = pass->x, *restrict p = pass->x + first * channels;
    float *restrict sum = sums, *restrict square = sums + channels;
    for (; row + 4 <= count; row += 4, p += 4 * channels) {
#pragma omp simd
        for (Index c = 0; c < channels; c++) {
            float s = shift[c];
            float a = p[c] - s, b = p[channels + c] - s, d = p[2 * channels + c] - s, e = p[3 * channels + c] - s;
            sum[c] += (a + b) + (d + e);
            square[c] += (a * a + b * b) + (d * d + e * e);
        }
    }
    for (; row < count; row++, p += channels) {
#pragma omp simd
        for (Index c = 0; c < channels; c++) {
            float a = p[c] - shift[c];
            sum[c] += a;
            square[c] += a * a;
        }
    }
}

INLINE void activate_rows(const Pass *pass, Index first, Index count, const int activation) {
    Index channels = pass->channels, width = pass->width;
    const float *restrict x = pass->x + first * channels, *restrict scale = pass->scale, *restrict shift = pass->shift;
    const float *restrict shortcut = pass->shortcut ? pass->shortcut + first * channels : 0;
    float *restrict y = pass->out + first * width;
    for (Index row = 0; row < count; row++, x += channels, y += width) {
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

static void write_values(const Pass *pass, Index first, Index count, float *sums) {
    (void)sums;
    FOR_ACTIVATION(pass->activation, activate_rows, pass, first, count)
}

/* statistics (2, channels) get the means and variances of a map's channels. totals (threads, 2, channels) and
 * sums (threads, 2, channels) are scratch. */
void channel_statistics(const float *x, Index rows, Index channels, double *statistics, double *totals, float *sums,
                        int threads) {
    Pass pass = {.rows = rows, .channels = channels, .threads = threads, .x = x};
    sum_rows(&pass, sum_values, totals, sums);
    find_statistics(statistics, totals, x, rows, channels);
}

/* y = activation(batch_norm(concatenation of the pieces) + shortcut); `shortcut` may be NULL, and is where there are
 * several pieces.
 *
 * saved gets, for each piece (4, its channels), what the backward pass needs: mean, 1 / standard deviation, and the scale
 * and shift that make the normalised value of x. Running statistics are updated.
 */
void batch_norm_forward(const float *const *pieces, const double *const *statistics, const Index *channels, Index count,
                        const float *shortcut, Index rows, Index width, const float *weight, const float *bias,
                        float *running_mean, float *running_variance, double momentum, double eps, int activation,
                        float *y, float *saved, int threads) {
    Index first = 0;
    for (Index piece = 0; piece < count; first += channels[piece++]) {
        Index size = channels[piece];
        const double *means = statistics[piece], *variances = means + size;
        float *mean = saved + 4 * first, *inverse = mean + size, *scale = mean + 2 * size, *shift = mean + 3 * size;
        for (Index c = 0; c < size; c++) {
            double factor = 1 / sqrt(variances[c] + eps);
            mean[c] = means[c];
            inverse[c] = factor;
            scale[c] = weight[first + c] * factor;
            shift[c] = bias[first + c] - means[c] * weight[first + c] * factor;
            running_mean[first + c] += momentum * (means[c] - running_mean[first + c]);
            running_variance[first + c] += momentum * (variances[c] * rows / (rows - 1) - running_variance[first + c]);
        }
        Pass pass = {.rows = rows, .channels = size, .width = width, .activation = activation, .threads = threads,
                     .x = pieces[piece], .shortcut = shortcut, .scale = scale, .shift = shift, .out = y + first};
        write_rows(&pass, write_values);
    }
}

/* Sums of dz and dz·(x - mean), where dz is the gradient of the normalised value, and of the shortcut. Several rows at a
 * time, as in sum_values, took up to a quarter longer. */
INLINE void add_gradient_rows(const Pass *pass, Index first, Index count, float *sums, const int activation) {
    Index channels = pass->channels, width = pass->width, at = first * channels;
    const float *restrict x = pass->x + at, *restrict dy = pass->dy + first * width;
    const float *restrict y = pass->y ? pass->y + at : 0;
    const float *restrict mean = pass->mean, *restrict scale = pass->scale, *restrict shift = pass->shift;
    float *restrict sum = sums, *restrict product = sums + channels;
    float *restrict dshortcut = pass->y ? pass->out_shortcut + at : 0;
    for (Index row = 0; row < count; row++, x += channels, dy += width) {
        if (y) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(y[c], dy[c], activation);
                sum[c] += dz;
                dshortcut[c] = dz;
                product[c] += dz * (x[c] - mean[c]);
            }
            y += channels, dshortcut += channels;
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

static void sum_gradients(const Pass *pass, Index first, Index count, float *sums) {
    FOR_ACTIVATION(pass->activation, add_gradient_rows, pass, first, count, sums)
}

/* dx = scale·dz + slope·x + offset; dz is in the gradient of the shortcut, if there is one. */
INLINE void gradient_rows(const Pass *pass, Index first, Index count, const int activation) {
    Index channels = pass->channels, width = pass->width, at = first * channels;
    const float *restrict x = pass->x + at, *restrict dy = pass->dy + first * width;
    const float *restrict scale = pass->scale, *restrict shift = pass->shift;
    const float *restrict slope = pass->slope, *restrict offset = pass->offset;
    const float *restrict dshortcut = pass->y ? pass->out_shortcut + at : 0;
    float *restrict dx = pass->out + at;
    for (Index row = 0; row < count; row++, x += channels, dy += width, dx += channels) {
        if (dshortcut) {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                dx[c] = scale[c] * dshortcut[c] + (slope[c] * x[c] + offset[c]);
            }
            dshortcut += channels;
        } else {
#pragma omp simd
            for (Index c = 0; c < channels; c++) {
                float dz = input_gradient(x[c] * scale[c] + shift[c], dy[c], activation);
                dx[c] = scale[c] * dz + (slope[c] * x[c] + offset[c]);
            }
        }
    }
}

static void write_gradients(const Pass *pass, Index first, Index count, float *sums) {
    (void)sums;
    FOR_ACTIVATION(pass->activation, gradient_rows, pass, first, count)
}

/* The gradients of the pieces, weight, bias and, where y is given, of the shortcut.
 *
 * `y` is NULL but where an activation follows a shortcut: it must be ReLU then, whose gradient its output tells.
 * Without an activation the gradient of the shortcut is dy itself. totals (threads, 2, width) and
 * sums (threads, 2, width) are scratch.
 */
void batch_norm_backward(const float *const *pieces, const Index *channels, Index count, const float *y,
                         const float *dy, Index rows, Index width, const float *saved, int activation,
                         float *const *gradients, float *dshortcut, float *dweight, float *dbias, double *totals,
                         float *sums, int threads) {
    Index first = 0;
    for (Index piece = 0; piece < count; first += channels[piece++]) {
        Index size = channels[piece];
        const float *mean = saved + 4 * first, *inverse = mean + size, *scale = mean + 2 * size, *shift = mean + 3 * size;
        float *slope = sums, *offset = sums + size;
        Pass pass = {.rows = rows, .channels = size, .width = width, .activation = activation, .threads = threads,
                     .x = pieces[piece], .y = y, .dy = dy + first, .mean = mean, .scale = scale, .shift = shift,
                     .slope = slope, .offset = offset, .out = gradients[piece], .out_shortcut = dshortcut};
        sum_rows(&pass, sum_gradients, totals, sums);
        for (Index c = 0; c < size; c++) {
            double sum = totals[c] / rows, product = totals[size + c] * inverse[c] * inverse[c] / rows;
            dbias[first + c] = totals[c];
            dweight[first + c] = totals[size + c] * inverse[c];
            slope[c] = -scale[c] * product;
            offset[c] = -scale[c] * (sum - product * mean[c]);
        }
        write_rows(&pass, write_gradients);
    }
}
