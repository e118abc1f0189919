/* Passes over maps and weights that transform them; for conv3x3.c. */

#ifndef CONV3X3_PASSES_H
#define CONV3X3_PASSES_H

#include <string.h>

#include "winograd.h"

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

static Panels panels_of(int is_whole, Index rows, Index columns, int phases) {
    Index part = rows * PANEL + LINE;
    return (Panels){NULL, rows, columns, phases, part, part_count(is_whole) * part};
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
    Index far = w.column == 1 ? w.row : w.column;
    for (int y = 0; y < 3; y++)
        for (int x = 0; x < 3; x++)
            for (int j = 0; j < LANES; j++) {
                const float *from = corner + y * w.y + x * w.x + j * far;
                __builtin_prefetch(from + 2 * LANES * w.row);
                if (w.column == 1)
                    store(block[3 * y + x][j], load(from));
                else
                    for (int i = 0; i < LANES; i++) block[3 * y + x][i][j] = from[i * w.row];
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

#endif
