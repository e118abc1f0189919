/* A dense convolution, its activation, and the 1 x 1 projection, if one follows; the sum with the input.
 *
 * Threads split the output rows. A thread copies the rows that the kernel reads into a ring, with zeros around, where
 * the taps of a kernel row are neighbours; so an output row is a product with one run of inputs for each kernel row.
 * Of a tile of rows the widened map is projected while it is in the cache. Without projection the convolution is
 * written where it belongs, and activated there. A 3 x 3 convolution of stride 1 goes by Winograd's algorithm, see
 * winograd.h: weights of 16 matrices instead of 9 taps say so. The first convolution of a network is such a block,
 * which reads the image. */
#include "walk.h"

#include <string.h>

/* `count` padded rows of the input from `top` on; those that the ring has already are not copied again. */
static void pad_rows(const struct vk_walk *walk, const struct vk_step *step, const float *in, int top, int count,
                     const float **rows) {
    struct vk_workspace *own = walk->own;
    const ptrdiff_t channels = step->channels, line = vk_fused_width(step) * channels;
    const ptrdiff_t left = step->pad_left * channels, filled = step->width * channels;
    for (int i = 0; i < count; i++) {
        const int y = top + i, slot = (y + count) % count;
        float *to = own->widened + slot * line;
        rows[i] = to;
        if (own->image_row_numbers[slot] == y) continue;
        own->image_row_numbers[slot] = y;
        memset(to, 0, (size_t)line * sizeof(float));
        if (y >= 0 && y < step->height) memcpy(to + left, in + y * filled, (size_t)filled * sizeof(float));
    }
}

/* As vk_read_image, of a row of the output map. */
static void read_map(const struct vk_walk *walk, const struct vk_step *step, const float *in, int row,
                     struct vk_product *product) {
    const float *rows[7];
    pad_rows(walk, step, in, row * step->stride - step->pad_top, step->kernel, rows);
    product->in = walk->own->widened;
    product->in_row_stride = (ptrdiff_t)step->stride * step->channels;
    product->group_offsets = walk->own->group_offsets;
    for (int i = 0; i < step->kernel; i++) walk->own->group_offsets[i] = rows[i] - walk->own->widened;
    product->groups = step->kernel;
    product->group_size = step->kernel * step->channels;
    product->rows = step->out_width;
}

/* Row y of the output, and the next if `tile` is 2; `out` as in vk_product, rows out_line apart. */
static void winograd_rows(const struct vk_walk *walk, const struct vk_step *step, const float *in, int y, int tile,
                          struct vk_winograd job, ptrdiff_t out_line) {
    struct vk_workspace *own = walk->own;
    const ptrdiff_t channels = step->channels, matrix = channels * step->hidden;
    const int blocks = vk_blocks(step->hidden), half = step->hidden % VK_BLOCK != 0;
    float *out = job.out[0];
    float *inputs = own->widened + VK_WINOGRAD_ROWS * vk_fused_width(step) * channels;
    pad_rows(walk, step, in, y - step->pad_top, VK_WINOGRAD_ROWS, job.rows);
    job.tiles = (step->out_width + 1) / 2;
    job.width = step->out_width;
    job.matrices = inputs;
    job.channels = step->channels;
    walk->kernels->winograd_inputs(&job);
    int block = 0, some;
    do {
        some = vk_next_blocks(blocks - block);
        const int last = block + some == blocks;
        struct vk_product product = vk_product_of(walk, &step->expand, block, some, half && last);
        product.weight_block_stride = channels * VK_BLOCK;
        product.weights = walk->weights + step->expand.weights + block * product.weight_block_stride;
        product.half_weights = walk->weights + step->expand.weights + blocks * product.weight_block_stride;
        product.bias = NULL;
        product.activation = VK_LINEAR;
        job.matrices = own->partial;
        job.channels = some * VK_BLOCK + (half && last ? VK_HALF : 0);
        for (int m = 0; m < VK_WINOGRAD; m++) {
            vk_read_rows(&product, inputs + m * job.tiles * channels, step->channels, job.tiles);
            product.out = own->partial + (ptrdiff_t)m * job.tiles * job.channels;
            product.out_row_stride = job.channels;
            product.out_block_stride = VK_BLOCK;
            product.next = (struct vk_ahead){product.weights + matrix, product.weight_block_stride, step->channels};
            if (m == VK_WINOGRAD - 1) product.next.inputs = 0; /* there is no matrix after it */
            walk->kernels->multiply(&product);
            product.weights += matrix;
            product.half_weights += matrix;
        }
        job.bias = walk->weights + step->expand.bias + block * VK_BLOCK;
        job.out[0] = out + block * job.out_block_stride;
        job.out[1] = tile > 1 ? job.out[0] + out_line : NULL;
        walk->kernels->winograd_outputs(&job);
        block += some;
    } while (block < blocks);
}

/* Rows y, y + 1 of the output, without its projection. */
static void convolve_rows(const struct vk_walk *walk, const struct vk_step *step, const float *in, int y, int tile,
                          float *out, ptrdiff_t out_line, ptrdiff_t out_stride, ptrdiff_t block_stride,
                          int activation) {
    if (vk_is_winograd(step)) {
        struct vk_winograd job = {
            .out = {out}, .out_stride = out_stride, .out_block_stride = block_stride, .activation = activation,
            .low = step->expand.low, .high = step->expand.high,
        };
        winograd_rows(walk, step, in, y, tile, job, out_line);
        return;
    }
    for (int t = 0; t < tile; t++) {
        struct vk_product product =
            vk_product_of(walk, &step->expand, 0, vk_blocks(step->hidden), step->hidden % VK_BLOCK != 0);
        if (step->source == VK_FROM_IMAGE)
            vk_read_image(walk, step, y + t, &product);
        else
            read_map(walk, step, in, y + t, &product);
        product.out = out + t * out_line;
        product.out_row_stride = out_stride;
        product.out_offsets = walk->column_offsets;
        product.out_block_stride = block_stride;
        product.activation = activation;
        walk->kernels->multiply(&product);
    }
}

void vk_fused_block(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out) {
    struct vk_workspace *own = walk->own;
    const int projects = step->project.outputs > 0, blocks = vk_blocks(step->hidden);
    const int begin = vk_share(step->out_height, walk->rank, walk->members);
    const int end = vk_share(step->out_height, walk->rank + 1, walk->members);
    const ptrdiff_t out_line = (ptrdiff_t)step->out_width * step->out_channels;
    vk_forget_rows(own);
    for (int y = begin; y < end; y += VK_TILE_ROWS) {
        const int tile = end - y < VK_TILE_ROWS ? end - y : VK_TILE_ROWS;
        const ptrdiff_t positions = (ptrdiff_t)tile * step->out_width;
        float *rows = out + y * out_line;
        const float *residual = step->residual ? in + y * out_line : NULL;
        if (projects) {
            convolve_rows(walk, step, in, y, tile, own->depthwise, (ptrdiff_t)step->out_width * VK_BLOCK, VK_BLOCK,
                          positions * VK_BLOCK, step->expand.activation);
            vk_project(walk, step, own->depthwise, positions, 0, blocks, (int)positions, NULL, rows, residual, 1,
                       (struct vk_ahead){0});
        } else {
            convolve_rows(walk, step, in, y, tile, rows, out_line, step->out_channels, VK_BLOCK, VK_LINEAR);
            walk->kernels->activate(rows, residual, tile * out_line, step->expand.activation, step->expand.low,
                                    step->expand.high);
        }
    }
    vk_meet(walk);
}
