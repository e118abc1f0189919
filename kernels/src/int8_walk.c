/* The walks of inverted_residual.c, stem.c and classifier.c in int8. */
#include "int8_walk.h"

#include <string.h>

static const int8_t *weights_at(const struct vk_walk *walk, int64_t offset) {
    return (const int8_t *)(walk->weights + offset);
}
static const int32_t *bias_at(const struct vk_walk *walk, int64_t offset) {
    return (const int32_t *)(walk->weights + offset);
}

/* A product with blocks [first, first + blocks) of a matrix; reads `rows` rows of `groups` runs. */
static struct vk_int8_product product_of(const struct vk_walk *walk, const struct vk_matrix *matrix, int groups,
                                         int first, int blocks, int zero) {
    const ptrdiff_t stride = (ptrdiff_t)matrix->inputs * VK_BLOCK;
    return (struct vk_int8_product){
        .groups = groups,
        .group_quads = matrix->inputs / VK_QUAD / groups,
        .weights = weights_at(walk, matrix->weights) + first * stride,
        .weight_block_stride = stride,
        .blocks = blocks,
        .bias = bias_at(walk, matrix->bias) + first * VK_BLOCK,
        .multiplier = walk->weights + matrix->bias + matrix->outputs + first * VK_BLOCK,
        .zero = zero,
    };
}

static const ptrdiff_t one_group[1] = {0};

/* Blocks that are widened together: 2 where a tile of them holds a whole row, otherwise 3, and none left alone. */
static int next_blocks(int left, int width) {
    if (left <= VK_MOST_BLOCKS) return left;
    return left == 4 || (width > 9 && width <= 14) ? 2 : 3;
}

/* Levels of the image's rows that a row of the stem's output reads, each made once. */
static void read_image_rows(const struct vk_walk *walk, const struct vk_step *step, int row, int wide) {
    struct vk_workspace *own = walk->own;
    const int kernel = step->stem_kernel;
    const ptrdiff_t line_size = (ptrdiff_t)wide * 3 + VK_QUAD, count = (ptrdiff_t)walk->image_width * 3;
    const uint8_t *levels = (const uint8_t *)weights_at(walk, step->quantised.levels);
    for (int tap = 0; tap < kernel; tap++) {
        const int y = row * step->stem_stride - step->stem_pad_top + tap, slot = (y + kernel) % kernel;
        uint8_t *line = (uint8_t *)own->image_rows + slot * line_size;
        own->group_offsets[tap] = slot * line_size;
        if (own->image_row_numbers[slot] == y) continue;
        own->image_row_numbers[slot] = y;
        memset(line, step->quantised.image_zero, (size_t)line_size);
        if (y < 0 || y >= walk->image_height) continue;
        const uint8_t *from = walk->image + (ptrdiff_t)y * count;
        line += step->stem_pad_left * 3;
        if (step->quantised.image_is_levels)
            memcpy(line, from, (size_t)count);
        else
            for (ptrdiff_t i = 0; i < count; i += 3)
                for (int c = 0; c < 3; c++) line[i + c] = levels[c * 256 + from[i + c]];
    }
}

/* A row of the widened map: `out` is its group 0 in the first of `blocks` blocks. */
static void widen_row(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, int row, int first,
                      int blocks, uint8_t *out, ptrdiff_t block_stride, int prefetch) {
    const int groups = step->source == VK_FROM_IMAGE ? step->stem_kernel : 1;
    struct vk_int8_product product =
        product_of(walk, &step->expand, groups, first, blocks, step->quantised.widened_zero);
    if (step->source == VK_FROM_IMAGE) {
        const int reach = (step->width - 1) * step->stem_stride + step->stem_kernel;
        read_image_rows(walk, step, row, vk_largest(walk->image_width + step->stem_pad_left, reach));
        product.in = (const uint8_t *)walk->own->image_rows;
        product.in_row_stride = step->stem_stride * 3;
        product.group_offsets = walk->own->group_offsets;
    } else {
        product.in = in + (ptrdiff_t)row * step->width * step->channels;
        product.in_row_stride = step->channels;
        product.group_offsets = one_group;
    }
    product.rows = step->width;
    product.output = VK_TO_GROUPS;
    product.out = out;
    product.out_block_stride = block_stride;
    product.prefetch_next = prefetch;
    vk_int8_multiply(&product);
}

