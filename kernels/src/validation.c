#include "validation.h"
#include "program.h"
#include "walk.h"

#include <string.h>

static const int64_t most_floats = (int64_t)1 << 33;

static int matrix_fits(const struct vk_header *header, const struct vk_matrix *matrix, int64_t inputs, int64_t outputs) {
    return matrix->inputs == inputs && matrix->outputs == outputs &&
           holds(header, matrix->weights, inputs * outputs) && holds(header, matrix->bias, outputs) &&
           between(matrix->activation, VK_LINEAR, VK_SILU);
}

/* The first convolution, which writes a map of the step's height and width. */
static int stem_fits(const struct vk_header *header, const struct vk_step *s, struct vk_sizes *sizes) {
    const int64_t k = s->stem_kernel;
    if (!between(k, 1, 7) || !between(s->stem_stride, 1, 4) || !between(s->stem_pad_top, 0, k - 1) ||
        !between(s->stem_pad_left, 0, k - 1) || !matrix_fits(header, &s->expand, k * k * 3, s->hidden) ||
        s->expand.activation == VK_LINEAR)
        return 0;
    int64_t wide = vk_largest((int)header->image_width + s->stem_pad_left, (s->width - 1) * s->stem_stride + (int)k);
    at_least(&sizes->image_rows, k * wide * 3);
    at_least(&sizes->groups, k);
    return 1;
}

static int fused_fits(const struct vk_header *header, const struct vk_step *s, struct vk_sizes *sizes) {
    const int projects = s->project.outputs != 0;
    if (!between(s->hidden, VK_HALF, MOST_CHANNELS) || s->hidden % (projects ? VK_BLOCK : VK_HALF) ||
        !between(s->out_channels, VK_HALF, MOST_CHANNELS) || s->out_channels % VK_HALF ||
        !between(s->residual, 0, 1) || !between(s->out_height, 1, s->height + 7) ||
        !between(s->out_width, 1, s->width + 7))
        return 0;
    const int same_size = s->height == s->out_height && s->width == s->out_width;
    if (s->residual && (s->source == VK_FROM_IMAGE || s->channels != s->out_channels || !same_size)) return 0;
    if (projects ? !matrix_fits(header, &s->project, s->hidden, s->out_channels) : s->hidden != s->out_channels)
        return 0;
    if (s->source == VK_FROM_IMAGE) {
        if (!same_size || !stem_fits(header, s, sizes)) return 0;
    } else {
        const int64_t k = s->kernel;
        if (s->source != VK_FROM_DENSE || !between(k, 1, 7) || !(s->stride == 1 || s->stride == 2) ||
            !between(s->pad_top, 0, k - 1) || !between(s->pad_left, 0, k - 1) ||
            !matrix_fits(header, &s->expand, (vk_is_winograd(s) ? VK_WINOGRAD : k * k) * s->channels, s->hidden) ||
            s->expand.activation == VK_LINEAR)
            return 0;
        const int64_t ring = vk_fused_width(s) * s->channels * (vk_is_winograd(s) ? VK_WINOGRAD_ROWS : k);
        at_least(&sizes->widened, ring);
        if (vk_is_winograd(s)) {
            const int64_t tiles = (s->out_width + 1) / 2;
            if (k != 3 || s->stride != 1) return 0;
            at_least(&sizes->widened, ring + VK_WINOGRAD * tiles * s->channels);
            at_least(&sizes->partial, VK_WINOGRAD * tiles * (VK_MOST_BLOCKS * VK_BLOCK + VK_HALF));
        }
        at_least(&sizes->groups, k);
    }
    if (projects) {
        at_least(&sizes->depthwise, (int64_t)VK_TILE_ROWS * s->out_width * s->hidden);
        at_least(&sizes->groups, vk_blocks(s->hidden));
    }
    at_least(&sizes->map, (int64_t)s->out_height * s->out_width * s->out_channels);
    at_least(&sizes->columns, s->out_width);
    return 1;
}

