/* Steps on an image in int8, by a thread alone or in a team. Maps are uint8 in the workspace's memory. */
#ifndef VK_INT8_WALK_H
#define VK_INT8_WALK_H

#include "int8_kernels.h"
#include "walk.h"

static inline int vk_int8_depthwise_is_known(int kernel, int stride, int pad_left) {
#define VK_SAME(k, s, p) (kernel == (k) && stride == (s) && pad_left == (p)) ||
    return VK_INT8_DEPTHWISE_KINDS(VK_SAME) 0;
#undef VK_SAME
}

/* Bytes of a row of a widened block: a group of zero points, the columns, and what is read after them. */
static inline int64_t vk_int8_line(const struct vk_step *step) {
    const int last_output = (step->out_width + 3) / 4 * 4 - 1;
    const int last_column = last_output * step->stride - step->pad_left + step->kernel - 1;
    return (int64_t)(1 + vk_largest((step->width + 3) / 4, last_column / 4 + 1)) * VK_GROUP_BYTES;
}

/* Quads of bytes in a row of the stem's kernel; the last may hold bytes of the next pixel, with weights of zero. */
static inline int vk_int8_stem_quads(int kernel) { return (kernel * 3 + VK_QUAD - 1) / VK_QUAD; }

void vk_int8_inverted_residual(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, uint8_t *out);
/* embedding: `hidden` floats, then as many levels; features: as in `vk_head` */
void vk_int8_head(const struct vk_walk *walk, const struct vk_step *step, const uint8_t *in, float *embedding,
                  float *features);
/* embeddings: of `rows` images, `stride` floats apart, as `vk_int8_head` wrote them */
void vk_int8_classifier(const struct vk_walk *walk, const struct vk_step *step, const float *embeddings,
                        ptrdiff_t stride, int rows, float *out);

#endif
