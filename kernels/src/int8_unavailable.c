/* For processors without kernels in int8, where `vk_open` refuses such networks: nothing here is ever called. */
#include "int8_kernels.h"

void vk_int8_multiply(const struct vk_int8_product *product) { (void)product; }
void vk_int8_convolve(const struct vk_int8_depthwise *job) { (void)job; }
void vk_int8_requantise(uint8_t *out, const int32_t *const *parts, int part_count, int positions, int outputs,
                        const float *multiplier, int zero, const struct vk_int8_sum *sum) {
    (void)out, (void)parts, (void)part_count, (void)positions, (void)outputs, (void)multiplier, (void)zero, (void)sum;
}
void vk_int8_mean(uint8_t *out, const uint8_t *in, int positions, ptrdiff_t stride, int in_zero, float multiplier,
                  int zero) {
    (void)out, (void)in, (void)positions, (void)stride, (void)in_zero, (void)multiplier, (void)zero;
}