static int residual_fits(const struct vk_header *header, const struct vk_step *s, struct vk_sizes *sizes) {
    if (!between(s->hidden, VK_BLOCK, MOST_CHANNELS) || s->hidden % VK_BLOCK ||
        !between(s->out_channels, VK_HALF, MOST_CHANNELS) || s->out_channels % VK_HALF ||
        !(s->kernel == 3 || s->kernel == 5) || !(s->stride == 1 || s->stride == 2) ||
        !between(s->pad_top, 0, s->kernel - 1) || !between(s->pad_left, 0, s->kernel - 1) ||
        !between(s->squeeze, 0, MOST_CHANNELS) || s->squeeze % VK_BLOCK || !between(s->residual, 0, 1) ||
        !between(s->depthwise_activation, VK_CLAMP, VK_SILU) ||
        !between(s->out_height, 1, s->height + s->kernel) || !between(s->out_width, 1, s->width + s->kernel))
        return 0;
    if (s->residual && (s->source == VK_FROM_IMAGE || s->channels != s->out_channels || s->height != s->out_height ||
                        s->width != s->out_width))
        return 0;
    const int64_t taps = (int64_t)s->kernel * s->kernel;
    if (!holds(header, s->depthwise_weights, taps * s->hidden) || !holds(header, s->depthwise_bias, s->hidden) ||
        !matrix_fits(header, &s->project, s->hidden, s->out_channels))
        return 0;
    if (s->source == VK_FROM_IMAGE) {
        if (!stem_fits(header, s, sizes)) return 0;
    } else if (s->source == VK_FROM_POINTWISE) {
        if (!matrix_fits(header, &s->expand, s->channels, s->hidden) || s->expand.activation == VK_LINEAR) return 0;
    } else if (s->source != VK_FROM_COPY || s->channels > s->hidden || s->hidden - s->channels >= VK_BLOCK) {
        return 0;
    }
    if (s->squeeze) {
        if (!matrix_fits(header, &s->squeeze_down, s->hidden, s->squeeze) || s->squeeze_down.activation == VK_LINEAR ||
            !matrix_fits(header, &s->squeeze_up, s->squeeze, s->hidden) || s->squeeze_up.activation != VK_LINEAR)
            return 0;
        at_least(&sizes->hidden, s->hidden);
        at_least(&sizes->squeezed, s->squeeze);
        at_least(&sizes->scaled_weights, (int64_t)s->hidden * s->out_channels);
    }
    const int64_t wide = vk_padded(s->width, s->pad_left, s->out_width, s), blocks = vk_blocks(s->hidden);
    const int64_t out_positions = (int64_t)s->out_height * s->out_width;
    if ((int64_t)s->height * s->width <= VK_CHANNEL_SPLIT_POSITIONS) {
        const int64_t tall = vk_padded(s->height, s->pad_top, s->out_height, s);
        at_least(&sizes->widened, VK_MOST_BLOCKS * (wide * tall * VK_BLOCK + VK_BLOCK));
        at_least(&sizes->depthwise, out_positions * s->hidden);
        at_least(&sizes->partial, out_positions * s->out_channels);
    }
    const int64_t slots = (VK_TILE_ROWS - 1) * s->stride + s->kernel;
    at_least(&sizes->widened, blocks * (wide * slots * VK_BLOCK + VK_BLOCK));
    at_least(&sizes->depthwise, (s->squeeze ? out_positions : (int64_t)VK_TILE_ROWS * s->out_width) * s->hidden);
    at_least(&sizes->map, out_positions * s->out_channels);
    at_least(&sizes->groups, blocks);
    at_least(&sizes->columns, s->width);
    return 1;
}

