/* 3×3 convolutions with stride 1 and padding 1, and the gradient of their weights, by Winograd's F(4×4, 3×3): 36 products
 * for each tile of 4×4 outputs and pair of channels instead of 144 (Lavin & Gray 2015, https://arxiv.org/abs/1509.09308).
 *
 *     Y = Aᵀ [ (G g Gᵀ) ∘ (Bᵀ d B) ] A     d: 6×6 inputs, g: 3×3 weights, Y: 4×4 outputs, ∘: element by element
 *
 * Element m of the transformed tiles is a matrix (tiles, channels), and element m of the transformed weights a matrix
 * (channels, output channels): 36 products of matrices. The gradient of the weights is the same backwards: the
 * transformed tiles of the input, transposed, times those of the output's gradient, A dY Aᵀ, summed over the tiles, and
 * then Gᵀ · G. The gradient of the input is a convolution of the output's gradient with the weights turned by 180°.
 *
 * The transforms evaluate polynomials at 0, ±3/4, ±3/2 and ∞: with these the error of rounding is half of what it is with
 * the paper's 0, ±1, ±2 and ∞, and about twice that of a plain sum.
 *
 * Maps are float32 in channels-last memory (images, height, width, channels), and the numbers of channels multiples of 16.
 * A few tiles are worked on at a time, which stay in the cache. For outputs each thread has tiles of its own; for the
 * gradient of the weights they share the transforms, and then the parts, so that each sum is one thread's.
 */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "matrix_product.h"

enum {
    TILE = 4, /* rows and columns of outputs */
    SPAN = 6, /* rows and columns of inputs of a tile */
    PARTS = SPAN * SPAN,
    CHUNK = 1 << 17 /* values of transformed tiles at a time: half a megabyte */
};

typedef struct {
    Index images, height, width;
    Index across, tiles; /* tiles of a row of an image, of an image */
} Maps;

/* Matrices (tiles, channels) of the 36 parts. */
typedef struct {
    float *values;
    Index row, part; /* distances */
} Tiles;

static const float A = 0.75f, B = 1.5f, A2 = 0.5625f, B2 = 2.25f, A3 = 0.421875f, B3 = 3.375f;

/* Bᵀ d */
INLINE void transform_input(Vector v[SPAN], const Vector d[SPAN]) {
    Vector even_a = d[4] - B2 * d[2], odd_a = d[3] - B2 * d[1];
    Vector even_b = d[4] - A2 * d[2], odd_b = d[3] - A2 * d[1];
    v[0] = A2 * B2 * d[0] - (A2 + B2) * d[2] + d[4];
    v[1] = even_a + A * odd_a, v[2] = even_a - A * odd_a;
    v[3] = even_b + B * odd_b, v[4] = even_b - B * odd_b;
    v[5] = A2 * B2 * d[1] - (A2 + B2) * d[3] + d[5];
}

/* Aᵀ m */
INLINE void transform_output(Vector y[TILE], const Vector m[SPAN]) {
    Vector sum_a = m[1] + m[2], difference_a = m[1] - m[2], sum_b = m[3] + m[4], difference_b = m[3] - m[4];
    y[0] = m[0] + sum_a + sum_b;
    y[1] = A * difference_a + B * difference_b;
    y[2] = A2 * sum_a + B2 * sum_b;
    y[3] = A3 * difference_a + B3 * difference_b + m[5];
}

/* A dy */
INLINE void transform_gradient(Vector e[SPAN], const Vector y[TILE]) {
    Vector even_a = y[0] + A2 * y[2], odd_a = y[1] + A2 * y[3], even_b = y[0] + B2 * y[2], odd_b = y[1] + B2 * y[3];
    e[0] = y[0];
    e[1] = even_a + A * odd_a, e[2] = even_a - A * odd_a;
    e[3] = even_b + B * odd_b, e[4] = even_b - B * odd_b;
    e[5] = y[3];
}

/* What the rows of G are divided by: for a point p, the product of its differences from the others. */
static const float AT_0 = 1 / (0.5625f * 2.25f), AT_A = 1 / (2 * 0.5625f * (0.5625f - 2.25f)),
                   AT_B = 1 / (2 * 2.25f * (2.25f - 0.5625f));

