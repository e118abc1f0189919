/* 3×3 convolutions with padding 1 and stride 1 or 2, and their gradients, by Winograd's algorithm (Lavin & Gray 2015,
 * https://arxiv.org/abs/1509.09308). In one dimension
 *
 *     y = Aᵀ [ (G g) ∘ (Bᵀ d) ]     d: inputs, g: weights, y: 4 outputs, ∘: element by element
 *
 * and in two dimensions the same for rows and then for columns. Element m of the transformed tiles is a matrix (tiles,
 * channels), and element m of the transformed weights a matrix (channels, output channels): a product of matrices for each
 * part m. The gradient of the weights is the same backwards: the transformed tiles of the input, transposed, times those of
 * the output's gradient, A dY Aᵀ, summed over the tiles, and then Gᵀ · G. The gradient of the input is a convolution of the
 * output's gradient with the weights turned by 180°.
 *
 * Stride 1: F(4×4, 3×3), 36 products for each 4×4 outputs and pair of channels instead of 144. Stride 2: the odd rows of the
 * input meet the first and third row of the weights, the even rows the second, and columns likewise. That gives four phases
 * of the input, each convolved with stride 1 by at most 2×2 weights, F(4×4, 2×2): 25 parts, of which 5 belong to the second
 * weight of a row or column alone and are left out where there is one weight: 25 + 20 + 20 + 16 = 81 products.
 *
 * The transforms evaluate polynomials at ±3/4, ±3/2, 0 and ∞ (stride 2: ±1/2, ±5/4 and ∞). With these the error of rounding
 * is half of what it is with the paper's points, and about twice that of a plain sum.
 *
 * Maps are float32 in channels-last memory (images, height, width, channels), and the numbers of channels multiples of 16.
 * Most work on some tiles at a time, which stay in the cache, with weights that are transformed before. Where weights would
 * take more memory than tiles, all tiles are transformed before, and a panel of weights when it is needed, which is never
 * written to memory.
 */

#include <omp.h>
#include <stdint.h>
#include <string.h>

#include "matrix_product.h"

enum {
    TILE = 4, /* rows and columns of outputs */
    SPAN = 6, /* most rows and columns of parts */
    CHUNK = 1 << 17, /* values of some transformed tiles: half a megabyte */
    MUCH = 1 << 22, /* values of transformed weights: 16 megabytes, about half of the last cache */
    OWN = 1 << 20 /* values of sums of gradients of which each thread has its own: 4 megabytes */
};

/* Rows and columns of the input for stride 2, in an order in which those with products in a part follow each other; all of
 * them, for stride 1. */
typedef enum { EVEN_EVEN, EVEN_ODD, ODD_ODD, ODD_EVEN, PHASES, WHOLE = PHASES } Phase;

INLINE int is_odd_row(Phase phase) { return phase == ODD_ODD || phase == ODD_EVEN; }
INLINE int is_odd_column(Phase phase) { return phase == ODD_ODD || phase == EVEN_ODD; }

/* Along rows or columns: how many parts, of any phase or of one; weights; and which weight number i is. */
INLINE int span(int is_whole) { return is_whole ? 6 : 5; }
INLINE int parts(Phase phase, int is_odd) { return phase == WHOLE ? 6 : is_odd ? 5 : 4; }
INLINE int taps(Phase phase, int is_odd) { return phase == WHOLE ? 3 : is_odd ? 2 : 1; }
INLINE int tap(Phase phase, int is_odd, int i) { return phase == WHOLE ? i : is_odd ? 2 * i : 1; }

/* The first phase with products in a part, and how many; *count = 1 for stride 1. */
INLINE int first_phase(int is_whole, int part, int *count) {
    int is_last_row = part / 5 == 4, is_last_column = part % 5 == 4;
    *count = is_whole ? 1 : PHASES >> (is_last_row + is_last_column);
    return is_whole ? 0 : is_last_row ? ODD_ODD : is_last_column ? EVEN_ODD : EVEN_EVEN;
}

/* Calls `function` with a constant as the phase. */
#define WITH_PHASE(function, phase, ...)                           \
    switch (phase) {                                               \
        case EVEN_EVEN: function(EVEN_EVEN, __VA_ARGS__); break;   \
        case EVEN_ODD: function(EVEN_ODD, __VA_ARGS__); break;     \
        case ODD_ODD: function(ODD_ODD, __VA_ARGS__); break;       \
        case ODD_EVEN: function(ODD_EVEN, __VA_ARGS__); break;     \
        default: function(WHOLE, __VA_ARGS__);                     \
    }

