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

/* 0, or the vk_status that tells what is wrong. `sizes` holds what a thread needs in a team of any size. */
int vk_validate(const unsigned char *packed, size_t size, struct vk_sizes *sizes);

#endif
