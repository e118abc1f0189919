/* 1×1 convolutions and their gradients: products of matrices of maps, (pixels, channels) in channels-last memory.
 *
 * Each thread has some pixels. They are copied a few at a time to where rows are read and written from end to end and do
 * not share lines of the cache, and what comes next is fetched from memory while products are computed.
 */

#ifdef __AVX__
#include <immintrin.h>
#endif
#include <string.h>

#include "channel_statistics.h"
#include "matrix_product.h"

enum {
    CHUNK = 1 << 17, /* values of the input and output pixels of a thread at a time: half a megabyte */
    FAR = 1 << 22, /* values of an output that would leave the cache before it is read: 16 megabytes */
    SOME = 256, /* pixels of a product of a gradient of weights */
    OWN = 1 << 19 /* values of such a gradient of which each thread has its own sums: 2 megabytes */
};

/* The first `width` values of a row → `size`, with zeros in the rest. */
INLINE void copy_row(float *to, const float *from, Index width, Index size) {
    memcpy(to, from, width * sizeof *to);
    if (width < size) memset(to + width, 0, (size - width) * sizeof *to);
}

/* Floats of scratch memory: the weights in panels of PANEL output channels, one output pixel, and of each thread its input
 * and output pixels and sums of channels. */
typedef struct {
    Index panels, panel, pixels, in_row, out_row; /* number and size of panels; pixels at a time, distances */
    Index weights_size, member_size, scratch_size;
} OutputPlan;

static OutputPlan plan_output(Index pixels, Index channels, Index out_channels, Index threads) {
    Index panels = (out_channels + PANEL - 1) / PANEL, share = (pixels + threads - 1) / threads,
          some = CHUNK / (channels + out_channels) / ROWS * ROWS;
    OutputPlan p = {.panels = panels, .panel = channels * PANEL, .in_row = (channels / LINE + 2) * LINE,
                    .out_row = panels * PANEL + LINE};
    p.pixels = least(least(some < 2 * ROWS ? 2 * ROWS : some, 9 * ROWS), share);
    p.weights_size = panels * p.panel;
    p.member_size = p.pixels * (p.in_row + p.out_row) + 2 * panels * PANEL;
    p.scratch_size = p.weights_size + panels * PANEL + threads * p.member_size;
    return p;
}

Index conv1x1_scratch_size(Index pixels, Index channels, Index out_channels, int threads) {
    return plan_output(pixels, channels, out_channels, threads).scratch_size;
}

/* Weights → a panel (channels, PANEL); `row` and `column` are distances of input and of output channels. */
static void copy_weights(float *to, const float *weights, Index row, Index column, Index channels, Index width) {
    if (width < PANEL) memset(to, 0, channels * PANEL * sizeof *to);
    for (Index k = 0; k < channels; k += LINE) /* input channels are adjacent, or output channels */
        for (Index j = 0; j < width; j++)
            for (Index i = k; i < least(k + LINE, channels); i++) to[i * PANEL + j] = weights[i * row + j * column];
}

/* Far: past the cache. */
INLINE void put(float *to, Vector v, int is_far) {
#ifdef __AVX__
    if (is_far) {
#ifdef __AVX512F__
        _mm512_stream_ps(to, (__m512)v);
#else
        _mm256_stream_ps(to, (__m256)v);
#endif
        return;
    }
#endif
    (void)is_far;
    store(to, v);
}

/* Pixels that have been computed → the output; sums (2, sums_size) get sums of x - shift and its square, or are NULL. */
static void write_pixels(float *output, const float *from, Index from_row, Index pixels, Index channels,
                         const float *shift, float *sums, Index sums_size, int is_far) {
    Index whole = channels % LANES ? 0 : pixels / 4 * 4;
    for (Index pixel = 0; pixel < whole; pixel += 4)
        for (Index c = 0; c < channels; c += LANES) {
            Vector v[4], s = load(shift + c);
            UNROLL for (int i = 0; i < 4; i++) {
                v[i] = load(from + (pixel + i) * from_row + c);
                put(output + (pixel + i) * channels + c, v[i], is_far);
                v[i] -= s;
            }
            if (!sums) continue;
            float *sum = sums + c, *square = sum + sums_size;
            store(sum, load(sum) + ((v[0] + v[1]) + (v[2] + v[3])));
            store(square, load(square) + ((v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3])));
        }
    for (Index pixel = whole; pixel < pixels; pixel++)
        for (Index c = 0; c < channels; c++) {
            float v = from[pixel * from_row + c] - shift[c];
            output[pixel * channels + c] = from[pixel * from_row + c];
            if (sums) sums[c] += v, sums[sums_size + c] += v * v;
        }
}