/* Points ±a and ±b, their squares, and the inverse of the product of a point's differences from the others. */
typedef struct {
    float a, b, a2, b2, at_a, at_b;
} Points;

INLINE Points points(int is_whole) {
    const float a = is_whole ? 0.75f : 0.5f, b = is_whole ? 1.5f : 1.25f;
    return (Points){a, b, a * a, b * b, 1 / (2 * (is_whole ? a * a : a) * (a * a - b * b)),
                    1 / (2 * (is_whole ? b * b : b) * (b * b - a * a))};
}

/* Bᵀ d */
INLINE void transform_input(int is_whole, Vector *v, const Vector *d) {
    Points p = points(is_whole);
    if (is_whole) {
        *v++ = p.a2 * p.b2 * d[0] - (p.a2 + p.b2) * d[2] + d[4];
        d++;
    }
    Vector even_a = d[3] - p.b2 * d[1], odd_a = p.a * (d[2] - p.b2 * d[0]);
    Vector even_b = d[3] - p.a2 * d[1], odd_b = p.b * (d[2] - p.a2 * d[0]);
    v[0] = even_a + odd_a, v[1] = even_a - odd_a;
    v[2] = even_b + odd_b, v[3] = even_b - odd_b;
    v[4] = p.a2 * p.b2 * d[0] - (p.a2 + p.b2) * d[2] + d[4];
}

/* Aᵀ m, of `count` parts */
INLINE void transform_output(int is_whole, Vector y[TILE], const Vector *m, int count) {
    Points p = points(is_whole);
    const Vector *n = m + is_whole;
    Vector sum_a = n[0] + n[1], difference_a = n[0] - n[1], sum_b = n[2] + n[3], difference_b = n[2] - n[3];
    y[0] = sum_a + sum_b;
    y[1] = p.a * difference_a + p.b * difference_b;
    y[2] = p.a2 * sum_a + p.b2 * sum_b;
    y[3] = p.a * p.a2 * difference_a + p.b * p.b2 * difference_b;
    if (is_whole) y[0] += m[0];
    if (count == span(is_whole)) y[3] += n[4];
}

/* A dy */
INLINE void transform_gradient(int is_whole, Vector *e, const Vector y[TILE]) {
    Points p = points(is_whole);
    if (is_whole) *e++ = y[0];
    Vector even_a = y[0] + p.a2 * y[2], odd_a = p.a * (y[1] + p.a2 * y[3]);
    Vector even_b = y[0] + p.b2 * y[2], odd_b = p.b * (y[1] + p.b2 * y[3]);
    e[0] = even_a + odd_a, e[1] = even_a - odd_a;
    e[2] = even_b + odd_b, e[3] = even_b - odd_b;
    e[4] = y[3];
}

/* G g, of `count` weights */
INLINE void transform_weights(Vector *u, const Vector *g, int count) {
    Points p = points(count == 3);
    if (count == 3) {
        Vector even_a = p.at_a * g[0] + p.at_a * p.a2 * g[2], even_b = p.at_b * g[0] + p.at_b * p.b2 * g[2];
        u[0] = 1 / (p.a2 * p.b2) * g[0];
        u[1] = even_a + p.at_a * p.a * g[1], u[2] = even_a - p.at_a * p.a * g[1];
        u[3] = even_b + p.at_b * p.b * g[1], u[4] = even_b - p.at_b * p.b * g[1];
        u[5] = g[2];
    } else if (count == 2) {
        u[0] = p.at_a * p.a * g[1] + p.at_a * g[0], u[1] = p.at_a * p.a * g[1] - p.at_a * g[0];
        u[2] = p.at_b * p.b * g[1] + p.at_b * g[0], u[3] = p.at_b * p.b * g[1] - p.at_b * g[0];
        u[4] = g[1];
    } else {
        u[0] = p.at_a * g[0], u[1] = -u[0];
        u[2] = p.at_b * g[0], u[3] = -u[2];
    }
}

