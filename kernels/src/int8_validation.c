/* Checks of steps in int8; sizes of workspaces are in floats, as everywhere. */
#include "int8_walk.h"
#include "validation.h"

#include <limits.h>

static int64_t in_floats(int64_t bytes) { return (bytes + 3) / 4; }

/* Weights of a byte each, biases and multipliers of 4 bytes. */
static int matrix_fits(const struct vk_header *header, const struct vk_matrix *matrix, int64_t most_inputs,
                       int64_t outputs) {
    return between(matrix->inputs, VK_QUAD, most_inputs) && matrix->inputs % VK_QUAD == 0 &&
           matrix->outputs == outputs && outputs % VK_BLOCK == 0 && matrix->weights % VK_BLOCK == 0 &&
           holds(header, matrix->weights, matrix->inputs * outputs / VK_QUAD) &&
           holds(header, matrix->bias, 2 * outputs);
}

static int zeros_fit(const struct vk_quantised *q) {
    return between(q->image_zero, 0, 255) && between(q->widened_zero, 0, 255) && between(q->convolved_zero, 0, 255) &&
           between(q->out_zero, 0, 255);
}

static int residual_fits(const struct vk_header *header, const struct vk_step *s, struct vk_sizes *sizes) {
    if (!between(s->hidden, VK_BLOCK, MOST_CHANNELS) || s->hidden % VK_BLOCK ||
        !between(s->out_channels, VK_BLOCK, MOST_CHANNELS) || s->out_channels % VK_BLOCK ||
        !vk_int8_depthwise_is_known(s->kernel, s->stride, s->pad_left) || !between(s->pad_top, 0, s->kernel - 1) ||
        s->squeeze || !between(s->residual, 0, 1) || !zeros_fit(&s->quantised) ||
        !between(s->out_height, 1, s->height + s->kernel) || !between(s->out_width, 1, s->width + s->kernel))
        return 0;
    if (s->residual && (s->source == VK_FROM_IMAGE || s->channels != s->out_channels || s->height != s->out_height ||
                        s->width != s->out_width))
        return 0;
    const int64_t vectors = s->kernel * (s->kernel == 5 ? 2 : 1), blocks = vk_blocks(s->hidden);
    if (s->depthwise_weights % VK_BLOCK || !holds(header, s->depthwise_weights, vectors * VK_BLOCK * blocks) ||
        !holds(header, s->depthwise_bias, 2 * (int64_t)s->hidden) ||
        !matrix_fits(header, &s->project, s->hidden, s->out_channels) || s->project.inputs != s->hidden)
        return 0;
    if (s->source == VK_FROM_IMAGE) {
        const int64_t k = s->stem_kernel;
        if (!between(k, 1, 7) || !between(s->stem_stride, 1, 4) || !between(s->stem_pad_top, 0, k - 1) ||
            !between(s->stem_pad_left, 0, k - 1) || s->expand.inputs != k * vk_int8_stem_quads((int)k) * VK_QUAD ||
            !matrix_fits(header, &s->expand, s->expand.inputs, s->hidden) ||
            !holds(header, s->quantised.levels, 3 * 256 / VK_QUAD))
            return 0;
        int64_t wide = vk_largest((int)header->image_width + s->stem_pad_left, (s->width - 1) * s->stem_stride + (int)k);
        at_least(&sizes->image_rows, in_floats(k * (wide * 3 + VK_QUAD)));
    } else if (s->source != VK_FROM_POINTWISE || !matrix_fits(header, &s->expand, s->channels, s->hidden)) {
        return 0;
    }
    const int64_t line = vk_int8_line(s), out_positions = (int64_t)s->out_height * s->out_width;
    const int64_t slots = (VK_TILE_ROWS - 1) * s->stride + s->kernel, positions = (int64_t)s->height * s->width;
    int64_t convolved = VK_TILE_ROWS * s->out_width;
    if (positions <= VK_CHANNEL_SPLIT_POSITIONS) {
        const int64_t tall = vk_padded(s->height, s->pad_top, s->out_height, s);
        at_least(&sizes->widened, in_floats(VK_MOST_BLOCKS * (line * tall + VK_GROUP_BYTES) + VK_GROUP_BYTES));
        at_least(&sizes->partial, out_positions * s->out_channels);
        at_least(&convolved, out_positions);
    }
    at_least(&sizes->widened, in_floats(blocks * (line * slots + VK_GROUP_BYTES) + VK_GROUP_BYTES));
    at_least(&sizes->depthwise, in_floats(convolved * s->hidden + VK_GROUP_BYTES));
    at_least(&sizes->map, in_floats(out_positions * s->out_channels));
    at_least(&sizes->groups, blocks);
    return 1;
}

int vk_int8_steps_fit(const struct vk_header *header, const struct vk_step *steps, struct vk_sizes *sizes) {
    int64_t height = header->image_height, width = header->image_width, channels = 3;
    for (uint32_t i = 0; i < header->step_count; i++) {
        const struct vk_step *s = &steps[i];
        const int from_image = i == 0;
        if (from_image != (s->kind == VK_INVERTED_RESIDUAL && s->source == VK_FROM_IMAGE) ||
            !between(s->height, 1, MOST_SIDE) || !between(s->width, 1, MOST_SIDE) ||
            !between(s->channels, 1, MOST_CHANNELS))
            return 0;
        if (from_image) {
            if (s->height > height + 8 || s->width > width + 8 || s->channels != s->hidden) return 0;
        } else if (s->height != height || s->width != width || s->channels != channels) {
            return 0;
        }
        if (s->kind == VK_INVERTED_RESIDUAL) {
            if (i + 2 >= header->step_count || !residual_fits(header, s, sizes)) return 0;
            height = s->out_height, width = s->out_width, channels = s->out_channels;
        } else if (s->kind == VK_HEAD) {
            const int64_t positions = height * width;
            if (i + 2 != header->step_count || positions > INT_MAX / 256 ||
                !between(s->hidden, VK_BLOCK, MOST_CHANNELS) || !between(s->out_channels, 1, s->hidden) ||
                !zeros_fit(&s->quantised) || !matrix_fits(header, &s->expand, channels, s->hidden))
                return 0;
            at_least(&sizes->widened, in_floats(VK_MOST_BLOCKS * positions * VK_BLOCK));
            sizes->embedding = s->hidden + in_floats(s->hidden);
            channels = s->hidden;
            height = width = 1;
        } else if (s->kind == VK_CLASSIFIER) {
            if (i + 1 != header->step_count || !between(s->expand.outputs, 1, MOST_CHANNELS) ||
                !between(s->out_channels, 1, s->expand.outputs) ||
                !matrix_fits(header, &s->expand, channels, s->expand.outputs))
                return 0;
            sizes->logits = s->expand.outputs;
        } else {
            return 0;
        }
    }
    return 1;
}
