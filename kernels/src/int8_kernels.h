/* Products and depthwise convolutions of 8-bit maps, for AVX-512 with VNNI.
 *
 * Values are uint8 levels, weights int8, sums int32. `vpdpbusd` adds four products of neighbouring bytes to a sum, so
 * inputs go in fours. The zero point of the input is folded into the bias. A sum becomes a level of the output by its
 * channel's multiplier: nearest even of sum x multiplier, plus the zero point, limited to 0 ... 255 (which is also the
 * activation: levels end where it clips). ONNX Runtime computes the same integers.
 *
 *     map between blocks    NHWC, channels padded to a multiple of 16
 *     widened map           [block of 16 channels][row][group of 4 columns][16][4 columns]
 *                           with one group of zero points before a row, and as many after as are read
 *     convolved map         [block of 16 channels][position][16]
 *     weights               [block of 16 outputs][4 inputs][16][4]
 *     depthwise weights     [block of 16 channels][kernel row][16][4 columns], and the same again of the fifth column
 *
 * In the widened map the 4 bytes that a `vpdpbusd` adds are neighbours in a row, so it takes up to 4 taps at a time;
 * outputs at other columns than a group's first take weights shifted by bytes, over two groups. */
#ifndef VK_INT8_KERNELS_H
#define VK_INT8_KERNELS_H

#include <stddef.h>
#include <stdint.h>

enum { VK_QUAD = 4, VK_GROUP_BYTES = 64 };
/* What becomes of the sums: groups of 4 columns; levels in NHWC; the sums themselves, NHWC too. */
enum vk_int8_output { VK_TO_GROUPS = 0, VK_TO_LEVELS = 1, VK_TO_SUMS = 2 };

/* Adding a block's input: nearest even of level x ratio + input x input_ratio + fixed, limited. */
struct vk_int8_sum {
    const uint8_t *input; /* laid out as the output, or NULL */
    float ratio, input_ratio, fixed;
    int input_last; /* which product is added last: sums of floats depend on the order */
};

/* The inputs of a row are `groups` runs of `group_quads` x 4 bytes, run g at in + row x in_row_stride +
 * group_offsets[g]. Row r is written at out + r x out_row_stride bytes; in groups of 4 columns, row 4 g + i at
 * out + g x 64, byte i of each channel's four. Blocks are out_block_stride bytes apart. */
struct vk_int8_product {
    const uint8_t *in;
    ptrdiff_t in_row_stride;
    const ptrdiff_t *group_offsets;
    int groups, group_quads;
    const int8_t *weights;
    ptrdiff_t weight_block_stride;
    int rows, blocks;
    const int32_t *bias; /* or NULL */
    const float *multiplier;
    int zero;
    enum vk_int8_output output;
    uint8_t *out;
    ptrdiff_t out_row_stride, out_block_stride;
    struct vk_int8_sum sum;
    int prefetch_next; /* fetch the following blocks of weights into L2 meanwhile */
};

/* `height` rows of one block of 16 channels. */
struct vk_int8_depthwise {
    const uint8_t *in;       /* the first row's group 0 */
    ptrdiff_t in_row_stride; /* bytes */
    int first_slot, slots;   /* row r of the input is at in + (first_slot + r) % slots x in_row_stride */
    const int8_t *weights;
    const int32_t *bias;
    const float *multiplier;
    int zero;
    uint8_t *out; /* (position, 16); up to 48 bytes after the last position are written too */
    int height, width, kernel, stride, pad_left;
};

/* Kernel size, stride and padding at the left of the depthwise convolutions that there are kernels for. */
#define VK_INT8_DEPTHWISE_KINDS(X) X(3, 1, 1) X(3, 2, 1) X(3, 2, 0) X(5, 1, 2) X(5, 2, 2) X(5, 2, 1)

void vk_int8_multiply(const struct vk_int8_product *product);
void vk_int8_convolve(const struct vk_int8_depthwise *job);
/* Levels of `count` positions from the sums of all parts, (position, outputs); outputs: a multiple of 16. */
void vk_int8_requantise(uint8_t *out, const int32_t *const *parts, int part_count, int positions, int outputs,
                        const float *multiplier, int zero, const struct vk_int8_sum *sum);
/* Levels of the means of 16 channels: nearest even of (sum over positions - in_zero each) x multiplier, plus zero. */
void vk_int8_mean(uint8_t *out, const uint8_t *in, int positions, ptrdiff_t stride, int in_zero, float multiplier,
                  int zero);

#endif