/* Gᵀ u, of `count` weights */
INLINE void transform_weight_gradient(Vector *g, const Vector *u, int count) {
    Points p = points(count == 3);
    if (count == 3) {
        Vector sum_a = p.at_a * (u[1] + u[2]), sum_b = p.at_b * (u[3] + u[4]);
        g[0] = 1 / (p.a2 * p.b2) * u[0] + sum_a + sum_b;
        g[1] = p.at_a * p.a * (u[1] - u[2]) + p.at_b * p.b * (u[3] - u[4]);
        g[2] = p.a2 * sum_a + p.b2 * sum_b + u[5];
    } else {
        g[0] = p.at_a * (u[0] - u[1]) + p.at_b * (u[2] - u[3]);
        if (count == 2) g[1] = p.at_a * p.a * (u[0] + u[1]) + p.at_b * p.b * (u[2] + u[3]) + u[4];
    }
}

/* Maps of a convolution; with four phases, rows and columns of a phase are 2 apart. */
typedef struct {
    Index height, width, channels;
    int phases;
} Maps;

/* Tiles of the smaller maps. */
typedef struct {
    Index all, of_image, across;
} Grid;

/* Matrices (tiles, channels) of the parts, and those of other phases beside them. */
typedef struct {
    float *values;
    Index row, panel, phase, part; /* distances of tiles, of PANEL channels, phases and parts */
} Tiles;

/* In rows, which are kept apart from multiples of 4 KB that would share lines of the cache. */
static Tiles tiles_in_rows(Index tiles, Index channels, int phases) {
    Index row = phases * channels + LINE;
    return (Tiles){NULL, row, PANEL, channels, tiles * row + LINE};
}

/* In panels of PANEL channels. */
static Tiles tiles_in_panels(Index tiles, Index channels, int phases) {
    Index panel = tiles * PANEL + LINE, phase = (channels + PANEL - 1) / PANEL * panel;
    return (Tiles){NULL, PANEL, panel, phase, phases * phase};
}

static Tiles tiles_at(Tiles tiles, float *values) {
    tiles.values = values;
    return tiles;
}

/* Where the `rows`×`columns` values of a tile begin, `step` apart, from row `top` and column `left` on; `zeros` outside. */
INLINE void find_places(const float **places, const float *maps, const float *zeros, Maps s, Index image, Index top,
                        Index left, const int rows, const int columns, int step) {
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < columns; x++) {
            Index row = top + y * step, column = left + x * step;
            int is_inside = row >= 0 && row < s.height && column >= 0 && column < s.width;
            places[y * columns + x] =
                is_inside ? maps + ((image * s.height + row) * s.width + column) * s.channels : zeros;
        }
}

/* Tiles base + first … base + last - 1 of the input → Bᵀ d B, `before` rows and columns before those of the output.
 * Meanwhile the next tile is fetched, but for the rows and columns that this one or the ones above it have read. */
INLINE void transform_phase_inputs(const Phase phase, Tiles to, const float *maps, const float *zeros, Maps s, Grid grid,
                                   int row_before, int column_before, Index base, Index first, Index last) {
    const int is_whole = phase == WHOLE, rows = parts(phase, is_odd_row(phase)), columns = parts(phase, is_odd_column(phase));
    const int step = s.phases == 1 ? 1 : 2;
    const float *places[SPAN * SPAN], *next[SPAN * SPAN];
    for (Index tile = first - 1; tile < last; tile++) {
        memcpy(places, next, sizeof places);
        Index coming = base + least(tile + 1, last - 1), number = coming % grid.of_image;
        find_places(next, maps, zeros, s, coming / grid.of_image, number / grid.across * TILE * step - row_before,
                    number % grid.across * TILE * step - column_before, rows, columns, step);
        if (tile < first) continue;
        for (Index c = 0; c < s.channels; c += LANES) {
            Vector half[SPAN][SPAN] = {0}, v[SPAN], d[SPAN] = {{0}};
            UNROLL for (int y = rows - TILE; y < rows; y++)
                UNROLL for (int x = columns - TILE; x < columns; x++) __builtin_prefetch(next[y * columns + x] + c);
            UNROLL for (int x = 0; x < columns; x++) {
                UNROLL for (int y = 0; y < rows; y++) d[y] = load(places[y * columns + x] + c);
                transform_input(is_whole, v, d);
                UNROLL for (int y = 0; y < rows; y++) half[y][x] = v[y];
            }
            float *out = to.values + c / PANEL * to.panel + tile * to.row + c % PANEL;
            UNROLL for (int y = 0; y < rows; y++) {
                transform_input(is_whole, v, half[y]);
                UNROLL for (int x = 0; x < columns; x++) store(out + (y * span(is_whole) + x) * to.part, v[x]);
            }
        }
    }
}

