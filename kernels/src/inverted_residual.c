/* Expansion, depthwise convolution, squeeze-excitation, projection and sum, without the widened map in memory.
 *
 * Large maps: threads split the output rows. A thread keeps, for each block of widened channels, a ring of as many
 * rows as a tile of output rows needs; it expands what is new, convolves, and projects the tile.
 *
 * Small maps: threads split the widened channels. A thread expands some blocks over the whole map, convolves them,
 * and at last projects what it has; the partial sums are added up. Weights come from memory once, rows are not expanded
 * twice at the boundary between threads.
 *
 * Squeeze-excitation needs the means of the whole convolved map before the projection, so then the convolved map of
 * a thread's part is kept, and the projection follows when all threads have met. */
#include "walk.h"

#include <string.h>

static const int32_t first_position[1] = {0};
static const struct vk_ahead nothing = {0};

/* `height` output rows of a block, from the input row in slot `first` of `slots` on. */
static void depthwise(const struct vk_walk *walk, const struct vk_step *step, int block, const float *in,
                      ptrdiff_t in_line, int first, int slots, int height, float *out, float *sums) {
    const struct vk_depthwise job = {
        .in = in,
        .in_line = in_line,
        .first = first,
        .slots = slots,
        .weights = walk->weights + step->depthwise_weights + (ptrdiff_t)block * step->kernel * step->kernel * VK_BLOCK,
        .bias = walk->weights + step->depthwise_bias + block * VK_BLOCK,
        .out = out,
        .sums = sums ? sums + block * VK_BLOCK : NULL,
        .height = height,
        .width = step->out_width,
        .kernel = step->kernel,
        .stride = step->stride,
        .activation = step->depthwise_activation,
        .low = step->depthwise_low,
        .high = step->depthwise_high,
    };
    walk->kernels->depthwise(&job);
}

/* `positions` pixels of the input, widened to some blocks of channels. */
static void expand(const struct vk_walk *walk, const struct vk_step *step, const float *in, int positions, int block,
                   int blocks, float *out, ptrdiff_t block_stride, const int32_t *offsets, struct vk_ahead next) {
    if (step->source == VK_FROM_COPY) {
        for (int b = 0; b < blocks; b++) {
            int channel = (block + b) * VK_BLOCK, count = step->channels - channel;
            size_t size = sizeof(float) * (size_t)(count < VK_BLOCK ? count : VK_BLOCK);
            for (int i = 0; i < positions; i++) {
                float *to = out + b * block_stride + offsets[i];
                memset(to, 0, VK_BLOCK * sizeof(float));
                memcpy(to, in + (ptrdiff_t)i * step->channels + channel, size);
            }
        }
        return;
    }
    struct vk_product product = vk_product_of(walk, &step->expand, block, blocks, 0);
    vk_read_rows(&product, in, step->channels, positions);
    product.out = out;
    product.out_block_stride = block_stride;
    product.out_offsets = offsets;
    product.next = next;
    walk->kernels->multiply(&product);
}

/* The gates of blocks [first, last), from the sums of all threads. */
static void squeeze_excitation(const struct vk_walk *walk, const struct vk_step *step, int first, int last) {
    struct vk_workspace *own = walk->own;
    const float count = (float)step->out_height * (float)step->out_width;
    for (int c = 0; c < step->hidden; c++) {
        float total = 0;
        for (int m = 0; m < walk->members; m++) total += walk->team[m].sums[c];
        own->pooled[c] = total / count;
    }
    struct vk_product down = vk_product_of(walk, &step->squeeze_down, 0, vk_blocks(step->squeeze), 0);
    vk_read_rows(&down, own->pooled, step->hidden, 1);
    down.out = own->squeezed;
    down.out_block_stride = VK_BLOCK;
    down.out_offsets = first_position;
    walk->kernels->multiply(&down);
    struct vk_product up = vk_product_of(walk, &step->squeeze_up, first, last - first, 0);
    vk_read_rows(&up, own->squeezed, step->squeeze, 1);
    up.out = own->gates + first * VK_BLOCK;
    up.out_block_stride = VK_BLOCK;
    walk->kernels->multiply(&up);
    walk->kernels->sigmoid(own->gates + first * VK_BLOCK, (ptrdiff_t)(last - first) * VK_BLOCK);
}

/* The projection's weights, each input's row times its gate. */
static void scale_projection(const struct vk_walk *walk, const struct vk_step *step) {
    const struct vk_matrix *project = &step->project;
    const ptrdiff_t stride = (ptrdiff_t)project->inputs * VK_BLOCK;
    const int blocks = vk_blocks(project->outputs), half = project->outputs % VK_BLOCK != 0;
    for (int b = 0; b < blocks + half; b++)
        walk->kernels->scale_weights(walk->own->scaled_weights + b * stride,
                                     walk->weights + project->weights + b * stride, walk->own->gates, project->inputs,
                                     b < blocks ? VK_BLOCK : VK_HALF);
}