/* Rows of one block; `in`: group 0 of its first row in memory. */
static struct vk_int8_depthwise depthwise_of(const struct vk_walk *walk, const struct vk_step *step, int block) {
    const ptrdiff_t vectors = (ptrdiff_t)step->kernel * (step->kernel == 5 ? 2 : 1);
    return (struct vk_int8_depthwise){
        .in_row_stride = vk_int8_line(step),
        .weights = weights_at(walk, step->depthwise_weights) + block * vectors * VK_GROUP_BYTES,
        .bias = bias_at(walk, step->depthwise_bias) + block * VK_BLOCK,
        .multiplier = walk->weights + step->depthwise_bias + step->hidden + block * VK_BLOCK,
        .zero = step->quantised.convolved_zero,
        .width = step->out_width,
        .kernel = step->kernel,
        .stride = step->stride,
        .pad_left = step->pad_left,
    };
}

/* Blocks [first, last) of a convolved map (block, position, 16) that begins with block `first`. */
static struct vk_int8_product projection(const struct vk_walk *walk, const struct vk_step *step, int first, int last,
                                         int positions) {
    struct vk_int8_product product =
        product_of(walk, &step->project, vk_blocks(step->hidden), 0, vk_blocks(step->out_channels), step->quantised.out_zero);
    ptrdiff_t *offsets = walk->own->group_offsets;
    for (int b = 0; b < last - first; b++) offsets[b] = (ptrdiff_t)b * positions * VK_BLOCK;
    product.weights += (ptrdiff_t)first * VK_BLOCK * VK_BLOCK;
    product.groups = last - first;
    product.in = (const uint8_t *)walk->own->depthwise;
    product.in_row_stride = VK_BLOCK;
    product.group_offsets = offsets;
    product.rows = positions;
    return product;
}

static struct vk_int8_sum sum_with(const struct vk_step *step, const uint8_t *input) {
    const struct vk_quantised *q = &step->quantised;
    return (struct vk_int8_sum){step->residual ? input : NULL, q->sum_ratio, q->input_ratio, q->sum_fixed, q->input_last};
}

