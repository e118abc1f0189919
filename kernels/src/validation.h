/* Checks of a packed program, and the memory that its steps need. */
#ifndef VK_VALIDATION_H
#define VK_VALIDATION_H

#include "layout.h"
#include <stddef.h>

/* Floats of each part of a thread's workspace, and of the network's own tables. */
struct vk_sizes {
    int64_t map, widened, depthwise, partial, image_rows, hidden, squeezed, scaled_weights, groups, columns;
    int64_t embedding, logits; /* of an image */
};

/* Far above any network, far below what overflows a product of two. */
enum { MOST_SIDE = 16384, MOST_CHANNELS = 65536, MOST_STEPS = 4096 };

static inline int between(int64_t value, int64_t low, int64_t high) { return value >= low && value <= high; }
/* Whether `count` weights from `offset` on are in the block. */
static inline int holds(const struct vk_header *header, int64_t offset, int64_t count) {
    return offset >= 0 && count >= 0 && count <= (int64_t)header->weight_count &&
           offset <= (int64_t)header->weight_count - count;
}
static inline void at_least(int64_t *size, int64_t value) {
    if (*size < value) *size = value;
}

/* Whether steps in int8 fit each other and the block; says in `sizes` what they need. */
int vk_int8_steps_fit(const struct vk_header *header, const struct vk_step *steps, struct vk_sizes *sizes);

/* 0, or the vk_status that tells what is wrong. `sizes` holds what a thread needs in a team of any size. */
int vk_validate(const unsigned char *packed, size_t size, struct vk_sizes *sizes);

#endif