void vk_project(const struct vk_walk *walk, const struct vk_step *step, const float *map, ptrdiff_t block_positions,
                int first, int last, int positions, const float *weights, float *out, const float *residual,
                int with_bias, struct vk_ahead next) {
    struct vk_product product = vk_product_of(walk, &step->project, 0, vk_blocks(step->out_channels),
                                              step->out_channels % VK_BLOCK != 0);
    ptrdiff_t *offsets = walk->own->group_offsets;
    for (int b = 0; b < last - first; b++) offsets[b] = b * block_positions * VK_BLOCK;
    if (weights) {
        product.weights = weights;
        product.half_weights = weights + product.blocks * product.weight_block_stride;
    }
    product.weights += (ptrdiff_t)first * VK_BLOCK * VK_BLOCK;
    product.half_weights += (ptrdiff_t)first * VK_BLOCK * VK_HALF;
    if (!with_bias) product.bias = NULL;
    product.in = map;
    product.in_row_stride = VK_BLOCK;
    product.group_offsets = offsets;
    product.groups = last - first;
    product.group_size = VK_BLOCK;
    product.rows = positions;
    product.out = out;
    product.out_row_stride = step->out_channels;
    product.out_block_stride = VK_BLOCK;
    product.add = residual;
    product.activation = VK_LINEAR;
    product.next = next;
    walk->kernels->multiply(&product);
}

static void split_by_rows(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out) {
    struct vk_workspace *own = walk->own;
    const int blocks = vk_blocks(step->hidden), wide = vk_padded(step->width, step->pad_left, step->out_width, step);
    const int slots = (VK_TILE_ROWS - 1) * step->stride + step->kernel;
    const ptrdiff_t line = (ptrdiff_t)wide * VK_BLOCK, ring = line * slots + VK_BLOCK;
    const int begin = vk_share(step->out_height, walk->rank, walk->members);
    const int end = vk_share(step->out_height, walk->rank + 1, walk->members);
    const int right = wide - step->pad_left - step->width, keep = step->squeeze > 0;
    const ptrdiff_t out_line = (ptrdiff_t)step->out_width * step->out_channels;
    if (keep) memset(own->sums, 0, (size_t)step->hidden * sizeof(float));
    vk_forget_rows(own);
    for (int b = 0; b < blocks; b++)
        for (int s = 0; s < slots; s++) {
            float *row = own->widened + b * ring + s * line;
            memset(row, 0, (size_t)step->pad_left * VK_BLOCK * sizeof(float));
            memset(row + line - right * VK_BLOCK, 0, (size_t)right * VK_BLOCK * sizeof(float));
        }
    int next = begin * step->stride - step->pad_top; /* the first row that is not expanded yet */
    for (int y = begin; y < end; y += VK_TILE_ROWS) {
        const int tile = end - y < VK_TILE_ROWS ? end - y : VK_TILE_ROWS, top = y * step->stride - step->pad_top;
        const int bottom = top + (tile - 1) * step->stride + step->kernel;
        const ptrdiff_t positions = (ptrdiff_t)(keep ? end - begin : tile) * step->out_width;
        const ptrdiff_t done = keep ? (ptrdiff_t)(y - begin) * step->out_width : 0;
        for (int b = 0, some; b < blocks; b += some) {
            some = vk_next_blocks(blocks - b);
            for (int r = next; r < bottom; r++) {
                float *row = own->widened + b * ring + (r + slots) % slots * line + step->pad_left * VK_BLOCK;
                if (r < 0 || r >= step->height)
                    for (int i = 0; i < some; i++)
                        memset(row + i * ring, 0, (size_t)step->width * VK_BLOCK * sizeof(float));
                else if (step->source == VK_FROM_IMAGE)
                    vk_stem_row(walk, step, r, b, some, row, ring);
                else
                    expand(walk, step, in + (ptrdiff_t)r * step->width * step->channels, step->width, b, some, row,
                           ring, walk->column_offsets, nothing);
            }
            for (int i = b; i < b + some; i++)
                depthwise(walk, step, i, own->widened + i * ring, line, (top + slots) % slots, slots, tile,
                          own->depthwise + (i * positions + done) * VK_BLOCK, keep ? own->sums : NULL);
        }
        next = bottom;
        if (!keep)
            vk_project(walk, step, own->depthwise, positions, 0, blocks, (int)positions, NULL, out + y * out_line,
                       step->residual ? in + y * out_line : NULL, 1, nothing);
    }
    if (keep) {
        const ptrdiff_t positions = (ptrdiff_t)(end - begin) * step->out_width;
        vk_meet(walk);
        squeeze_excitation(walk, step, 0, blocks);
        scale_projection(walk, step);
        for (int y = begin; y < end; y += VK_TILE_ROWS) {
            const int tile = end - y < VK_TILE_ROWS ? end - y : VK_TILE_ROWS;
            vk_project(walk, step, own->depthwise + (ptrdiff_t)(y - begin) * step->out_width * VK_BLOCK, positions, 0,
                       blocks, tile * step->out_width, own->scaled_weights, out + y * out_line,
                       step->residual ? in + y * out_line : NULL, 1, nothing);
        }
    }
    vk_meet(walk);
}

