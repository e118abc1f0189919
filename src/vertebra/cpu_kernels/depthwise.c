/* Depthwise convolutions of 3×3 and 5×5 with stride 1 or 2, "same" padding, and their gradients.
 *
 * Maps are float32 in channels-last memory (images, height, width, channels), weights (kernel, kernel, channels), and
 * the number of channels is a multiple of 16. Sixteen channels are computed along a row, with the weights in registers.
 * So the loops read memory in strides, which the processor does not fetch ahead; they ask meanwhile for what the next
 * row will read, in the order of memory. Without, maps that are not in the cache take up to half as long again.
 *
 * Sums of the weights' gradient are added in the order of the rows of each thread and then of the threads: equal bit
 * for bit from run to run with the same number of threads.
 */

#include <string.h>

#include "threads.h"

typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

enum {
    WIDTH = 16, /* channels that are computed at once */
    COLUMNS = 4, /* of a row that are computed at once */
    MAX_KERNEL = 5
};

typedef struct {
    Index images, channels, height, width, out_height, out_width;
} Shape;

INLINE Vector load(const float *p) { return *(const Vector *)p; }
INLINE void store(float *p, Vector v) { *(Vector *)p = v; }

/* rows[i] gets row first + i·step of the image, or zeros for one outside of it. */
INLINE void find_rows(const float **rows, const float *image, const float *zeros, Index first, Index step, int count,
                      Index height, Index size) {
    for (int i = 0; i < count; i++) {
        Index row = first + i * step;
        rows[i] = row >= 0 && row < height ? image + row * size : zeros;
    }
}

/* The columns of the output, from *first to before *last, whose windows lie within the input's row. */
INLINE void find_inner(Shape s, int kernel, int stride, Index *first, Index *last) {
    Index padding = kernel / 2, end = s.width + padding - kernel;
    *first = (padding + stride - 1) / stride;
    *last = end < 0 ? 0 : end / stride + 1;
    if (*first > s.out_width) *first = s.out_width;
    if (*last > s.out_width) *last = s.out_width;
    if (*last < *first) *last = *first;
}

/* Ask for `count` cache lines from p on, whose row is read next. */
INLINE const float *prefetch(const float *p, const int count) {
#pragma GCC unroll 16
    for (int i = 0; i < count; i++) __builtin_prefetch(p + i * WIDTH);
    return p + count * WIDTH;
}

/* `columns` columns of sixteen channels of the output, y; rows[i] is where the window of the first begins. */
INLINE void convolve_columns(const float *const *rows, const Vector *weights, float *y, Index channels,
                             const int kernel, const int stride, const int columns) {
    Vector sum[COLUMNS];
#pragma GCC unroll 4
    for (int t = 0; t < columns; t++) sum[t] = (Vector){0};
#pragma GCC unroll 5
    for (int i = 0; i < kernel; i++) {
#pragma GCC unroll 16
        for (int j = 0; j < (columns - 1) * stride + kernel; j++) {
            Vector x = load(rows[i] + j * channels);
#pragma GCC unroll 4
            for (int t = 0; t < columns; t++)
                if (j >= t * stride && j < t * stride + kernel) sum[t] += x * weights[i * kernel + j - t * stride];
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < columns; t++) store(y + t * channels, sum[t]);
}

/* One column at the left or right end of a row. A sum for each row of the kernel: an addition waits for the one before.
 */
INLINE void convolve_end(const float *const *rows, Index left, const float *weights, float *y, Shape s,
                         const int kernel) {
    Index from = left < 0 ? -left : 0, to = s.width - left < kernel ? s.width - left : kernel;
    for (Index c = 0; c < s.channels; c += WIDTH) {
        Vector sum[MAX_KERNEL];
#pragma GCC unroll 5
        for (int i = 0; i < kernel; i++) sum[i] = (Vector){0};
        for (Index j = from; j < to; j++)
#pragma GCC unroll 5
            for (int i = 0; i < kernel; i++)
                sum[i] += load(rows[i] + (left + j) * s.channels + c) * load(weights + (i * kernel + j) * s.channels + c);
#pragma GCC unroll 5
        for (int i = 1; i < kernel; i++) sum[0] += sum[i];
        store(y + c, sum[0]);
    }
}

/* `next` is what the next row reads first. */
INLINE void convolve_row(const float *const *rows, const float *weights, const float *next, float *y, Shape s,
                         const int kernel, const int stride) {
    Index first, last, padding = kernel / 2, channels = s.channels;
    find_inner(s, kernel, stride, &first, &last);
    for (Index column = 0; column < s.out_width; column++)
        if (column < first || column >= last)
            convolve_end(rows, column * stride - padding, weights, y + column * channels, s, kernel);
    for (Index c = 0; c < channels; c += WIDTH) {
        Vector weight[MAX_KERNEL * MAX_KERNEL];
#pragma GCC unroll 25
        for (int i = 0; i < kernel * kernel; i++) weight[i] = load(weights + i * channels + c);
        for (Index column = first; column < last; column += COLUMNS) {
            int is_single = last - first < COLUMNS;
            /* The last ones may be computed a second time. */
            if (!is_single && column + COLUMNS > last) column = last - COLUMNS;
            const float *windows[MAX_KERNEL];
#pragma GCC unroll 5
            for (int i = 0; i < kernel; i++) windows[i] = rows[i] + (column * stride - padding) * channels + c;
            next = prefetch(next, COLUMNS * stride * stride);
            if (is_single) {
                convolve_columns(windows, weight, y + column * channels + c, channels, kernel, stride, 1);
                column -= COLUMNS - 1;
            } else
                convolve_columns(windows, weight, y + column * channels + c, channels, kernel, stride, COLUMNS);
        }
    }
}

/* Constants, for loops over the window that are unrolled. */
#define FOR_GEOMETRY(kernel, stride, FUNCTION, ...)                    \
    if (kernel == 3 && stride == 1) FUNCTION(__VA_ARGS__, 3, 1);       \
    else if (kernel == 3) FUNCTION(__VA_ARGS__, 3, 2);                 \
    else if (stride == 1) FUNCTION(__VA_ARGS__, 5, 1);                 \
    else FUNCTION(__VA_ARGS__, 5, 2);

/* y; zeros is a row of the input, (width, channels), of zeros. */
void depthwise_forward(const float *x, const float *weights, const float *zeros, float *y, Index images,
                       Index channels, Index height, Index width, Index out_height, Index out_width, int kernel,
                       int stride, int threads) {
    Shape s = {images, channels, height, width, out_height, out_width};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < images * out_height; row++) {
        const float *rows[MAX_KERNEL], *image = x + row / out_height * height * width * channels;
        Index top = row % out_height * stride - kernel / 2;
        find_rows(rows, image, zeros, top, 1, kernel, height, width * channels);
        const float *next = image + (top + kernel) * width * channels;
        FOR_GEOMETRY(kernel, stride, convolve_row, rows, weights, next, y + row * out_width * channels, s)
    }
}