static void transform_inputs(int is_whole, Tiles to, const float *maps, const float *zeros, Maps s, Grid grid, Index base,
                             Index first, Index last) {
    for (int i = 0; i < s.phases; i++) {
        Phase phase = is_whole ? WHOLE : s.phases == 1 ? ODD_ODD : (Phase)i;
        int row_before = is_whole || (s.phases > 1 && is_odd_row(phase)),
            column_before = is_whole || (s.phases > 1 && is_odd_column(phase));
        WITH_PHASE(transform_phase_inputs, phase, to, maps, zeros, s, grid, row_before, column_before, base, first, last)
        to.values += to.phase;
    }
}

/* Tiles base + first … base + last - 1 of the output's gradient → A dY Aᵀ. */
INLINE void transform_gradient_tiles(const int is_whole, Tiles to, const float *maps, const float *zeros, Maps s,
                                     Grid grid, Index base, Index first, Index last) {
    for (Index tile = first; tile < last; tile++) {
        const float *places[TILE * TILE];
        Index number = (base + tile) % grid.of_image;
        find_places(places, maps, zeros, s, (base + tile) / grid.of_image, number / grid.across * TILE,
                    number % grid.across * TILE, TILE, TILE, 1);
        for (Index c = 0; c < s.channels; c += LANES) {
            Vector half[SPAN][TILE], e[SPAN], y[TILE];
            UNROLL for (int j = 0; j < TILE; j++) {
                UNROLL for (int i = 0; i < TILE; i++) y[i] = load(places[i * TILE + j] + c);
                transform_gradient(is_whole, e, y);
                UNROLL for (int i = 0; i < span(is_whole); i++) half[i][j] = e[i];
            }
            float *out = to.values + tile * to.row + c;
            UNROLL for (int i = 0; i < span(is_whole); i++) {
                transform_gradient(is_whole, e, half[i]);
                UNROLL for (int j = 0; j < span(is_whole); j++)
                    store(out + (i * span(is_whole) + j) * to.part, e[j]);
            }
        }
    }
}

static void transform_gradients(int is_whole, Tiles to, const float *maps, const float *zeros, Maps s, Grid grid,
                                Index base, Index first, Index last) {
    if (is_whole)
        transform_gradient_tiles(1, to, maps, zeros, s, grid, base, first, last);
    else
        transform_gradient_tiles(0, to, maps, zeros, s, grid, base, first, last);
}

/* Tiles base … base + tiles - 1 of `columns` channels of the products → Aᵀ M A + bias, in a phase of the maps. */
INLINE void transform_phase_outputs(const Phase phase, float *maps, const float *bias, Tiles from, Maps s, Grid grid,
                                    Index base, Index tiles, Index columns) {
    const int is_whole = phase == WHOLE, rows = parts(phase, is_odd_row(phase)), across = parts(phase, is_odd_column(phase));
    const int step = s.phases == 1 ? 1 : 2;
    for (Index tile = 0; tile < tiles; tile++) {
        Index image = (base + tile) / grid.of_image, number = (base + tile) % grid.of_image;
        Index top = number / grid.across * TILE * step + (s.phases > 1 && is_odd_row(phase)),
              left = number % grid.across * TILE * step + (s.phases > 1 && is_odd_column(phase));
        float *out = maps + ((image * s.height + top) * s.width + left) * s.channels;
        for (Index c = 0; c < columns; c += LANES) {
            const float *in = from.values + tile * from.row + c;
            Vector half[SPAN][TILE], m[SPAN], y[TILE], added = bias ? load(bias + c) : splat(0);
            UNROLL for (int i = 0; i < rows; i++) {
                UNROLL for (int j = 0; j < across; j++) m[j] = load(in + (i * span(is_whole) + j) * from.part);
                transform_output(is_whole, half[i], m, across);
            }
            UNROLL for (int j = 0; j < TILE; j++) {
                UNROLL for (int i = 0; i < rows; i++) m[i] = half[i][j];
                transform_output(is_whole, y, m, rows);
                UNROLL for (int i = 0; i < TILE; i++)
                    if (top + i * step < s.height && left + j * step < s.width)
                        store(out + (i * s.width + j) * step * s.channels + c, y[i] + added);
            }
        }
    }
}

/* Matrices (rows, columns) of the parts, of transformed weights or of sums of their gradients, in panels of PANEL columns;
 * with several phases a panel of one follows that of the phase before. */
