/* Pillow's resizing of 8-bit RGB images, pixel for pixel, of no more than a crop needs.
 *
 * Pillow (Resample.c) weighs neighbours with a filter as wide as the scale, in integers of 22 fractional bits: first
 * along rows, rounded to bytes, then along columns. Here both passes are one microkernel, `weigh`, which weighs bytes
 * that lie a fixed distance apart, 16 of them at a time: for columns those are neighbours in a row already, for rows 16
 * rows are transposed into a strip [column][channel][16 rows] and back.
 *
 * The weights are computed in the same order as Pillow does; compile this file without contraction to multiply-adds. */
#include "kernels.h"
#include "program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { CHANNELS = 3, ROWS = 16, FRACTION_BITS = VK_FRACTION_BITS, LARGEST_SIDE = 1 << 24 };

struct axis { /* of each output: its first input, and how many weights follow each other */
    int *first, *taps;
    int32_t *weights; /* `most` for each output */
    int most;
};

static double triangle(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double cubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* The weights of outputs [begin, begin + count) of an axis that is resized from `in` to `out`. */
static int make_axis(struct axis *axis, int in, int out, int begin, int count, int filter) {
    double (*const weight_at)(double) = filter == VK_BICUBIC ? cubic : triangle;
    const double scale = (double)in / out, filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = (filter == VK_BICUBIC ? 2.0 : 1.0) * filter_scale, inverse = 1.0 / filter_scale;
    axis->most = (int)ceil(support) * 2 + 1;
    axis->first = malloc((size_t)count * 2 * sizeof(int));
    axis->weights = malloc((size_t)count * (size_t)axis->most * sizeof(int32_t));
    double *exact = malloc((size_t)axis->most * sizeof(double));
    if (!axis->first || !axis->weights || !exact) {
        free(exact);
        return VK_NO_MEMORY;
    }
    axis->taps = axis->first + count;
    for (int i = 0; i < count; i++) {
        const double center = (begin + i + 0.5) * scale;
        int low = (int)(center - support + 0.5), high = (int)(center + support + 0.5);
        if (low < 0) low = 0;
        if (high > in) high = in;
        double sum = 0.0;
        for (int k = 0; k < high - low; k++) {
            exact[k] = weight_at((k + low - center + 0.5) * inverse);
            sum += exact[k];
        }
        int32_t *weights = axis->weights + (ptrdiff_t)i * axis->most;
        for (int k = 0; k < high - low; k++) {
            if (sum != 0.0) exact[k] /= sum;
            const double scaled = exact[k] * (1 << FRACTION_BITS);
            weights[k] = (int32_t)(exact[k] < 0 ? -0.5 + scaled : 0.5 + scaled);
        }
        axis->first[i] = low;
        axis->taps[i] = high - low;
    }
    free(exact);
    return VK_OK;
}

static void free_axis(struct axis *axis) {
    free(axis->first);
    free(axis->weights);
}

/* out[column][row] = in[row][column] of 16 x 16 bytes. */
static void transpose_tile(uint8_t *out, ptrdiff_t out_stride, const uint8_t *in, ptrdiff_t in_stride, int in_rows,
                           int out_rows) {
#ifdef __SSE2__
    __m128i now[ROWS], next[ROWS];
    for (int r = 0; r < ROWS; r++) now[r] = _mm_loadu_si128((const __m128i *)(in + (r < in_rows ? r : 0) * in_stride));
    for (int round = 0; round < 4; round++) { /* four times, row i alternates with row i + 8 */
        for (int i = 0; i < ROWS / 2; i++) {
            next[2 * i] = _mm_unpacklo_epi8(now[i], now[i + ROWS / 2]);
            next[2 * i + 1] = _mm_unpackhi_epi8(now[i], now[i + ROWS / 2]);
        }
        memcpy(now, next, sizeof now);
    }
    for (int r = 0; r < out_rows; r++) _mm_storeu_si128((__m128i *)(out + r * out_stride), now[r]);
#else
    for (int r = 0; r < out_rows; r++)
        for (int c = 0; c < ROWS; c++) out[r * out_stride + c] = in[(c < in_rows ? c : 0) * in_stride + r];
#endif
}

/* `count` pixels of `size` bytes (4: the last is left out) of up to ROWS rows of the image, transposed:
 * [pixel][CHANNELS][ROWS]. */
static void transpose(uint8_t *strip, const uint8_t *rows, ptrdiff_t row_size, int row_count, ptrdiff_t count, int size) {
    const ptrdiff_t bytes = count * size;
    ptrdiff_t i = 0;
    for (; i + ROWS <= bytes; i += ROWS) {
        if (size == CHANNELS) {
            transpose_tile(strip + i * ROWS, ROWS, rows + i, row_size, row_count, ROWS);
            continue;
        }
        uint8_t tile[ROWS * ROWS];
        transpose_tile(tile, ROWS, rows + i, row_size, row_count, ROWS);
        for (int k = 0; k < ROWS / 4; k++)
            memcpy(strip + (i / 4 + k) * CHANNELS * ROWS, tile + k * 4 * ROWS, CHANNELS * ROWS);
    }
    for (; i < bytes; i++)
        for (int r = 0; r < row_count && i % size < CHANNELS; r++)
            strip[(i / size * CHANNELS + i % size) * ROWS + r] = rows[r * row_size + i];
}

/* And back; both have room for `count` bytes, a multiple of ROWS. */
static void transpose_back(uint8_t *rows, ptrdiff_t row_size, int row_count, const uint8_t *strip, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += ROWS)
        transpose_tile(rows + i, row_size, strip + i * ROWS, ROWS, ROWS, row_count);
}