/* With stride 2 a row or column of the input is reached by every other one of the kernel, the even or the odd ones:
 * those of column 2m + d are j with d + padding - j even, and belong to column m + (d + padding - j) / 2 of the output.
 */

/* Two pairs of columns of sixteen channels of dx; rows[i] is the column of the first pair in the row of dy for row
 * first + 2i of the kernel, and so are the weights. */
INLINE void scatter_pairs(const float *const *rows, const Vector *weights, float *dx, Index channels, const int kernel,
                          const int first) {
    const int padding = kernel / 2;
    Vector sum[COLUMNS];
#pragma GCC unroll 4
    for (int t = 0; t < COLUMNS; t++) sum[t] = (Vector){0};
#pragma GCC unroll 3
    for (int i = 0; first + 2 * i < kernel; i++)
#pragma GCC unroll 4
        for (int t = 0; t < COLUMNS; t++)
#pragma GCC unroll 5
            for (int j = 0; j < kernel; j++)
                if ((t + padding - j) % 2 == 0)
                    sum[t] += load(rows[i] + (t + padding - j) / 2 * channels) * weights[i * kernel + j];
#pragma GCC unroll 4
    for (int t = 0; t < COLUMNS; t++) store(dx + t * channels, sum[t]);
}

/* One column of dx at the left or right end of a row. */
INLINE void scatter_end(const float *const *rows, Index column, const float *weights, float *dx, Shape s,
                        const int kernel, const int first) {
    for (Index c = 0; c < s.channels; c += WIDTH) {
        Vector sum = {0};
        for (int i = 0; first + 2 * i < kernel; i++)
            for (int j = 0; j < kernel; j++) {
                Index twice = column + kernel / 2 - j;
                if (twice % 2 || twice < 0 || twice / 2 >= s.out_width) continue;
                sum += load(rows[i] + twice / 2 * s.channels + c) *
                       load(weights + ((first + 2 * i) * kernel + j) * s.channels + c);
            }
        store(dx + c, sum);
    }
}

INLINE void scatter_row(const float *const *rows, const float *weights, const float *next, float *dx, Shape s,
                        const int kernel, const int first) {
    enum { PAIRS = COLUMNS / 2 };
    Index channels = s.channels;
    /* Pairs whose columns of the output, at most one before and one behind their own, all exist. */
    Index start = kernel / 4, end = s.out_width - 1 < s.width / 2 ? s.out_width - 1 : s.width / 2;
    end = end < start ? start : start + (end - start) / PAIRS * PAIRS;
    for (Index column = 0; column < s.width; column++)
        if (column < 2 * start || column >= 2 * end)
            scatter_end(rows, column, weights, dx + column * channels, s, kernel, first);
    for (Index c = 0; c < channels; c += WIDTH) {
        const float *at[MAX_KERNEL / 2 + 1];
        Vector weight[(MAX_KERNEL / 2 + 1) * MAX_KERNEL];
#pragma GCC unroll 3
        for (int i = 0; first + 2 * i < kernel; i++) {
            at[i] = rows[i] + start * channels + c;
#pragma GCC unroll 5
            for (int j = 0; j < kernel; j++)
                weight[i * kernel + j] = load(weights + ((first + 2 * i) * kernel + j) * channels + c);
        }
        for (Index pair = start; pair < end; pair += PAIRS) {
            next = prefetch(next, PAIRS);
            scatter_pairs(at, weight, dx + 2 * pair * channels + c, channels, kernel, first);
#pragma GCC unroll 3
            for (int i = 0; first + 2 * i < kernel; i++) at[i] += PAIRS * channels;
        }
    }
}

