/* What a thread needs to run steps on an image, alone or in a team. */
#ifndef VK_WALK_H
#define VK_WALK_H

#include "kernels.h"
#include "threads.h"

enum { VK_ROW_NUMBERS = 8 };

/* A thread's own memory, each part large enough for every step of the program. */
struct vk_workspace {
    float *maps[2];        /* maps between steps, in turn; a team uses its first member's */
    float *widened;        /* rows or whole maps of some blocks of widened channels; padded rows of a fused block */
    float *depthwise;      /* what is projected, (block, position, 16) */
    float *partial;        /* a thread's part of a projection */
    float *image_rows;     /* normalised rows of the image */
    float *sums;           /* of each widened channel */
    float *gates, *pooled, *squeezed, *scaled_weights; /* of squeeze-excitation */
    ptrdiff_t *group_offsets;
    const float **parts;
    int image_row_numbers[VK_ROW_NUMBERS]; /* which row each slot of image_rows holds, or of the padded rows of a fused block */
};

/* Before a step: its rows are not those of the step before. */
static inline void vk_forget_rows(struct vk_workspace *own) {
    for (int i = 0; i < VK_ROW_NUMBERS; i++) own->image_row_numbers[i] = -1000;
}

struct vk_walk {
    const struct vk_kernels *kernels;
    const float *weights;
    const float *scale_row, *shift_row; /* the image's normalisation, repeated along a row */
    const int32_t *column_offsets;      /* 0, 16, 32, ... */
    int image_height, image_width;
    const uint8_t *image;
    int rank, members, before_classifier; /* before_classifier: it follows this image */
    struct vk_threads *threads; /* NULL for a thread alone */
    struct vk_workspace *own, *team;
};

static inline int vk_share(int total, int rank, int members) { return (int)((int64_t)total * rank / members); }
static inline void vk_meet(const struct vk_walk *walk) {
    if (walk->members > 1) vk_threads_meet(walk->threads);
}
static inline int vk_blocks(int channels) { return channels / VK_BLOCK; }
static inline int vk_largest(int a, int b) { return a > b ? a : b; }

/* Maps up to this many positions are split by channels, larger ones by rows. */
enum { VK_CHANNEL_SPLIT_POSITIONS = 400 };
static inline int vk_splits_channels(const struct vk_step *step) {
    return step->source != VK_FROM_IMAGE && step->height * step->width <= VK_CHANNEL_SPLIT_POSITIONS;
}
/* Blocks of widened channels that are expanded together: 2, or 3 where one would be left. */
enum { VK_MOST_BLOCKS = 3, VK_TILE_ROWS = 2 };
static inline int vk_next_blocks(int left) { return left <= VK_MOST_BLOCKS ? left : 2; }

/* A product with a packed matrix: blocks [first, first + count) of its outputs, and the half block if `half`. */
static inline struct vk_product vk_product_of(const struct vk_walk *walk, const struct vk_matrix *matrix, int first,
                                              int count, int half) {
    const float *weights = walk->weights + matrix->weights;
    ptrdiff_t stride = (ptrdiff_t)matrix->inputs * VK_BLOCK;
    return (struct vk_product){
        .weights = weights + first * stride,
        .half_weights = weights + vk_blocks(matrix->outputs) * stride,
        .weight_block_stride = stride,
        .blocks = count,
        .half = half,
        .bias = walk->weights + matrix->bias + first * VK_BLOCK,
        .activation = matrix->activation,
        .low = matrix->low,
        .high = matrix->high,
    };
}

/* What a thread reads first of inputs [input, input + inputs) of a matrix: from block `first` on. */
static inline struct vk_ahead vk_ahead_of(const struct vk_walk *walk, const struct vk_matrix *matrix, int first,
                                          int input, int inputs) {
    const ptrdiff_t stride = (ptrdiff_t)matrix->inputs * VK_BLOCK;
    return (struct vk_ahead){walk->weights + matrix->weights + first * stride + input * VK_BLOCK, stride, inputs};
}

/* What this thread reads first in a step whose threads split the outputs of `expand`. */
static inline struct vk_ahead vk_first_of_step(const struct vk_walk *walk, const struct vk_step *step) {
    const int first = vk_share(vk_blocks(step->expand.outputs), walk->rank, walk->members);
    return vk_ahead_of(walk, &step->expand, first, 0, step->expand.inputs);
}

/* All that this thread reads of `expand` in such a step. */
static inline struct vk_later vk_share_of_step(const struct vk_walk *walk, const struct vk_step *step) {
    const int blocks = vk_blocks(step->expand.outputs), first = vk_share(blocks, walk->rank, walk->members);
    const int last = vk_share(blocks, walk->rank + 1, walk->members);
    const ptrdiff_t stride = (ptrdiff_t)step->expand.inputs * VK_BLOCK;
    return (struct vk_later){walk->weights + step->expand.weights + first * stride, (last - first) * stride};
}

/* The product reads `rows` rows of `inputs` floats, one after another. */
static inline void vk_read_rows(struct vk_product *product, const float *in, int inputs, int rows) {
    static const ptrdiff_t one_group[1] = {0};
    product->in = in;
    product->in_row_stride = inputs;
    product->group_offsets = one_group;
    product->groups = 1;
    product->group_size = inputs;
    product->rows = rows;
}

/* The padded width and height of the depthwise or dense convolution's input. */
static inline int vk_padded(int size, int pad, int out, const struct vk_step *step) {
    return vk_largest(size + pad, (out - 1) * step->stride + step->kernel);
}

/* Sets what the product reads for a row of the map that the stem writes, and normalises what is needed for it. */
void vk_read_image(const struct vk_walk *walk, const struct vk_step *step, int row, struct vk_product *product);
/* Winograd's algorithm makes two rows of outputs from four of inputs, by 16 products. */
enum { VK_WINOGRAD = 16, VK_WINOGRAD_ROWS = 4 };
static inline int vk_is_winograd(const struct vk_step *step) {
    return step->source == VK_FROM_DENSE && step->expand.inputs == VK_WINOGRAD * step->channels;
}
/* The padded width of a fused block's input: whole tiles of two outputs. */
static inline ptrdiff_t vk_fused_width(const struct vk_step *step) {
    const int width = vk_padded(step->width, step->pad_left, step->out_width, step);
    return vk_is_winograd(step) ? vk_largest(width, (step->out_width + 1) / 2 * 2 + 2) : width;
}

void vk_stem_row(const struct vk_walk *walk, const struct vk_step *step, int row, int first_block, int blocks,
                 float *out, ptrdiff_t block_stride);
/* Blocks [first, last) of what is projected; `map` is (block, block_positions, 16) from block `first` on. `weights` are
 * used in the place of the step's, unless NULL. */
void vk_project(const struct vk_walk *walk, const struct vk_step *step, const float *map, ptrdiff_t block_positions,
                int first, int last, int positions, const float *weights, float *out, const float *residual,
                int with_bias, struct vk_ahead next);
void vk_fused_block(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out);
void vk_inverted_residual(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *out);
/* features: NCHW of this image, or NULL; embedding: (hidden) */
void vk_head(const struct vk_walk *walk, const struct vk_step *step, const float *in, float *embedding,
             float *features);
/* embeddings: (rows, step->channels); out: (rows, expand.outputs) */
void vk_classifier(const struct vk_walk *walk, const struct vk_step *step, const float *embeddings, int rows,
                   float *out);

#endif
