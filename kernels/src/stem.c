/* The first convolution, from bytes: an input row is normalised once into a row of floats (pixels of 3 channels,
 * zeros around), where the kernel's taps of a row are neighbours; so an output row is a product with one run of
 * inputs for each kernel row. */
#include "walk.h"

#include <string.h>

void vk_read_image(const struct vk_walk *walk, const struct vk_step *step, int row, struct vk_product *product) {
    struct vk_workspace *own = walk->own;
    const int kernel = step->stem_kernel, stride = step->stem_stride, pad = step->stem_pad_left;
    const int wide = vk_largest(walk->image_width + pad, (step->width - 1) * stride + kernel);
    for (int tap = 0; tap < kernel; tap++) {
        const int y = row * stride - step->stem_pad_top + tap, slot = (y + kernel) % kernel;
        float *line = own->image_rows + (ptrdiff_t)slot * wide * 3;
        own->group_offsets[tap] = (ptrdiff_t)slot * wide * 3;
        if (own->image_row_numbers[slot] == y) continue;
        own->image_row_numbers[slot] = y;
        memset(line, 0, (size_t)wide * 3 * sizeof(float));
        if (y < 0 || y >= walk->image_height) continue;
        walk->kernels->normalise(line + pad * 3, walk->image + (ptrdiff_t)y * walk->image_width * 3, walk->scale_row,
                                 walk->shift_row, (ptrdiff_t)walk->image_width * 3);
    }
    product->in = own->image_rows;
    product->in_row_stride = stride * 3;
    product->group_offsets = own->group_offsets;
    product->groups = kernel;
    product->group_size = kernel * 3;
    product->rows = step->width;
}

void vk_stem_row(const struct vk_walk *walk, const struct vk_step *step, int row, int first_block, int blocks,
                 float *out, ptrdiff_t block_stride) {
    struct vk_product product = vk_product_of(walk, &step->expand, first_block, blocks, 0);
    vk_read_image(walk, step, row, &product);
    product.out = out;
    product.out_block_stride = block_stride;
    product.out_offsets = walk->column_offsets;
    walk->kernels->multiply(&product);
}