typedef struct {
    float *values;
    Index rows, columns;
    int phases;
    Index part, panel; /* distances */
} Panels;

static Panels panels_at(float *values, int is_whole, Index rows, Index columns, int phases) {
    Index part = rows * PANEL + LINE;
    return (Panels){values, rows, columns, phases, part, span(is_whole) * span(is_whole) * part};
}

static Index panel_count(Panels p) { return (p.columns + PANEL - 1) / PANEL * p.phases; }
static Index panel_column(Panels p, Index panel) { return panel / p.phases * PANEL; }
static Index panel_width(Panels p, Index panel) { return least(PANEL, p.columns - panel_column(p, panel)); }

/* 3×3 weights of a convolution: distances of what are rows and columns of its products, and of those of the kernel. */
typedef struct {
    const float *values;
    Index row, column, y, x;
} Weights;

/* LANES×LANES of them, to where columns are adjacent; rows or columns are adjacent in the weights, too. */
static void read_block(float block[9][LANES][LANES], Weights w, const float *corner) {
    Index far = w.column == 1 ? w.row : w.column, near = w.column == 1 ? 1 : w.row;
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++)
            for (int j = 0; j < LANES; j++) {
                const float *from = corner + y * w.y + x * w.x + j * far;
                __builtin_prefetch(from + 2 * LANES * w.row);
                if (w.column == 1)
                    store(block[3 * y + x][j], load(from));
                else
                    for (int i = 0; i < LANES; i++) block[3 * y + x][i][j] = from[i * near];
            }
}

/* Weights → G g Gᵀ: `width` columns of `rows` rows. */
INLINE void transform_phase_weights(const Phase phase, float *to, Index part, Weights w, Index rows, Index width) {
    const int odd_row = is_odd_row(phase), odd_column = is_odd_column(phase);
    for (Index row = 0; row < rows; row += LANES)
        for (Index column = 0; column < width; column += LANES) {
            float block[9][LANES][LANES];
            read_block(block, w, w.values + row * w.row + column * w.column);
            for (Index i = 0; i < LANES; i++) {
                Vector half[SPAN][3], u[SPAN], g[3];
                UNROLL for (int x = 0; x < taps(phase, odd_column); x++) {
                    UNROLL for (int y = 0; y < taps(phase, odd_row); y++)
                        g[y] = load(block[3 * tap(phase, odd_row, y) + tap(phase, odd_column, x)][i]);
                    transform_weights(u, g, taps(phase, odd_row));
                    UNROLL for (int y = 0; y < parts(phase, odd_row); y++) half[y][x] = u[y];
                }
                float *out = to + (row + i) * width + column;
                UNROLL for (int y = 0; y < parts(phase, odd_row); y++) {
                    transform_weights(u, half[y], taps(phase, odd_column));
                    UNROLL for (int x = 0; x < parts(phase, odd_column); x++)
                        store(out + (y * span(phase == WHOLE) + x) * part, u[x]);
                }
            }
        }
}

/* A panel, whose rows are channels of `phases` phases. */
static void transform_panel(float *to, int is_whole, int phases, Panels p, Weights w, Index panel) {
    Index rows = p.rows / phases, width = panel_width(p, panel);
    w.values += panel_column(p, panel) * w.column;
    for (int i = 0; i < phases; i++) {
        Phase phase = is_whole ? WHOLE : (Phase)(phases > 1 ? i : panel % p.phases);
        WITH_PHASE(transform_phase_weights, phase, to + i * rows * width, p.part, w, rows, width)
    }
}

/* How a call divides its work: what it needs of scratch memory, in floats, for tiles of the input, tiles of the output or
 * its gradient, and panels of weights or their gradients. */
typedef struct {
    int is_whole;
    Grid grid;
    Maps in, out;
    Panels panels;
    Tiles in_tiles, out_tiles;
    int by_panels; /* all tiles are transformed, and then a panel is worked on at a time */
    Index teams; /* threads that work on tiles of their own, or 1 if all share them */
    Index size; /* tiles that a team works on at a time */
    Index in_size, out_size, panels_size, scratch_size;
} Plan;

/* What is computed: outputs, the gradient of the input, or that of the weights. */
typedef enum { OUTPUT, INPUT_GRADIENT, WEIGHT_GRADIENT } Use;

