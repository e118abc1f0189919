/* A dense convolution, its activation, and the 1 x 1 projection, if one follows; the sum with the input.
 *
 * Threads split the output rows. A thread copies the rows that the kernel reads into a ring, with zeros around, where
 * the taps of a kernel row are neighbours; so an output row is a product with one run of inputs for each kernel row.
 * Of a tile of rows the widened map is projected while it is in the cache. Without projection the convolution is
 * written where it belongs, and activated there. The first convolution of a network is such a block, which reads the
 * image. */
#include "walk.h"

#include <string.h>

/* As vk_read_image, of a row of the output map. */
static void read_map(const struct vk_walk *walk, const struct vk_step *step, const float *in, int row,
                     struct vk_product *product) {
    struct vk_workspace *own = walk->own;
    const int kernel = step->kernel, channels = step->channels;
    const ptrdiff_t line = (ptrdiff_t)vk_padded(step->width, step->pad_left, step->out_width, step) * channels;
    const ptrdiff_t left = (ptrdiff_t)step->pad_left * channels, filled = (ptrdiff_t)step->width * channels;
    for (int tap = 0; tap < kernel; tap++) {
        const int y = row * step->stride - step->pad_top + tap, slot = (y + kernel) % kernel;
        float *to = own->widened + slot * line;
        own->group_offsets[tap] = slot * line;
        if (own->image_row_numbers[slot] == y) continue;
        own->image_row_numbers[slot] = y;
        memset(to, 0, (size_t)line * sizeof(float));
        if (y >= 0 && y < step->height) memcpy(to + left, in + y * filled, (size_t)filled * sizeof(float));
    }
    product->in = own->widened;
    product->in_row_stride = (ptrdiff_t)step->stride * channels;
    product->group_offsets = own->group_offsets;
    product->groups = kernel;
    product->group_size = kernel * channels;
    product->rows = step->out_width;
}

void vk_fused_block(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out) {
    struct vk_workspace *own = walk->own;
    const int projects = step->project.outputs > 0, blocks = vk_blocks(step->hidden);
    const int begin = vk_share(step->out_height, walk->rank, walk->members);
    const int end = vk_share(step->out_height, walk->rank + 1, walk->members);
    const ptrdiff_t out_line = (ptrdiff_t)step->out_width * step->out_channels;
    for (int i = 0; i < 8; i++) own->image_row_numbers[i] = -1000;
    for (int y = begin; y < end; y += VK_TILE_ROWS) {
        const int tile = end - y < VK_TILE_ROWS ? end - y : VK_TILE_ROWS;
        const ptrdiff_t positions = (ptrdiff_t)tile * step->out_width;
        float *rows = out + y * out_line;
        const float *residual = step->residual ? in + y * out_line : NULL;
        for (int t = 0; t < tile; t++) {
            struct vk_product product = vk_product_of(walk, &step->expand, 0, blocks, step->hidden % VK_BLOCK != 0);
            if (step->source == VK_FROM_IMAGE)
                vk_read_image(walk, step, y + t, &product);
            else
                read_map(walk, step, in, y + t, &product);
            if (projects) {
                product.out = own->depthwise + (ptrdiff_t)t * step->out_width * VK_BLOCK;
                product.out_block_stride = positions * VK_BLOCK;
                product.out_offsets = walk->column_offsets;
                walk->kernels->multiply(&product);
                continue;
            }
            product.out = rows + t * out_line;
            product.out_row_stride = step->out_channels;
            product.out_block_stride = VK_BLOCK;
            product.activation = VK_LINEAR;
            walk->kernels->multiply(&product);
            walk->kernels->activate(product.out, residual ? residual + t * out_line : NULL, out_line,
                                    step->expand.activation, step->expand.low, step->expand.high);
        }
        if (projects)
            vk_project(walk, step, own->depthwise, positions, 0, blocks, (int)positions, NULL, rows, residual, 1,
                       (struct vk_ahead){0});
    }
    vk_meet(walk);
}
