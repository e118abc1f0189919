/* The library's functions. A packed program is validated before anything is allocated for it. */
#ifndef VK_PROGRAM_H
#define VK_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#define VK_EXPORT __attribute__((visibility("default")))

struct vk_network;
enum vk_status {
    VK_OK = 0,
    VK_NOT_PACKED,       /* no header of ours */
    VK_OTHER_VERSION,
    VK_OTHER_PROCESSOR,  /* this processor lacks the instruction set */
    VK_DAMAGED,          /* a size or offset outside the block, or steps that do not fit each other */
    VK_BAD_ARGUMENT,
    VK_NO_MEMORY,
    VK_NO_THREADS,
    VK_STATUSES
};

VK_EXPORT int vk_best_instruction_set(void);
VK_EXPORT int vk_supports(int instruction_set);
/* Whether networks in int8 run here: AVX-512 with VNNI. */
VK_EXPORT int vk_supports_int8(void);
/* `packed` is copied. */
VK_EXPORT int vk_open(const void *packed, size_t size, int threads, struct vk_network **network);
/* A network with the weights of another, which may be closed before it; both may run at the same time. */
VK_EXPORT int vk_open_beside(struct vk_network *other, int threads, struct vk_network **network);
/* sizes: the image's height and width; the features' channels, height and width; classes. */
VK_EXPORT void vk_describe(const struct vk_network *network, int64_t sizes[6]);
/* images: uint8 (count, height, width, 3). Each output may be NULL: features (count, channels, height, width),
 * embedding (count, channels), logits and probabilities (count, classes). Calls from several threads take turns. */
VK_EXPORT int vk_run(struct vk_network *network, const uint8_t *images, ptrdiff_t count, float *features,
                     float *embedding, float *logits, float *probabilities);
VK_EXPORT void vk_close(struct vk_network *network);

enum vk_filter { VK_BILINEAR = 1, VK_BICUBIC = 2 };
/* image: uint8 (height, width, pixel_size), pixel_size 3 or 4 with the fourth byte ignored, as if resized to
 * (out_height, out_width) by Pillow, of which `out` is the part of crop_height x crop_width from (top, left), with three
 * bytes a pixel. */
VK_EXPORT int vk_resize(const uint8_t *image, int pixel_size, int height, int width, int out_height, int out_width,
                        int filter, int top, int left, int crop_height, int crop_width, int instruction_set,
                        uint8_t *out);
VK_EXPORT const char *vk_error(int status);

#endif