static int steps_fit(const struct vk_header *header, const struct vk_step *steps, struct vk_sizes *sizes) {
    int64_t height = header->image_height, width = header->image_width, channels = 3;
    for (uint32_t i = 0; i < header->step_count; i++) {
        const struct vk_step *s = &steps[i];
        const int from_image = i == 0;
        const int is_block = s->kind == VK_INVERTED_RESIDUAL || s->kind == VK_FUSED;
        if (from_image != (is_block && s->source == VK_FROM_IMAGE)) return 0;
        if (!between(s->height, 1, MOST_SIDE) || !between(s->width, 1, MOST_SIDE) ||
            !between(s->channels, 1, MOST_CHANNELS))
            return 0;
        if (from_image) {
            if (s->height > height + 8 || s->width > width + 8 || s->channels != s->hidden) return 0;
        } else if (s->height != height || s->width != width || s->channels != channels || s->channels % VK_HALF) {
            return 0;
        }
        if (is_block) {
            if (i + 2 >= header->step_count ||
                !(s->kind == VK_FUSED ? fused_fits(header, s, sizes) : residual_fits(header, s, sizes)))
                return 0;
            height = s->out_height, width = s->out_width, channels = s->out_channels;
        } else if (s->kind == VK_HEAD) {
            const int64_t positions = height * width;
            if (i + 2 != header->step_count || !between(s->hidden, VK_BLOCK, MOST_CHANNELS) || s->hidden % VK_BLOCK ||
                !between(s->out_channels, 1, s->hidden) || !matrix_fits(header, &s->expand, channels, s->hidden) ||
                s->expand.activation == VK_LINEAR)
                return 0;
            at_least(&sizes->widened, VK_MOST_BLOCKS * positions * VK_BLOCK);
            at_least(&sizes->columns, positions);
            sizes->embedding = channels = s->hidden;
            height = width = 1;
        } else if (s->kind == VK_CLASSIFIER) {
            if (i + 1 != header->step_count || !between(s->out_channels, 1, s->expand.outputs) ||
                s->expand.outputs > MOST_CHANNELS || s->expand.outputs % VK_HALF ||
                !matrix_fits(header, &s->expand, channels, s->expand.outputs) || s->expand.activation != VK_LINEAR)
                return 0;
            sizes->logits = s->expand.outputs;
        } else {
            return 0;
        }
    }
    return 1;
}

static int sizes_fit(const struct vk_sizes *sizes) {
    const int64_t *all = (const int64_t *)sizes;
    for (size_t i = 0; i < sizeof *sizes / sizeof *all; i++)
        if (all[i] > most_floats) return 0;
    return sizes->logits > 0 && sizes->columns < (1 << 26);
}

int vk_validate(const unsigned char *packed, size_t size, struct vk_sizes *sizes) {
    struct vk_header header;
    memset(sizes, 0, sizeof *sizes);
    if (!packed || size < sizeof header) return VK_NOT_PACKED;
    memcpy(&header, packed, sizeof header);
    if (memcmp(header.magic, VK_MAGIC, sizeof VK_MAGIC) != 0) return VK_NOT_PACKED;
    if (header.version != VK_VERSION) return VK_OTHER_VERSION;
    if (header.instruction_set >= VK_INSTRUCTION_SETS) return VK_DAMAGED;
    const uint64_t steps_size = header.step_count * (uint64_t)sizeof(struct vk_step);
    if (header.total_size != size || !between(header.step_count, 3, MOST_STEPS) || header.steps_offset % 8 ||
        header.steps_offset > size || steps_size > size - header.steps_offset || header.weights_offset % 64 ||
        header.weights_offset > size || header.weight_count > (size - header.weights_offset) / sizeof(float) ||
        !between(header.image_height, 1, MOST_SIDE) || !between(header.image_width, 1, MOST_SIDE))
        return VK_DAMAGED;
    const struct vk_step *steps = (const struct vk_step *)(packed + header.steps_offset);
    const int fit = header.precision == VK_FLOAT32 ? steps_fit(&header, steps, sizes)
                    : header.precision == VK_INT8  ? vk_int8_steps_fit(&header, steps, sizes)
                                                   : 0;
    return fit && sizes_fit(sizes) ? VK_OK : VK_DAMAGED;
}
