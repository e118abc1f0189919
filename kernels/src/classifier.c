/* The last convolution with its global average, and the classifier. */
#include "walk.h"

/* Threads split the channels. Some blocks of the map are computed, averaged, and forgotten unless they are asked for.
 * The classifier's weights, which take longer to come from memory than to use, are fetched meanwhile. */
void vk_head(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *embedding,
             float *features) {
    const int blocks = vk_blocks(step->hidden), positions = step->height * step->width;
    const int first = vk_share(blocks, walk->rank, walk->members), last = vk_share(blocks, walk->rank + 1, walk->members);
    const struct vk_later classifier = walk->before_classifier ? vk_share_of_step(walk, step + 1) : (struct vk_later){0};
    float *map = walk->own->widened;
    for (int b = first, some; b < last; b += some) {
        some = vk_next_blocks(last - b);
        struct vk_product product = vk_product_of(walk, &step->expand, b, some, 0);
        vk_read_rows(&product, in, step->channels, positions);
        product.out = map;
        product.out_block_stride = (ptrdiff_t)positions * VK_BLOCK;
        product.out_offsets = walk->column_offsets;
        product.next = b + some < last ? vk_ahead_of(walk, &step->expand, b + some, 0, step->channels)
                                       : vk_first_of_step(walk, step + 1);
        product.later.from = classifier.from + classifier.count * (b - first) / (last - first);
        product.later.count = classifier.count * some / (last - first);
        walk->kernels->multiply(&product);
        for (int i = 0; i < some; i++) {
            const float *block = map + (ptrdiff_t)i * positions * VK_BLOCK;
            const int channel = (b + i) * VK_BLOCK;
            walk->kernels->mean(embedding + channel, block, positions);
            for (int lane = 0; features && lane < VK_BLOCK && channel + lane < step->out_channels; lane++)
                for (int p = 0; p < positions; p++)
                    features[(ptrdiff_t)(channel + lane) * positions + p] = block[(ptrdiff_t)p * VK_BLOCK + lane];
        }
    }
    vk_meet(walk);
}

/* All images at once, so that the weights are read once. Threads split the classes. */
void vk_classifier(const struct vk_walk *walk, const struct vk_step *step, const float *embeddings, int rows,
                   float *out) {
    const int blocks = vk_blocks(step->expand.outputs);
    const int first = vk_share(blocks, walk->rank, walk->members), last = vk_share(blocks, walk->rank + 1, walk->members);
    const int half = step->expand.outputs % VK_BLOCK != 0 && walk->rank == walk->members - 1;
    struct vk_product product = vk_product_of(walk, &step->expand, first, last - first, half);
    vk_read_rows(&product, embeddings, step->channels, rows);
    product.out = out + first * VK_BLOCK;
    product.out_row_stride = step->expand.outputs;
    product.out_block_stride = VK_BLOCK;
    product.activation = VK_LINEAR;
    walk->kernels->multiply(&product);
    vk_meet(walk);
}