static void split_by_rows(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, uint8_t *out) {
    struct vk_workspace *own = walk->own;
    const int blocks = vk_blocks(step->hidden), slots = (VK_TILE_ROWS - 1) * step->stride + step->kernel;
    const int zero = step->quantised.widened_zero, columns = (step->width + 3) / 4 * VK_GROUP_BYTES;
    const ptrdiff_t line = vk_int8_line(step), ring = line * slots + VK_GROUP_BYTES;
    const int begin = vk_share(step->out_height, walk->rank, walk->members);
    const int end = vk_share(step->out_height, walk->rank + 1, walk->members);
    const ptrdiff_t out_line = (ptrdiff_t)step->out_width * step->out_channels;
    uint8_t *widened = (uint8_t *)own->widened + VK_GROUP_BYTES, *convolved = (uint8_t *)own->depthwise;
    vk_forget_rows(own);
    for (int b = 0; b < blocks; b++)
        for (int s = 0; s < slots; s++) {
            uint8_t *row = widened + b * ring + s * line;
            memset(row - VK_GROUP_BYTES, zero, VK_GROUP_BYTES);
            memset(row + columns, zero, (size_t)(line - VK_GROUP_BYTES - columns));
        }
    int next = begin * step->stride - step->pad_top; /* the first row that is not widened yet */
    for (int y = begin; y < end; y += VK_TILE_ROWS) {
        const int tile = end - y < VK_TILE_ROWS ? end - y : VK_TILE_ROWS, top = y * step->stride - step->pad_top;
        const int bottom = top + (tile - 1) * step->stride + step->kernel, positions = tile * step->out_width;
        for (int b = 0, some; b < blocks; b += some) {
            some = next_blocks(blocks - b, step->width);
            for (int r = next; r < bottom; r++) {
                uint8_t *row = widened + b * ring + (r + slots) % slots * line;
                if (r >= 0 && r < step->height)
                    widen_row(walk, step, in, r, b, some, row, ring, 0);
                else
                    for (int i = 0; i < some; i++) memset(row + i * ring, zero, (size_t)columns);
            }
            for (int i = b; i < b + some; i++) {
                struct vk_int8_depthwise job = depthwise_of(walk, step, i);
                job.in = widened + i * ring;
                job.first_slot = top + slots;
                job.slots = slots;
                job.out = convolved + (ptrdiff_t)i * positions * VK_BLOCK;
                job.height = tile;
                vk_int8_convolve(&job);
            }
        }
        next = bottom;
        struct vk_int8_product product = projection(walk, step, 0, blocks, positions);
        product.output = VK_TO_LEVELS;
        product.out = out + y * out_line;
        product.out_row_stride = step->out_channels;
        product.out_block_stride = VK_BLOCK;
        product.sum = sum_with(step, in + y * out_line);
        vk_int8_multiply(&product);
    }
    vk_meet(walk);
}

static void split_by_channels(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, uint8_t *out) {
    struct vk_workspace *own = walk->own;
    const int tall = vk_padded(step->height, step->pad_top, step->out_height, step);
    const ptrdiff_t line = vk_int8_line(step), map = line * tall + VK_GROUP_BYTES;
    const int blocks = vk_blocks(step->hidden), positions = step->out_height * step->out_width;
    const int first = vk_share(blocks, walk->rank, walk->members);
    const int last = vk_share(blocks, walk->rank + 1, walk->members);
    uint8_t *widened = (uint8_t *)own->widened + VK_GROUP_BYTES, *convolved = (uint8_t *)own->depthwise;
    memset(own->widened, step->quantised.widened_zero, (size_t)(VK_MOST_BLOCKS * map));
    for (int b = first, some; b < last; b += some) {
        some = next_blocks(last - b, step->width);
        for (int r = 0; r < step->height; r++)
            widen_row(walk, step, in, r, b, some, widened + (r + step->pad_top) * line, map, r == 0);
        for (int i = 0; i < some; i++) {
            struct vk_int8_depthwise job = depthwise_of(walk, step, b + i);
            job.in = widened + i * map;
            job.slots = tall;
            job.out = convolved + (ptrdiff_t)(b + i - first) * positions * VK_BLOCK;
            job.height = step->out_height;
            vk_int8_convolve(&job);
        }
    }
    struct vk_int8_product product = projection(walk, step, first, last, positions);
    product.sum = sum_with(step, in);
    product.prefetch_next = 1;
    if (walk->members == 1) {
        product.output = VK_TO_LEVELS;
        product.out = out;
        product.out_row_stride = step->out_channels;
        product.out_block_stride = VK_BLOCK;
        vk_int8_multiply(&product);
        return;
    }
    if (walk->rank) product.bias = NULL;
    product.output = VK_TO_SUMS;
    product.out = (uint8_t *)own->partial;
    product.out_row_stride = step->out_channels * (ptrdiff_t)sizeof(int32_t);
    product.out_block_stride = VK_BLOCK * sizeof(int32_t);
    vk_int8_multiply(&product);
    vk_meet(walk);
    const int from = vk_share(positions, walk->rank, walk->members);
    const int to = vk_share(positions, walk->rank + 1, walk->members);
    const ptrdiff_t offset = (ptrdiff_t)from * step->out_channels;
    for (int m = 0; m < walk->members; m++) own->parts[m] = walk->team[m].partial + offset;
    struct vk_int8_sum sum = product.sum;
    if (sum.input) sum.input += offset;
    vk_int8_requantise(out + offset, (const int32_t *const *)own->parts, walk->members, to - from, step->out_channels,
                       product.multiplier, product.zero, &sum);
    vk_meet(walk);
}