/* maps (pixels, channels) → output (pixels, out_channels) and its statistics (2, out_channels), means and variances, as
 * batch norm needs them, or NULL. Weights are at `row` times the input plus `column` times the output channel.
 * totals (threads, 2, out_channels) is scratch, or NULL. */
void conv1x1(const float *maps, const float *weights, Index row, Index column, float *output, double *statistics,
             Index pixels, Index channels, Index out_channels, double *totals, float *scratch, int threads) {
    OutputPlan plan = plan_output(pixels, channels, out_channels, threads);
    Index sums_size = plan.panels * PANEL;
    float *shift = scratch + plan.weights_size, *members_scratch = shift + sums_size; /* the first pixel: as in batch_norm.c */
    int is_far = pixels * out_channels > FAR;
    if (statistics) memset(totals, 0, threads * 2 * out_channels * sizeof *totals);
#pragma omp parallel num_threads(threads)
    {
        Index first, last, member = omp_get_thread_num();
        float *in = members_scratch + member * plan.member_size, *out = in + plan.pixels * plan.in_row;
        float *sums = out + plan.pixels * plan.out_row;
        double *total = statistics ? totals + member * 2 * out_channels : NULL;
#pragma omp for schedule(static)
        for (Index p = 0; p < plan.panels; p++) {
            float *panel = scratch + p * plan.panel;
            copy_weights(panel, weights + p * PANEL * column, row, column, channels, least(PANEL, out_channels - p * PANEL));
            multiply_panel((Product){.c = shift + p * PANEL, .a = maps, .a_term = 1, .b = panel, .b_term = PANEL, .rows = 1,
                                     .terms = channels, .columns = PANEL, .ahead = maps});
        }
        find_own_share(&first, &last, pixels);
        for (Index base = first; base < last; base += plan.pixels) {
            Index count = least(plan.pixels, last - base), blocks = (count + ROWS - 1) / ROWS, calls = blocks * plan.panels,
                  step = base + count < last ? (count + calls - 1) / calls : 0;
            for (Index pixel = 0; pixel < count; pixel++)
                memcpy(in + pixel * plan.in_row, maps + (base + pixel) * channels, channels * sizeof *in);
            for (Index p = 0; p < plan.panels; p++)
                multiply_panel((Product){.c = out + p * PANEL, .c_row = plan.out_row, .a = in, .a_row = plan.in_row, .a_term = 1,
                                         .b = scratch + p * plan.panel, .b_term = PANEL, .rows = count, .terms = channels,
                                         .columns = out_channels - p * PANEL > LANES ? PANEL : LANES,
                                         .ahead = maps + (base + count + p * blocks * step) * channels, .step = step});
            memset(sums, 0, 2 * sums_size * sizeof *sums);
            write_pixels(output + base * out_channels, out, plan.out_row, count, out_channels, shift, total ? sums : NULL,
                         sums_size, is_far);
            for (Index c = 0; total && c < out_channels; c++)
                total[c] += sums[c], total[out_channels + c] += sums[sums_size + c];
        }
#ifdef __AVX__
        _mm_sfence();
#endif
    }
    if (!statistics) return;
    add_threads(totals, 2 * out_channels, threads);
    find_statistics(statistics, totals, shift, pixels, out_channels);
}

/* Floats of scratch memory: the gradient in strips of ROWS channels, of each thread if it is not shared, and of each thread
 * a panel of PANEL channels of the input, and its sums, of all panels or of one. */
typedef struct {
    int is_shared; /* all threads take all pixels, and some of the panels; else some of the pixels, and add sums at the end */
    Index pixels, strip, strips, panels; /* pixels whose gradients are copied at a time */
    Index strips_size, panel_size, sums_size, member_size, scratch_size;
} GradientPlan;

static GradientPlan plan_gradient(Index pixels, Index channels, Index out_channels, Index threads) {
    GradientPlan p = {.is_shared = channels * out_channels > OWN || pixels < threads,
                      .strips = (out_channels + ROWS - 1) / ROWS, .panels = (channels + PANEL - 1) / PANEL};
    Index share = (pixels + threads - 1) / threads, calls = (share + SOME - 1) / SOME;
    p.pixels = p.is_shared ? pixels : (share + calls - 1) / calls;
    p.strip = p.pixels * ROWS + LINE;
    p.strips_size = p.strips * p.strip, p.panel_size = SOME * PANEL + LINE, p.sums_size = out_channels * PANEL;
    p.member_size = p.panel_size + (p.is_shared ? p.sums_size : p.strips_size + p.panels * p.sums_size);
    p.scratch_size = (p.is_shared ? p.strips_size : 0) + threads * p.member_size;
    return p;
}

Index conv1x1_gradient_scratch_size(Index pixels, Index channels, Index out_channels, int threads) {
    return plan_gradient(pixels, channels, out_channels, threads).scratch_size;
}

