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
 * Maps are float32 in channels-last memory (images, height, width, channels), and the numbers of channels multiples of 16.
 * Most work on some tiles at a time, which stay in the cache, with weights that are transformed before. Where weights would
 * take more memory than tiles, all tiles are transformed before, and a panel of weights when it is needed, which is never
 * written to memory. Gradients of weights are summed by each thread for its own tiles where these sums are small; else
 * threads share the transforms, and then the parts.
 */

#include "conv3x3_passes.h"

enum {
    CHUNK = 1 << 17, /* values of some transformed tiles: half a megabyte */
    MUCH = 1 << 22, /* values of transformed weights: 16 megabytes, about half of the last cache */
    OWN = 1 << 20 /* values of sums of gradients of which each thread has its own: 4 megabytes */
};

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
    Index square = part_count(p.is_whole);
    p.panels = use == WEIGHT_GRADIENT ? panels_of(p.is_whole, p.out.channels, p.in.channels, p.in.phases)
                                      : panels_of(p.is_whole, in_columns, p.out.channels, p.out.phases);
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
    for (int part = 0; part < part_count(plan.is_whole); part++) {
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
        Index first, last, member = omp_get_thread_num();
        Panels p = plan.panels;
        find_own_share(&first, &last, plan.grid.all);
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
    Index panels = panel_count(plan.panels), square = part_count(plan.is_whole), items = panels * square;
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