/* Rows [begin, end) of the projection of a whole map. */
static void project_rows(const struct vk_walk *walk, const struct vk_step *step, int first, int last, int begin, int end,
                         float *out, const float *add, int with_bias, struct vk_ahead next) {
    const ptrdiff_t offset = (ptrdiff_t)begin * step->out_channels;
    if (begin < end)
        vk_project(walk, step, walk->own->depthwise + (ptrdiff_t)begin * VK_BLOCK,
                   (ptrdiff_t)step->out_height * step->out_width, first, last, end - begin, NULL, out + offset,
                   add ? add + offset : NULL, with_bias, next);
}

/* A thread's rows of the output are the sum of what all threads make of them, each from its channels [first, last).
 * Each projects the others' rows first; when all have met, its own follow on top of what the others have left for them.
 * So what passes between cores does so beside the products; a pass of its own over it took 3 % of MobileNetV2. */
static void project_shared(const struct vk_walk *walk, const struct vk_step *step, int first, int last, const float *in,
                           float *out) {
    struct vk_workspace *own = walk->own;
    const int positions = step->out_height * step->out_width, members = walk->members, rank = walk->rank;
    const int begin = vk_share(positions, rank, members), end = vk_share(positions, rank + 1, members);
    const ptrdiff_t channels = step->out_channels;
    /* One of the others adds the residual: the first thread, and for that one the second. */
    const float *add = step->residual ? in : NULL;
    project_rows(walk, step, first, last, 0, begin, own->partial, rank == 1 ? add : NULL, 0, nothing);
    project_rows(walk, step, first, last, end, positions, own->partial, rank == 0 ? add : NULL, 0, nothing);
    vk_meet(walk);
    if (members == 2) {
        add = walk->team[1 - rank].partial;
    } else if (members > 2) {
        for (int m = 0, part = 0; m < members; m++)
            if (m != rank) own->parts[part++] = walk->team[m].partial;
        walk->kernels->sum(own->partial, own->parts, members - 1, begin * channels, end * channels);
        add = own->partial;
    }
    project_rows(walk, step, first, last, begin, end, out, add, 1, vk_first_of_step(walk, step + 1));
}

static void split_by_channels(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out) {
    struct vk_workspace *own = walk->own;
    const int blocks = vk_blocks(step->hidden), wide = vk_padded(step->width, step->pad_left, step->out_width, step);
    const int tall = vk_padded(step->height, step->pad_top, step->out_height, step);
    const ptrdiff_t line = (ptrdiff_t)wide * VK_BLOCK, map = line * tall + VK_BLOCK;
    const int first = vk_share(blocks, walk->rank, walk->members);
    const int last = vk_share(blocks, walk->rank + 1, walk->members);
    const int positions = step->height * step->width, out_positions = step->out_height * step->out_width;
    const int keep = step->squeeze > 0;
    int32_t offsets[VK_CHANNEL_SPLIT_POSITIONS];
    for (int y = 0; y < step->height; y++)
        for (int x = 0; x < step->width; x++)
            offsets[y * step->width + x] = ((y + step->pad_top) * wide + x + step->pad_left) * VK_BLOCK;
    memset(own->widened, 0, (size_t)(VK_MOST_BLOCKS * map) * sizeof(float));
    if (keep) memset(own->sums, 0, (size_t)step->hidden * sizeof(float));
    for (int b = first, some; b < last; b += some) {
        some = vk_next_blocks(last - b);
        struct vk_ahead next = b + some < last ? vk_ahead_of(walk, &step->expand, b + some, 0, step->expand.inputs)
                                               : vk_ahead_of(walk, &step->project, 0, first * VK_BLOCK,
                                                             (last - first) * VK_BLOCK);
        expand(walk, step, in, positions, b, some, own->widened, map, offsets, next);
        for (int i = 0; i < some; i++)
            depthwise(walk, step, b + i, own->widened + i * map, line, 0, tall, step->out_height,
                      own->depthwise + (ptrdiff_t)(b + i - first) * out_positions * VK_BLOCK, keep ? own->sums : NULL);
    }
    if (keep) {
        vk_meet(walk);
        squeeze_excitation(walk, step, first, last);
        for (int b = first; b < last; b++)
            walk->kernels->scale_map(own->depthwise + (ptrdiff_t)(b - first) * out_positions * VK_BLOCK,
                                     own->gates + b * VK_BLOCK, out_positions);
    }
    project_shared(walk, step, first, last, in, out);
    vk_meet(walk);
}

void vk_inverted_residual(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out) {
    if (vk_splits_channels(step))
        split_by_channels(walk, step, in, out);
    else
        split_by_rows(walk, step, in, out);
}