static Plan make_plan(Use use, Index images, Index height, Index width, Index channels, Index out_channels, int stride,
                      Index threads) {
    Index down = (height + stride - 1) / stride, across = (width + stride - 1) / stride,
          tiles_across = (across + TILE - 1) / TILE, of_image = tiles_across * ((down + TILE - 1) / TILE);
    Maps large = {height, width, channels, stride == 1 ? 1 : PHASES}, small = {down, across, out_channels, 1};
    Plan p = {.is_whole = stride == 1, .grid = {images * of_image, of_image, tiles_across},
              .in = use == INPUT_GRADIENT ? small : large, .out = use == INPUT_GRADIENT ? large : small};
    Index in_columns = p.in.phases * p.in.channels, out_columns = p.out.phases * p.out.channels, all = p.grid.all;
    Index square = span(p.is_whole) * span(p.is_whole);
    p.panels = use == WEIGHT_GRADIENT ? panels_at(NULL, p.is_whole, p.out.channels, p.in.channels, p.in.phases)
                                      : panels_at(NULL, p.is_whole, in_columns, p.out.channels, p.out.phases);
    Index count = panel_count(p.panels), weights = count * p.panels.panel;
    p.by_panels = weights > MUCH && square * all * in_columns < weights && count >= threads;
    int is_shared = use == WEIGHT_GRADIENT && (p.by_panels || weights > OWN || all < threads);
    p.teams = is_shared ? 1 : threads;
    Index share = (all + p.teams - 1) / p.teams, least_size = 2 * ROWS * threads / p.teams,
          some = CHUNK / (square * (in_columns + out_columns)) / ROWS * ROWS;
    p.size = p.by_panels ? all : least(share, some < least_size ? least_size : some);
    p.in_tiles = use == WEIGHT_GRADIENT ? tiles_in_panels(p.size, p.in.channels, p.in.phases)
                                        : tiles_in_rows(p.size, p.in.channels, p.in.phases);
    p.out_tiles = use == WEIGHT_GRADIENT ? tiles_in_rows(p.size, p.out.channels, 1)
                                         : tiles_in_rows(p.size, p.by_panels ? PANEL : count * PANEL, 1);
    p.in_size = square * p.in_tiles.part, p.out_size = square * p.out_tiles.part;
    p.panels_size = p.by_panels ? p.panels.panel : weights;
    if (use == WEIGHT_GRADIENT)
        p.scratch_size = p.teams * (p.in_size + p.out_size) + (p.by_panels ? threads : p.teams) * p.panels_size;
    else if (p.by_panels)
        p.scratch_size = p.in_size + threads * (p.out_size + p.panels_size);
    else
        p.scratch_size = threads * (p.in_size + p.out_size) + p.panels_size;
    return p;
}

/* Transformed tiles × transformed weights of the panels first … last - 1, which are at p.values, → outputs. */
static void compute_outputs(float *output, const float *bias, Tiles in, Tiles out, Panels p, Plan plan, Index base,
                            Index tiles, Index first, Index last) {
    Index blocks = (tiles + ROWS - 1) / ROWS, rows = p.rows / plan.in.phases;
    for (int part = 0; part < span(plan.is_whole) * span(plan.is_whole); part++) {
        int count, phase = first_phase(plan.is_whole, part, &count);
        Index skipped = plan.in.phases > 1 ? phase * rows : 0, terms = plan.in.phases > 1 ? count * rows : rows;
        for (Index panel = first; panel < last; panel++) {
            if (p.phases > 1 && (panel % p.phases < phase || panel % p.phases >= phase + count)) continue;
            Index width = panel_width(p, panel);
            const float *weights = p.values + (panel - first) * p.panel + part * p.part + skipped * width;
            Product product = {.c = out.values + part * out.part + (panel - first) * PANEL, .c_row = out.row,
                               .a = in.values + part * in.part + skipped, .a_row = in.row, .a_term = 1,
                               .b = weights, .b_term = width, .rows = tiles, .terms = terms, .columns = width};
            if (plan.by_panels) /* tiles are read from far, weights are near */
                product.ahead = product.a + ROWS * in.row, product.step = ROWS * in.row / terms;
            else
                product.ahead = panel + 1 < last ? weights + p.panel : weights + p.part - (panel - first) * p.panel,
                product.step = (PANEL + blocks - 1) / blocks;
            multiply_panel(product);
        }
    }
    for (Index panel = first; panel < last; panel += p.phases > 1 ? 1 : last - first) {
        Index column = panel_column(p, panel),
              width = p.phases > 1 ? panel_width(p, panel) : least((last - first) * PANEL, p.columns - column);
        Phase phase = plan.is_whole ? WHOLE : p.phases > 1 ? (Phase)(panel % p.phases) : ODD_ODD;
        Tiles from = tiles_at(out, out.values + (panel - first) * PANEL);
        WITH_PHASE(transform_phase_outputs, phase, output + column, bias ? bias + column : NULL, from, plan.out, plan.grid,
                   base, tiles, width)
    }
}

