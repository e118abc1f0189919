/* How maps and weights lie in memory, and the packed program that the planner writes.
 *
 * Maps between blocks: NHWC float32, (height, width, channels), channels padded to a multiple of 8 with zeros.
 *
 * The widened map of an inverted residual never exists as a whole. Its channels (padded to a multiple of 16) are
 * cut into blocks of 16, and each block is a small image of its own:
 *
 *     [block of 16 channels][row][column][16]        one vector of AVX-512, two of AVX2, four of SSE
 *
 * so that the depthwise convolution of a block reads neighbours 16 floats apart, with its own zeros as padding.
 *
 * Weights of a product (expansion, projection, last convolution, classifier; dense convolutions, the stem among them,
 * with inputs in the order kernel row, kernel column, channel):
 *
 *     [block of 16 outputs][input][16]  then, where 8 outputs are left:  [input][8]
 *
 * The same for every instruction set. A microkernel takes one to three blocks at a time, and threads share out
 * blocks evenly whatever their number is.
 *
 * Depthwise weights: [block of 16 channels][kernel row][kernel column][16].
 */
#ifndef VK_LAYOUT_H
#define VK_LAYOUT_H

#include <stdint.h>

enum { VK_BLOCK = 16, VK_HALF = 8 };
enum { VK_VERSION = 2 };
static const char VK_MAGIC[8] = {'V', 'K', 'P', 'A', 'C', 'K', 'E', 'D'};

enum vk_instruction_set { VK_PORTABLE = 0, VK_AVX2 = 1, VK_AVX512 = 2, VK_INSTRUCTION_SETS = 3 };
enum vk_step_kind { VK_INVERTED_RESIDUAL = 1, VK_HEAD = 2, VK_CLASSIFIER = 3, VK_FUSED = 4 };
/* Where the widened map comes from: a dense convolution of the image, a 1 x 1 convolution, the input as it is, a dense
 * convolution of the input (VK_FUSED alone, which has no depthwise convolution). */
enum vk_source { VK_FROM_IMAGE = 0, VK_FROM_POINTWISE = 1, VK_FROM_COPY = 2, VK_FROM_DENSE = 3 };
enum vk_activation { VK_LINEAR = 0, VK_CLAMP = 1, VK_SILU = 2 };
/* VK_INT8: maps and weights of 8 bits as in int8_kernels.h. Then offsets count 4 bytes, each bias is int32, and the
 * multipliers of its outputs follow it. */
enum vk_precision { VK_FLOAT32 = 0, VK_INT8 = 1 };

/* Sizes are in bytes from the beginning of the packed block. packing.py writes the same structure. */
struct vk_header {
    char magic[8];
    uint32_t version, instruction_set, step_count, precision;
    uint32_t image_height, image_width;
    uint64_t total_size, steps_offset, weights_offset, weight_count; /* weight_count: floats */
    uint64_t names_offset, names_size;                               /* JSON, for Python alone */
};

/* A 1 x 1 convolution or dense layer. Offsets are in floats from the first weight. */
struct vk_matrix {
    int64_t weights, bias;
    int32_t inputs, outputs; /* padded: inputs to 8 (the stem: its taps), outputs to 8 */
    int32_t activation;
    float low, high; /* of VK_CLAMP */
    int32_t reserved;
};

/* Of a step in int8: zero points of its maps, and what else its levels need. */
struct vk_quantised {
    int64_t levels; /* of the image's bytes: [channel][256] */
    int32_t image_is_levels;
    int32_t image_zero, widened_zero, convolved_zero, out_zero; /* of the head: out is the mean */
    float sum_ratio, input_ratio, sum_fixed; /* of the residual */
    float mean_multiplier, widened_scale, out_scale; /* of the head */
    int32_t input_last; /* of the residual: see vk_int8_sum */
};

struct vk_step {
    int32_t kind, source;
    int32_t height, width, channels; /* of the input map; from an image: of the map that the stem writes */
    int32_t hidden;                  /* widened channels, a multiple of 16; of 8 in VK_FUSED without projection */
    int32_t out_height, out_width, out_channels;
    int32_t kernel, stride, pad_top, pad_left; /* of the depthwise convolution, or of the dense one of the input */
    int32_t residual, squeeze;                 /* squeeze: channels of squeeze-excitation, a multiple of 16, or 0 */
    int32_t stem_kernel, stem_stride, stem_pad_top, stem_pad_left;
    int32_t depthwise_activation;
    float depthwise_low, depthwise_high;
    float scale[3], shift[3]; /* of the image: value x scale + shift */
    int64_t depthwise_weights, depthwise_bias;
    /* The head and the classifier use `expand`; of VK_FUSED without projection `project` has no outputs. */
    struct vk_matrix expand, project, squeeze_down, squeeze_up;
    struct vk_quantised quantised;
};

#endif
