/* The gradient of the weights of depthwise convolutions of 3×3 and 5×5 with stride 1 or 2.
 *
 * Maps are float32 in channels-last memory (images, height, width, channels), weights (kernel, kernel, channels), and
 * the number of channels is a multiple of 16. The sums of sixteen channels are in registers along a row. They are
 * added in the order of the rows of each thread and then of the threads: equal bit for bit from run to run with the
 * same number of threads.
 */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

typedef int64_t Index;
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

enum { WIDTH = 16, MAX_KERNEL = 5 };

typedef struct {
    Index channels, width, out_width, padding;
} Shape;

INLINE Vector load(const float *p) { return *(const Vector *)p; }
INLINE void store(float *p, Vector v) { *(Vector *)p = v; }

/* Add the gradient by one row of the output; rows[i] is the row of the input beneath row i of the kernel. */
INLINE void add_row(const float *const *rows, const float *dy, float *sums, Shape s, const int kernel,
                    const int stride) {
    /* The columns whose window lies within the row. */
    Index first = (s.padding + stride - 1) / stride, last = (s.width + s.padding - kernel) / stride + 1;
    if (first > s.out_width) first = s.out_width;
    if (last > s.out_width) last = s.out_width;
    if (last < first) last = first;
    for (Index c = 0; c < s.channels; c += WIDTH) {
        Vector sum[MAX_KERNEL * MAX_KERNEL];
#pragma GCC unroll 25
        for (int i = 0; i < kernel * kernel; i++) sum[i] = load(sums + i * s.channels + c);
        for (Index column = first; column < last; column++) {
            Vector gradient = load(dy + column * s.channels + c);
            Index left = (column * stride - s.padding) * s.channels + c;
#pragma GCC unroll 5
            for (int i = 0; i < kernel; i++)
#pragma GCC unroll 5
                for (int j = 0; j < kernel; j++)
                    sum[i * kernel + j] += gradient * load(rows[i] + left + j * s.channels);
        }
#pragma GCC unroll 25
        for (int i = 0; i < kernel * kernel; i++) store(sums + i * s.channels + c, sum[i]);
        for (Index column = 0; column < s.out_width; column++) {
            if (column == first) column = last;
            if (column >= s.out_width) break;
            Vector gradient = load(dy + column * s.channels + c);
            Index left = column * stride - s.padding;
            for (int j = left < 0 ? -left : 0; j < kernel && left + j < s.width; j++)
                for (int i = 0; i < kernel; i++) {
                    float *at = sums + (i * kernel + j) * s.channels + c;
                    store(at, load(at) + gradient * load(rows[i] + (left + j) * s.channels + c));
                }
        }
    }
}

/* The first (kernel, kernel, channels) of sums (threads, kernel, kernel, channels) gets the gradient; zeros is a row of
 * the input, (width, channels), of zeros. */
void depthwise_weight_gradient(const float *x, const float *dy, const float *zeros, float *sums, Index images,
                               Index channels, Index height, Index width, Index out_height, Index out_width, int kernel,
                               int stride, int padding, int threads) {
    Shape s = {channels, width, out_width, padding};
    Index size = kernel * kernel * channels;
    memset(sums, 0, threads * size * sizeof *sums);
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Index last = images * out_height * (thread + 1) / threads;
        float *sum = sums + thread * size;
        for (Index row = images * out_height * thread / threads; row < last; row++) {
            const float *image = x + row / out_height * height * width * channels;
            const float *rows[MAX_KERNEL], *gradient = dy + row * out_width * channels;
            for (int i = 0; i < kernel; i++) {
                Index y = row % out_height * stride - padding + i;
                rows[i] = y >= 0 && y < height ? image + y * width * channels : zeros;
            }
            /* Constants, for loops over the window that are unrolled. */
            if (kernel == 3 && stride == 1) add_row(rows, gradient, sum, s, 3, 1);
            else if (kernel == 3) add_row(rows, gradient, sum, s, 3, 2);
            else if (stride == 1) add_row(rows, gradient, sum, s, 5, 1);
            else add_row(rows, gradient, sum, s, 5, 2);
        }
    }
    for (int thread = 1; thread < threads; thread++)
        for (Index i = 0; i < size; i++) sums[i] += sums[thread * size + i];
}