/* Pixels first … last - 1 of `channels` channels → strips. */
static void copy_strips(float *strips, Index strip, const float *from, Index channels, Index first, Index last) {
    for (Index k = first; k < last; k++)
        for (Index c = 0; c < channels; c += ROWS) {
            float *to = strips + c / ROWS * strip + k * ROWS;
            if (c + ROWS <= channels)
                memcpy(to, from + k * channels + c, ROWS * sizeof *to);
            else
                copy_row(to, from + k * channels + c, channels - c, ROWS);
        }
}

/* Sums of all teams, `team_size` apart → `width` columns of (out_channels, channels). */
static void add_sums(float *found, const float *sums, Index teams, Index team_size, Index channels, Index out_channels,
                     Index width) {
    for (Index o = 0; o < out_channels; o++)
        for (Index c = 0; c < width; c++) {
            float sum = 0;
            for (Index team = 0; team < teams; team++) sum += sums[team * team_size + o * PANEL + c];
            found[o * channels + c] = sum;
        }
}

/* maps (pixels, channels) and gradients (pixels, out_channels) → the gradient of the weights, (out_channels, channels). */
void conv1x1_weight_gradient(const float *maps, const float *gradients, float *found, Index pixels, Index channels,
                             Index out_channels, float *scratch, int threads) {
    GradientPlan plan = plan_gradient(pixels, channels, out_channels, threads);
    float *members_scratch = scratch + (plan.is_shared ? plan.strips_size : 0);
#pragma omp parallel num_threads(threads)
    {
        Index member = omp_get_thread_num(), members = omp_get_num_threads(); /* may be fewer than are asked for */
        Index team = plan.is_shared ? 0 : member, teams = plan.is_shared ? 1 : members;
        Index first, last, from, to, copied_from, copied_to;
        float *panel = members_scratch + member * plan.member_size, *sums = panel + plan.panel_size;
        float *strips = plan.is_shared ? scratch : sums + plan.panels * plan.sums_size;
        find_share(&first, &last, pixels, team, teams);
        find_share(&from, &to, plan.panels, member - team, members / teams);
        for (Index base = first; base < last; base += plan.pixels) {
            Index count = least(plan.pixels, last - base), calls = plan.strips * (to - from), call = 0,
                  step = base + count < last ? (channels + out_channels + calls - 1) / calls : 0;
            const float *in = maps + base * channels, *gradient = gradients + base * out_channels;
            find_share(&copied_from, &copied_to, count, member - team, members / teams);
            copy_strips(strips, plan.strip, gradient, out_channels, copied_from, copied_to);
            if (plan.is_shared) {
#pragma omp barrier
            }
            for (Index p = from; p < to; p++) {
                Index width = least(PANEL, channels - p * PANEL);
                float *panel_sums = sums + (plan.is_shared ? 0 : p * plan.sums_size);
                for (Index k = 0; k < count; k += SOME) {
                    Index terms = least(SOME, count - k);
                    for (Index i = 0; i < terms; i++)
                        copy_row(panel + i * PANEL, in + (k + i) * channels + p * PANEL, width, PANEL);
                    for (Index strip = 0; strip < plan.strips; strip++, call++) {
                        Product product = {.c = panel_sums + strip * ROWS * PANEL, .c_row = PANEL,
                                           .a = strips + strip * plan.strip + k * ROWS, .a_row = 1, .a_term = ROWS,
                                           .b = panel, .b_term = PANEL, .rows = least(ROWS, out_channels - strip * ROWS),
                                           .terms = terms, .columns = width > LANES ? PANEL : LANES,
                                           .adds = base > first || k > 0, .step = step};
                        /* The next pixels, or the two lines of each that are in the next panel. */
                        if (plan.is_shared)
                            product.ahead = (k + SOME < count ? in + (k + SOME) * channels + p * PANEL : in + (p + 1) * PANEL)
                                            + strip % 2 * LINE, product.step = strip < 2 ? channels : 0;
                        else if (call * step < channels)
                            product.ahead = in + count * (channels + call * step);
                        else
                            product.ahead = gradient + count * (out_channels + call * step - channels);
                        multiply_panel(product);
                    }
                }
                if (plan.is_shared) add_sums(found + p * PANEL, sums, 1, 0, channels, out_channels, width);
            }
        }
        if (!plan.is_shared) {
#pragma omp barrier
#pragma omp for schedule(static)
            for (Index p = 0; p < plan.panels; p++)
                add_sums(found + p * PANEL, members_scratch + plan.panel_size + p * plan.sums_size, members, plan.member_size,
                         channels, out_channels, least(PANEL, channels - p * PANEL));
        }
    }
}
