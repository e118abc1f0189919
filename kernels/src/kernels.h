/* What each instruction set implements; the walks over maps are written once, in terms of these. */
#ifndef VK_KERNELS_H
#define VK_KERNELS_H

#include "layout.h"
#include <stddef.h>

/* Blocks of weights that are read after a product's own, and fetched into L2 meanwhile; inputs 0: none are known. */
struct vk_ahead {
    const float *weights;
    ptrdiff_t block_stride;
    int inputs;
};

/* More that is read later, too much for L2: fetched evenly during a product, from memory to L3; count 0: none. */
struct vk_later {
    const float *from;
    ptrdiff_t count;
};

/* out[row][output] = activation(bias + sum over inputs of in[row][input] x weights[input][output] + add[row][output])
 * The inputs of a row are `groups` runs of `group_size` floats, group g at in + row x in_row_stride + group_offsets[g]:
 * one run in NHWC, one for each block of 16 in the widened layout, one for each kernel row in the stem.
 * VK_LINEAR writes row r at out + r x out_row_stride; others at out + out_offsets[r], and have no `add`. */
struct vk_product {
    const float *in;
    ptrdiff_t in_row_stride;
    const ptrdiff_t *group_offsets;
    int groups, group_size;
    const float *weights, *half_weights; /* of the first block, and of the 8 outputs after the last block */
    ptrdiff_t weight_block_stride;
    int rows, blocks, half; /* half: 1 where 8 outputs follow the blocks */
    const float *bias;      /* or NULL */
    float *out;
    ptrdiff_t out_row_stride, out_block_stride;
    const int32_t *out_offsets;
    const float *add; /* laid out as `out`, or NULL */
    int activation;
    float low, high;
    struct vk_ahead next;
    struct vk_later later;
};

/* Rows of one block of 16 channels: out[y][x] = activation(bias + sum of taps), y < height, x < width. Input rows lie
 * in a ring: row r of those that are read is at in + (first + r) % slots x in_line, from the padded column 0 on. */
struct vk_depthwise {
    const float *in;
    ptrdiff_t in_line;
    int first, slots; /* all rows that are read: at most `slots` */
    const float *weights, *bias;
    float *out;
    float *sums; /* 16 sums over the rows are added here, unless NULL */
    int height, width, kernel, stride, activation;
    float low, high;
};

/* A row of tiles of 2 x 2 outputs. Inputs: rows[0 ... 3] of (column, channels) to `matrices` (16, tiles, channels).
 * Outputs: `matrices` (16, tiles, channels) to out[0], out[1] of `width` columns, each out_stride apart; blocks of 16
 * channels are out_block_stride apart. VK_LINEAR: no activation. out[1] may be NULL. */
struct vk_winograd {
    const float *rows[4];
    float *matrices;
    int tiles, channels, width;
    const float *bias;
    float *out[2];
    ptrdiff_t out_stride, out_block_stride;
    int activation;
    float low, high;
};

struct vk_kernels {
    void (*multiply)(const struct vk_product *product);
    void (*depthwise)(const struct vk_depthwise *job);
    /* out[i] = in[i] x scale[i] + shift[i] */
    void (*normalise)(float *out, const uint8_t *in, const float *scale, const float *shift, ptrdiff_t count);
    /* map[i] = activation(map[i]) + add[i]; add: or NULL */
    void (*activate)(float *map, const float *add, ptrdiff_t count, int activation, float low, float high);
    /* Winograd's F(2 x 2, 3 x 3): see winograd.h. */
    void (*winograd_inputs)(const struct vk_winograd *job);
    void (*winograd_outputs)(const struct vk_winograd *job);
    void (*sum)(float *out, const float *const *parts, int part_count, ptrdiff_t begin, ptrdiff_t end);
    /* map: (count, 16), each x gates[16] */
    void (*scale_map)(float *map, const float *gates, ptrdiff_t count);
    /* out[input][lane] = weights[input][lane] x gates[input] */
    void (*scale_weights)(float *out, const float *weights, const float *gates, int inputs, int lanes);
    /* out[16] = mean over a map (count, 16) */
    void (*mean)(float *out, const float *map, ptrdiff_t count);
    void (*sigmoid)(float *values, ptrdiff_t count); /* count: a multiple of 16 */
    void (*softmax)(float *out, const float *in, ptrdiff_t count);
    /* out[i] = the byte nearest to the sum over k of in[k x stride + i] x weights[k] / 2^VK_FRACTION_BITS; `count` is a
     * multiple of 16 */
    void (*weigh)(uint8_t *out, const uint8_t *in, ptrdiff_t stride, int taps, const int32_t *weights, ptrdiff_t count);
};

enum { VK_FRACTION_BITS = 22 };

extern const struct vk_kernels vk_kernels_portable, vk_kernels_avx2, vk_kernels_avx512;
/* Those of a supported instruction set. */
const struct vk_kernels *vk_kernels_of(int instruction_set);

#endif