/* dx of a convolution with stride 2; zeros is a row of dy, (out_width, channels), of zeros. With stride 1 it is the
 * convolution of dy with the weights in reverse order. */
void depthwise_input_gradient(const float *dy, const float *weights, const float *zeros, float *dx, Index images,
                              Index channels, Index height, Index width, Index out_height, Index out_width, int kernel,
                              int threads) {
    Shape s = {images, channels, height, width, out_height, out_width};
    Index padding = kernel / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (Index row = 0; row < images * height; row++) {
        const float *rows[MAX_KERNEL], *image = dy + row / height * out_height * out_width * channels;
        Index y = row % height + padding, first = y % 2, last = y / 2;
        float *to = dx + row * width * channels;
        find_rows(rows, image, zeros, last, -1, (kernel + 1 - first) / 2, out_height, out_width * channels);
        const float *next = image + (last + 1) * out_width * channels;
        if (kernel == 3 && first == 0) scatter_row(rows, weights, next, to, s, 3, 0);
        else if (kernel == 3) scatter_row(rows, weights, next, to, s, 3, 1);
        else if (first == 0) scatter_row(rows, weights, next, to, s, 5, 0);
        else scatter_row(rows, weights, next, to, s, 5, 1);
    }
}

INLINE void add_end(const float *const *rows, Index left, const float *dy, float *sums, Shape s, const int kernel) {
    for (Index c = 0; c < s.channels; c += WIDTH) {
        Vector gradient = load(dy + c);
        for (int i = 0; i < kernel; i++)
            for (int j = left < 0 ? -left : 0; j < kernel && left + j < s.width; j++) {
                float *at = sums + (i * kernel + j) * s.channels + c;
                store(at, load(at) + gradient * load(rows[i] + (left + j) * s.channels + c));
            }
    }
}

/* Add the gradient by one row of the output; rows[i] is the row of the input beneath row i of the kernel. */
INLINE void add_row(const float *const *rows, const float *dy, const float *next, float *sums, Shape s,
                    const int kernel, const int stride) {
    Index first, last, padding = kernel / 2, channels = s.channels;
    const float *next_dy = dy + s.out_width * channels;
    find_inner(s, kernel, stride, &first, &last);
    for (Index column = 0; column < s.out_width; column++)
        if (column < first || column >= last)
            add_end(rows, column * stride - padding, dy + column * channels, sums, s, kernel);
    for (Index c = 0; c < channels; c += WIDTH) {
        Vector sum[MAX_KERNEL * MAX_KERNEL];
#pragma GCC unroll 25
        for (int i = 0; i < kernel * kernel; i++) sum[i] = load(sums + i * channels + c);
        for (Index column = first; column < last; column++) {
            next = prefetch(next, stride * stride);
            next_dy = prefetch(next_dy, 1);
            Vector gradient = load(dy + column * channels + c);
            Index left = (column * stride - padding) * channels + c;
#pragma GCC unroll 5
            for (int i = 0; i < kernel; i++)
#pragma GCC unroll 5
                for (int j = 0; j < kernel; j++)
                    sum[i * kernel + j] += gradient * load(rows[i] + left + j * channels);
        }
#pragma GCC unroll 25
        for (int i = 0; i < kernel * kernel; i++) store(sums + i * channels + c, sum[i]);
    }
}

/* The first (kernel, kernel, channels) of sums (threads, kernel, kernel, channels) gets the gradient; zeros is a row of
 * the input, (width, channels), of zeros. */
void depthwise_weight_gradient(const float *x, const float *dy, const float *zeros, float *sums, Index images,
                               Index channels, Index height, Index width, Index out_height, Index out_width, int kernel,
                               int stride, int threads) {
    Shape s = {images, channels, height, width, out_height, out_width};
    Index size = kernel * kernel * channels;
    memset(sums, 0, threads * size * sizeof *sums);
#pragma omp parallel num_threads(threads)
    {
        Index first, last;
        find_own_share(&first, &last, images * out_height);
        float *sum = sums + omp_get_thread_num() * size;
        for (Index row = first; row < last; row++) {
            const float *rows[MAX_KERNEL], *image = x + row / out_height * height * width * channels;
            Index top = row % out_height * stride - kernel / 2;
            find_rows(rows, image, zeros, top, 1, kernel, height, width * channels);
            const float *next = image + (top + kernel) * width * channels;
            FOR_GEOMETRY(kernel, stride, add_row, rows, dy + row * out_width * channels, next, sum, s)
        }
    }
    for (int thread = 1; thread < threads; thread++)
        for (Index i = 0; i < size; i++) sums[i] += sums[thread * size + i];
}