int vk_resize(const uint8_t *image, int pixel_size, int height, int width, int out_height, int out_width, int filter,
              int top, int left, int crop_height, int crop_width, int instruction_set, uint8_t *out) {
    if (!image || !out || (pixel_size != CHANNELS && pixel_size != 4) || height < 1 || width < 1 || out_height < 1 || out_width < 1 || height > LARGEST_SIDE ||
        width > LARGEST_SIDE || out_height > LARGEST_SIDE || out_width > LARGEST_SIDE || top < 0 || left < 0 ||
        crop_height < 1 || crop_width < 1 || crop_height > out_height - top || crop_width > out_width - left ||
        (filter != VK_BILINEAR && filter != VK_BICUBIC) || instruction_set < 0 ||
        instruction_set >= VK_INSTRUCTION_SETS)
        return VK_BAD_ARGUMENT;
    if (!vk_supports(instruction_set)) return VK_OTHER_PROCESSOR;
    const struct vk_kernels *kernels = vk_kernels_of(instruction_set);
    struct axis across = {0}, down = {0};
    uint8_t *strip = NULL, *weighed = NULL, *rows = NULL;
    int status = make_axis(&across, width, out_width, left, crop_width, filter);
    if (!status) status = make_axis(&down, height, out_height, top, crop_height, filter);
    if (!status) {
        const int last_x = crop_width - 1, last_y = crop_height - 1;
        const int begin_x = across.first[0], end_x = across.first[last_x] + across.taps[last_x];
        const int begin_y = down.first[0], end_y = down.first[last_y] + down.taps[last_y];
        const ptrdiff_t line = (ptrdiff_t)crop_width * CHANNELS, padded = (line + ROWS - 1) / ROWS * ROWS;
        const ptrdiff_t row_size = (ptrdiff_t)width * pixel_size;
        const int capacity = down.most + 2 * ROWS;
        strip = calloc((size_t)(end_x - begin_x) * CHANNELS, ROWS);
        weighed = calloc((size_t)padded, ROWS);
        rows = malloc((size_t)capacity * (size_t)padded);
        if (!strip || !weighed || !rows) status = VK_NO_MEMORY;
        int next = 0, kept = begin_y; /* the next output row, and the number of the first row that is kept in `rows` */
        for (int y = begin_y; y < end_y && !status; y += ROWS) {
            const int some = end_y - y < ROWS ? end_y - y : ROWS;
            if (y + ROWS - kept > capacity) {
                const int needed = down.first[next];
                memmove(rows, rows + (needed - kept) * padded, (size_t)(y - needed) * (size_t)padded);
                kept = needed;
            }
            transpose(strip, image + y * row_size + (ptrdiff_t)begin_x * pixel_size, row_size, some, end_x - begin_x,
                      pixel_size);
            for (int x = 0; x < crop_width; x++)
                kernels->weigh(weighed + (ptrdiff_t)x * CHANNELS * ROWS,
                               strip + (ptrdiff_t)(across.first[x] - begin_x) * CHANNELS * ROWS, CHANNELS * ROWS,
                               across.taps[x], across.weights + (ptrdiff_t)x * across.most, CHANNELS * ROWS);
            transpose_back(rows + (y - kept) * padded, padded, some, weighed, padded);
            for (; next < crop_height && down.first[next] + down.taps[next] <= y + some; next++) {
                kernels->weigh(weighed, rows + (down.first[next] - kept) * padded, padded, down.taps[next],
                               down.weights + (ptrdiff_t)next * down.most, padded);
                memcpy(out + next * line, weighed, (size_t)line);
            }
        }
    }
    free_axis(&across);
    free_axis(&down);
    free(strip);
    free(weighed);
    free(rows);
    return status;
}