/* G g */
INLINE void transform_weights(Vector u[SPAN], const Vector g[3]) {
    Vector even_a = AT_A * g[0] + AT_A * A2 * g[2], even_b = AT_B * g[0] + AT_B * B2 * g[2];
    u[0] = AT_0 * g[0];
    u[1] = even_a + AT_A * A * g[1], u[2] = even_a - AT_A * A * g[1];
    u[3] = even_b + AT_B * B * g[1], u[4] = even_b - AT_B * B * g[1];
    u[5] = g[2];
}

/* Gᵀ u */
INLINE void transform_weight_gradient(Vector g[3], const Vector u[SPAN]) {
    Vector sum_a = AT_A * (u[1] + u[2]), sum_b = AT_B * (u[3] + u[4]);
    g[0] = AT_0 * u[0] + sum_a + sum_b;
    g[1] = AT_A * A * (u[1] - u[2]) + AT_B * B * (u[3] - u[4]);
    g[2] = A2 * sum_a + B2 * sum_b + u[5];
}

/* Where the `size`×`size` values begin that a tile reads from row and column `margin` before its own; `zeros` outside. */
INLINE void find_places(const float **places, const float *maps, const float *zeros, Maps s, Index channels, Index tile,
                        const int size, const int margin) {
    Index image = tile / s.tiles, top = tile % s.tiles / s.across * TILE - margin,
          left = tile % s.tiles % s.across * TILE - margin;
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++) {
            Index row = top + y, column = left + x;
            int is_inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
            places[y * size + x] =
                is_inside ? maps + ((image * s.height + row) * s.width + column) * channels : zeros;
        }
}

/* Tiles base + first … base + last - 1 of the input → Bᵀ d B. Meanwhile the next tile is fetched, but for the rows and
 * columns that this one or the ones above it have read. */
static void transform_inputs(Tiles to, const float *maps, const float *zeros, Maps s, Index channels, Index base,
                             Index first, Index last) {
    const float *places[SPAN * SPAN], *next[SPAN * SPAN];
    if (first < last) find_places(next, maps, zeros, s, channels, base + first, SPAN, 1);
    for (Index tile = first; tile < last; tile++) {
        memcpy(places, next, sizeof places);
        find_places(next, maps, zeros, s, channels, base + least(tile + 1, last - 1), SPAN, 1);
        for (Index c = 0; c < channels; c += LANES) {
            Vector half[SPAN][SPAN], v[SPAN], d[SPAN];
            UNROLL for (int y = 2; y < SPAN; y++)
                UNROLL for (int x = 2; x < SPAN; x++) __builtin_prefetch(next[y * SPAN + x] + c);
            UNROLL for (int x = 0; x < SPAN; x++) {
                UNROLL for (int y = 0; y < SPAN; y++) d[y] = load(places[y * SPAN + x] + c);
                transform_input(v, d);
                UNROLL for (int y = 0; y < SPAN; y++) half[y][x] = v[y];
            }
            float *out = to.values + tile * to.row + c;
            UNROLL for (int y = 0; y < SPAN; y++) {
                transform_input(v, half[y]);
                UNROLL for (int x = 0; x < SPAN; x++) store(out + (y * SPAN + x) * to.part, v[x]);
            }
        }
    }
}

/* The same tiles of the output's gradient → A dY Aᵀ. */
static void transform_gradients(Tiles to, const float *maps, const float *zeros, Maps s, Index channels, Index base,
                                Index first, Index last) {
    for (Index tile = first; tile < last; tile++) {
        const float *places[TILE * TILE];
        find_places(places, maps, zeros, s, channels, base + tile, TILE, 0);
        for (Index c = 0; c < channels; c += LANES) {
            Vector half[SPAN][TILE], e[SPAN], y[TILE];
            UNROLL for (int j = 0; j < TILE; j++) {
                UNROLL for (int i = 0; i < TILE; i++) y[i] = load(places[i * TILE + j] + c);
                transform_gradient(e, y);
                UNROLL for (int i = 0; i < SPAN; i++) half[i][j] = e[i];
            }
            float *out = to.values + tile * to.row + c;
            UNROLL for (int i = 0; i < SPAN; i++) {
                transform_gradient(e, half[i]);
                UNROLL for (int j = 0; j < SPAN; j++) store(out + (i * SPAN + j) * to.part, e[j]);
            }
        }
    }
}