void vk_int8_inverted_residual(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, uint8_t *out) {
    if (vk_splits_channels(step))
        split_by_channels(walk, step, in, out);
    else
        split_by_rows(walk, step, in, out);
}

/* Threads split the channels, as in `vk_head`. */
void vk_int8_head(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, float *embedding,
                  float *features) {
    const struct vk_quantised *q = &step->quantised;
    const int blocks = vk_blocks(step->hidden), positions = step->height * step->width;
    const int last = vk_share(blocks, walk->rank + 1, walk->members);
    uint8_t *map = (uint8_t *)walk->own->widened, *levels = (uint8_t *)(embedding + step->hidden);
    for (int b = vk_share(blocks, walk->rank, walk->members), some; b < last; b += some) {
        some = next_blocks(last - b, positions);
        const ptrdiff_t row = (ptrdiff_t)some * VK_BLOCK;
        struct vk_int8_product product = product_of(walk, &step->expand, 1, b, some, q->widened_zero);
        product.in = in;
        product.in_row_stride = step->channels;
        product.group_offsets = one_group;
        product.rows = positions;
        product.prefetch_next = 1;
        product.output = VK_TO_LEVELS;
        product.out = map;
        product.out_row_stride = row;
        product.out_block_stride = VK_BLOCK;
        vk_int8_multiply(&product);
        for (int i = 0; i < some; i++)
            vk_int8_mean(levels + (b + i) * VK_BLOCK, map + i * VK_BLOCK, positions, row, q->widened_zero,
                         q->mean_multiplier, q->out_zero);
        for (int c = b * VK_BLOCK; c < (b + some) * VK_BLOCK; c++) {
            embedding[c] = (float)(levels[c] - q->out_zero) * q->out_scale;
            for (int p = 0; features && c < step->out_channels && p < positions; p++)
                features[(ptrdiff_t)c * positions + p] =
                    (float)(map[p * row + c - b * VK_BLOCK] - q->widened_zero) * q->widened_scale;
        }
    }
    vk_meet(walk);
}

/* All images at once; threads split the classes. */
void vk_int8_classifier(const struct vk_walk *walk, const struct vk_step *step, const float *embeddings,
                        ptrdiff_t stride, int rows, float *out) {
    const int blocks = vk_blocks(step->expand.outputs), classes = step->expand.outputs;
    const int first = vk_share(blocks, walk->rank, walk->members), last = vk_share(blocks, walk->rank + 1, walk->members);
    struct vk_int8_product product = product_of(walk, &step->expand, 1, first, last - first, 0);
    product.in = (const uint8_t *)(embeddings + step->channels);
    product.in_row_stride = stride * (ptrdiff_t)sizeof(float);
    product.group_offsets = one_group;
    product.rows = rows;
    product.output = VK_TO_SUMS;
    product.out = (uint8_t *)(out + first * VK_BLOCK);
    product.out_row_stride = classes * (ptrdiff_t)sizeof(float);
    product.out_block_stride = VK_BLOCK * sizeof(float);
    vk_int8_multiply(&product);
    for (int r = 0; r < rows; r++)
        for (int c = first * VK_BLOCK; c < last * VK_BLOCK; c++) {
            int32_t sum;
            memcpy(&sum, out + (ptrdiff_t)r * classes + c, sizeof sum);
            out[(ptrdiff_t)r * classes + c] = (float)sum * product.multiplier[c - first * VK_BLOCK];
        }
    vk_meet(walk);
}