/* Floats of scratch memory that a use needs. Sizes are those of the input. */
Index conv3x3_scratch_size(int use, Index images, Index height, Index width, Index channels, Index out_channels, int stride,
                           int threads) {
    return make_plan(use, images, height, width, channels, out_channels, stride, threads).scratch_size;
}

/* The input (images, height, width, channels) → the output, or the gradient of the output → that of the input. `strides` are
 * those of the weights, (out_channels, channels, 3, 3); bias or NULL; `zeros` are as many as there are channels. */
void conv3x3(int use, const float *maps, const float *weights, const Index *strides, const float *bias, const float *zeros,
             float *output, Index images, Index height, Index width, Index channels, Index out_channels, int stride,
             float *scratch, int threads) {
    Plan plan = make_plan(use, images, height, width, channels, out_channels, stride, threads);
    Weights w = {weights, strides[1], strides[0], strides[2], strides[3]};
    if (use == INPUT_GRADIENT) /* turned by 180°: from the last value on, backwards */
        w = (Weights){weights + 2 * strides[2] + 2 * strides[3], strides[0], strides[1], -strides[2], -strides[3]};
    Index panels = panel_count(plan.panels);
#pragma omp parallel num_threads(threads)
    {
        Index first, last, member = omp_get_thread_num(), members = omp_get_num_threads();
        Panels p = plan.panels;
        find_share(&first, &last, plan.grid.all, member, members);
        if (plan.by_panels) {
            Tiles in = tiles_at(plan.in_tiles, scratch);
            Tiles out = tiles_at(plan.out_tiles, scratch + plan.in_size + member * (plan.out_size + plan.panels_size));
            p.values = out.values + plan.out_size;
            transform_inputs(plan.is_whole, in, maps, zeros, plan.in, plan.grid, 0, first, last);
#pragma omp barrier
#pragma omp for schedule(dynamic)
            for (Index panel = 0; panel < panels; panel++) {
                transform_panel(p.values, plan.is_whole, plan.in.phases, p, w, panel);
                compute_outputs(output, bias, in, out, p, plan, 0, plan.size, panel, panel + 1);
            }
        } else {
            p.values = scratch;
#pragma omp for schedule(static)
            for (Index panel = 0; panel < panels; panel++)
                transform_panel(p.values + panel * p.panel, plan.is_whole, plan.in.phases, p, w, panel);
            Tiles in = tiles_at(plan.in_tiles, scratch + plan.panels_size + member * (plan.in_size + plan.out_size));
            Tiles out = tiles_at(plan.out_tiles, in.values + plan.in_size);
            for (Index base = first; base < last; base += plan.size) {
                Index tiles = least(plan.size, last - base);
                transform_inputs(plan.is_whole, in, maps, zeros, plan.in, plan.grid, base, 0, tiles);
                compute_outputs(output, bias, in, out, p, plan, base, tiles, 0, panels);
            }
        }
    }
}

/* Products of a part and panel, of the tiles at hand, → sums. */
static void add_products(float *sums, Tiles in, Tiles out, Plan plan, Index tiles, Index panel, int part, int adds) {
    Panels p = plan.panels;
    int count, phase = first_phase(plan.is_whole, part, &count);
    if (panel % p.phases < phase || panel % p.phases >= phase + count) return;
    Index width = panel_width(p, panel);
    multiply_panel((Product){.c = sums + part * p.part, .c_row = width,
                             .a = out.values + part * out.part, .a_row = 1, .a_term = out.row,
                             .b = in.values + part * in.part + panel % p.phases * in.phase + panel / p.phases * in.panel,
                             .b_term = in.row, .rows = p.rows, .terms = tiles, .columns = width, .adds = adds,
                             .ahead = out.values + (part + 1) * out.part, .step = plan.by_panels ? LINE - 1 : 0});
}