/* Tiles base … base + tiles - 1 of the products → Aᵀ M A + bias, in the maps. */
static void transform_outputs(float *maps, const float *bias, Tiles from, Maps s, Index channels, Index base,
                              Index tiles) {
    for (Index tile = 0; tile < tiles; tile++) {
        Index image = (base + tile) / s.tiles, number = (base + tile) % s.tiles, top = number / s.across * TILE,
              left = number % s.across * TILE, rows = least(TILE, s.height - top), columns = least(TILE, s.width - left);
        float *out = maps + ((image * s.height + top) * s.width + left) * channels;
        for (Index c = 0; c < channels; c += LANES) {
            const float *in = from.values + tile * from.row + c;
            Vector half[SPAN][TILE], m[SPAN], y[TILE], added = bias ? load(bias + c) : splat(0);
            UNROLL for (int i = 0; i < SPAN; i++) {
                UNROLL for (int j = 0; j < SPAN; j++) m[j] = load(in + (i * SPAN + j) * from.part);
                transform_output(half[i], m);
            }
            UNROLL for (int j = 0; j < TILE; j++) {
                UNROLL for (int i = 0; i < SPAN; i++) m[i] = half[i][j];
                transform_output(y, m);
                UNROLL for (int i = 0; i < TILE; i++)
                    if (i < rows && j < columns) store(out + (i * s.width + j) * channels + c, y[i] + added);
            }
        }
    }
}

/* Rows of matrices are kept apart from multiples of 4 KB, which would share lines of the cache. */
INLINE Index row_size(Index channels) { return channels + LINE; }

/* Floats of each part of transformed weights. */
INLINE Index weights_size(Index channels, Index out_channels) { return channels * out_channels + LINE; }

static Tiles tiles_at(float *values, Index channels, Index tiles) {
    return (Tiles){values, row_size(channels), tiles * row_size(channels) + LINE};
}

static Maps maps_of(Index images, Index height, Index width) {
    Index across = (width + TILE - 1) / TILE;
    return (Maps){images, height, width, across, across * ((height + TILE - 1) / TILE)};
}

/* Tiles that a thread works on at a time; `channels` are those of the input and the output together. */
static Index chunk_tiles(Index all, Index channels, int threads) {
    Index tiles = CHUNK / (PARTS * channels) / ROWS * ROWS;
    return least((all + threads - 1) / threads, tiles < 2 * ROWS ? 2 * ROWS : tiles);
}

static Index scratch_size(Index tiles, Index channels, Index out_channels) {
    return PARTS * (tiles * (row_size(channels) + row_size(out_channels)) + 2 * LINE);
}

/* Floats of transformed weights. */
Index conv3x3_weights_size(Index channels, Index out_channels) { return PARTS * weights_size(channels, out_channels); }

/* Floats of scratch memory that conv3x3 and conv3x3_weight_gradient need. */
Index conv3x3_scratch_size(Index images, Index height, Index width, Index channels, Index out_channels, int threads) {
    Index tiles = chunk_tiles(images * maps_of(images, height, width).tiles, channels + out_channels, threads);
    return threads * scratch_size(tiles, channels, out_channels);
}

INLINE Vector load_strided(const float *from, Index stride) {
    if (stride == 1) return load(from);
    Vector v = {0};
    UNROLL for (int i = 0; i < LANES; i++) v[i] = from[i * stride];
    return v;
}

/* Weights → G g Gᵀ: for each part panels of PANEL output channels, (channels, PANEL) each. The four strides are those of
 * the output channels, the channels, the rows and columns of the kernel. */
void conv3x3_weights(const float *weights, const Index *strides, Index channels, Index out_channels, float *to,
                     int threads) {
    Index blocks = out_channels / LANES;
#pragma omp parallel for num_threads(threads) schedule(static) collapse(2)
    for (Index block = 0; block < blocks; block++)
        for (Index c = 0; c < channels; c++) {
            Index o = block * LANES, panel = o / PANEL * PANEL, columns = least(PANEL, out_channels - panel);
            Vector half[SPAN][3], u[SPAN], g[3];
            UNROLL for (int x = 0; x < 3; x++) {
                UNROLL for (int y = 0; y < 3; y++) {
                    const float *from = weights + o * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
                    g[y] = load_strided(from, strides[0]);
                }
                transform_weights(u, g);
                UNROLL for (int y = 0; y < SPAN; y++) half[y][x] = u[y];
            }
            float *out = to + panel * channels + c * columns + o - panel;
            UNROLL for (int y = 0; y < SPAN; y++) {
                transform_weights(u, half[y]);
                UNROLL for (int x = 0; x < SPAN; x++)
                    store(out + (y * SPAN + x) * weights_size(channels, out_channels), u[x]);
            }
        }
}

/* (images, height, width, channels) → (images, height, width, out_channels); `weights` are transformed; bias or NULL. */
void conv3x3(const float *maps, const float *weights, const float *bias, const float *zeros, float *output, Index images,
             Index height, Index width, Index channels, Index out_channels, float *scratch, int threads) {
    Maps s = maps_of(images, height, width);
    Index all = images * s.tiles, size = chunk_tiles(all, channels + out_channels, threads);
#pragma omp parallel num_threads(threads)
    {
        Index first, last, member = omp_get_thread_num();
        Tiles in = tiles_at(scratch + member * scratch_size(size, channels, out_channels), channels, size);
        Tiles out = tiles_at(in.values + PARTS * in.part, out_channels, size);
        find_share(&first, &last, all, member, omp_get_num_threads());
        for (Index base = first; base < last; base += size) {
            Index tiles = least(size, last - base);
            transform_inputs(in, maps, zeros, s, channels, base, 0, tiles);
            Index blocks = (tiles + ROWS - 1) / ROWS;
            for (Index part = 0; part < PARTS; part++)
                for (Index column = 0; column < out_channels; column += PANEL) {
                    Index columns = least(PANEL, out_channels - column);
                    const float *panel = weights + part * weights_size(channels, out_channels) + column * channels;
                    multiply_panel((Product){.c = out.values + part * out.part + column, .c_row = out.row,
                                             .a = in.values + part * in.part, .a_row = in.row, .a_term = 1,
                                             .b = panel, .b_term = columns,
                                             .rows = tiles, .terms = channels, .columns = columns,
                                             .ahead = panel + channels * columns, .step = (PANEL + blocks - 1) / blocks});
                }
            transform_outputs(output, bias, out, s, out_channels, base, tiles);
        }
    }
}

/* The gradient of the weights, (out_channels, 3, 3, channels), from the input and the gradient of the output. `sums` has
 * 36 · out_channels · channels floats. */
void conv3x3_weight_gradient(const float *maps, const float *gradients, const float *zeros, float *sums, float *found,
                             Index images, Index height, Index width, Index channels, Index out_channels, float *scratch,
                             int threads) {
    Maps s = maps_of(images, height, width);
    Index all = images * s.tiles, size = threads * chunk_tiles(all, channels + out_channels, threads);
    Tiles in = tiles_at(scratch, channels, size);
    Tiles out = tiles_at(scratch + PARTS * in.part, out_channels, size);
    Index panels = (channels + PANEL - 1) / PANEL, part_size = channels * out_channels;
#pragma omp parallel num_threads(threads)
    {
        Index first, last, member = omp_get_thread_num(), members = omp_get_num_threads();
        for (Index base = 0; base < all; base += size) {
            Index tiles = least(size, all - base);
            find_share(&first, &last, tiles, member, members);
            transform_inputs(in, maps, zeros, s, channels, base, first, last);
            transform_gradients(out, gradients, zeros, s, out_channels, base, first, last);
#pragma omp barrier
            find_share(&first, &last, PARTS * panels, member, members);
            for (Index item = first; item < last; item++) {
                Index part = item / panels, column = item % panels * PANEL, columns = least(PANEL, channels - column);
                const float *panel = in.values + part * in.part + column;
                multiply_panel((Product){.c = sums + part * part_size + column, .c_row = channels,
                                         .a = out.values + part * out.part, .a_row = 1, .a_term = out.row,
                                         .b = panel, .b_term = in.row,
                                         .rows = out_channels, .terms = tiles, .columns = columns,
                                         .adds = base > 0, .ahead = panel});
            }
#pragma omp barrier
        }
#pragma omp for schedule(static)
        for (Index o = 0; o < out_channels; o++)
            for (Index c = 0; c < channels; c += LANES) {
                Vector half[3][SPAN], u[SPAN], g[3];
                UNROLL for (int x = 0; x < SPAN; x++) {
                    UNROLL for (int y = 0; y < SPAN; y++)
                        u[y] = load(sums + (y * SPAN + x) * part_size + o * channels + c);
                    transform_weight_gradient(g, u);
                    UNROLL for (int y = 0; y < 3; y++) half[y][x] = g[y];
                }
                UNROLL for (int y = 0; y < 3; y++) {
                    transform_weight_gradient(g, half[y]);
                    UNROLL for (int x = 0; x < 3; x++) store(found + ((o * 3 + y) * 3 + x) * channels + c, g[x]);
                }
            }
    }
}