/* Gᵀ · G of the sums of a panel, of all teams, → (out_channels, 3, 3, channels). */
INLINE void transform_phase_sums(const Phase phase, float *found, const float *sums, Index teams, Index team_size, Panels p,
                                 Index panel) {
    const int odd_row = is_odd_row(phase), odd_column = is_odd_column(phase);
    Index column = panel_column(p, panel), width = panel_width(p, panel);
    for (Index o = 0; o < p.rows; o++)
        for (Index c = 0; c < width; c += LANES) {
            Vector half[3][SPAN], u[SPAN], g[3];
            UNROLL for (int x = 0; x < parts(phase, odd_column); x++) {
                UNROLL for (int y = 0; y < parts(phase, odd_row); y++) {
                    const float *from = sums + (y * span(phase == WHOLE) + x) * p.part + o * width + c;
                    u[y] = load(from);
                    for (Index team = 1; team < teams; team++) u[y] += load(from + team * team_size);
                }
                transform_weight_gradient(g, u, taps(phase, odd_row));
                UNROLL for (int y = 0; y < taps(phase, odd_row); y++) half[y][x] = g[y];
            }
            UNROLL for (int y = 0; y < taps(phase, odd_row); y++) {
                transform_weight_gradient(g, half[y], taps(phase, odd_column));
                float *out = found + (o * 9 + 3 * tap(phase, odd_row, y)) * p.columns + column + c;
                UNROLL for (int x = 0; x < taps(phase, odd_column); x++)
                    store(out + tap(phase, odd_column, x) * p.columns, g[x]);
            }
        }
}

static void transform_sums(float *found, const float *sums, Index teams, Plan plan, Index panel) {
    Phase phase = plan.is_whole ? WHOLE : (Phase)(panel % plan.panels.phases);
    WITH_PHASE(transform_phase_sums, phase, found, sums, teams, plan.panels_size, plan.panels, panel)
}

/* The input and the gradient of the output → that of the weights, (out_channels, 3, 3, channels). */
void conv3x3_weight_gradient(const float *maps, const float *gradients, const float *zeros, float *found, Index images,
                             Index height, Index width, Index channels, Index out_channels, int stride, float *scratch,
                             int threads) {
    Plan plan = make_plan(WEIGHT_GRADIENT, images, height, width, channels, out_channels, stride, threads);
    float *all_sums = scratch + plan.teams * (plan.in_size + plan.out_size);
    Index panels = panel_count(plan.panels), square = span(plan.is_whole) * span(plan.is_whole), items = panels * square;
#pragma omp parallel num_threads(threads)
    {
        Index member = omp_get_thread_num(), members = omp_get_num_threads(); /* may be fewer than are asked for */
        Index teams = plan.teams > 1 ? members : 1, team = teams > 1 ? member : 0, place = member - team,
              places = members / teams;
        Index from, to, first, last;
        Tiles in = tiles_at(plan.in_tiles, scratch + team * (plan.in_size + plan.out_size));
        Tiles out = tiles_at(plan.out_tiles, in.values + plan.in_size);
        float *sums = all_sums + (plan.by_panels ? member : team) * plan.panels_size;
        find_share(&from, &to, plan.grid.all, team, teams);
        for (Index base = from; base < to; base += plan.size) {
            Index tiles = least(plan.size, to - base);
            find_share(&first, &last, tiles, place, places);
            transform_inputs(plan.is_whole, in, maps, zeros, plan.in, plan.grid, base, first, last);
            transform_gradients(plan.is_whole, out, gradients, zeros, plan.out, plan.grid, base, first, last);
            if (places > 1) {
#pragma omp barrier
            }
            if (plan.by_panels) {
#pragma omp for schedule(dynamic)
                for (Index panel = 0; panel < panels; panel++) {
                    for (Index part = 0; part < square; part++) add_products(sums, in, out, plan, tiles, panel, part, 0);
                    transform_sums(found, sums, 1, plan, panel);
                }
                continue;
            }
            find_share(&first, &last, items, place, places);
            for (Index item = first; item < last; item++)
                add_products(sums + item / square * plan.panels.panel, in, out, plan, tiles, item / square, item % square,
                             base > from);
            if (places > 1) {
#pragma omp barrier
            }
        }
        if (!plan.by_panels) {
#pragma omp barrier
#pragma omp for schedule(static)
            for (Index panel = 0; panel < panels; panel++)
                transform_sums(found, all_sums + panel * plan.panels.panel, teams, plan, panel);
        }
    }
}
