/* Depthwise convolution of one row of a block of 16 channels.
 *
 * Up to 8 outputs at a time: for each kernel row, the kernel's weights and the outputs' sums are in registers and
 * each input is loaded once for all the outputs that it contributes to. 8 + 5 + 1 registers fit AVX2's 16.
 */
INLINE void depthwise_tile(const int width, const int kernel, const int stride, const int silu,
                           const struct vk_depthwise_row *job, ptrdiff_t column, int lane, vec *total) {
    vec sum[8];
    UNROLL for (int i = 0; i < width; i++) sum[i] = load(job->bias + lane);
    UNROLL for (int dy = 0; dy < kernel; dy++) {
        const float *in = job->rows[dy] + column * stride * VK_BLOCK + lane;
        vec w[5];
        UNROLL for (int dx = 0; dx < kernel; dx++) w[dx] = load(job->weights + (dy * kernel + dx) * VK_BLOCK + lane);
        _Pragma("GCC unroll 24") for (int x = 0; x < (width - 1) * stride + kernel; x++) {
            vec value = load(in + x * VK_BLOCK);
            UNROLL for (int dx = 0; dx < kernel; dx++) {
                if (x >= dx && (x - dx) % stride == 0 && (x - dx) / stride < width)
                    MULTIPLY_ADD(sum[(x - dx) / stride], value, w[dx]);
            }
        }
    }
    const vec low = splat(job->low), high = splat(job->high);
    UNROLL for (int i = 0; i < width; i++) {
        vec value = silu ? sum[i] * sigmoid_of(sum[i]) : clamp(sum[i], low, high);
        store(job->out + (column + i) * VK_BLOCK + lane, value);
        *total += value;
    }
}

INLINE void depthwise_of(const int kernel, const int stride, const int silu, const struct vk_depthwise_row *job) {
    /* Tiles of nearly equal width, none of a single output where that can be helped. */
    const int tiles = (job->width + 7) / 8, narrow_width = job->width / tiles, wider = job->width - narrow_width * tiles;
    vec total[PER_BLOCK] = {{0}};
    ptrdiff_t column = 0;
    for (int t = 0; t < tiles; t++) {
        const int width = narrow_width + (t < wider);
        for (int part = 0; part < PER_BLOCK; part++) /* within a tile, so that each line of the input is fetched once */
            switch (width) {
#define CASE(n)                                                                                                        \
    case n: depthwise_tile(n, kernel, stride, silu, job, column, part * LANES, &total[part]); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
            }
        column += width;
    }
    if (job->sums)
        for (int part = 0; part < PER_BLOCK; part++)
            store(job->sums + part * LANES, load(job->sums + part * LANES) + total[part]);
}

#define DEPTHWISE(kernel, stride, silu)                                                                                \
    __attribute__((noinline)) static void depthwise_##kernel##_##stride##_##silu(const struct vk_depthwise_row *job) { \
        depthwise_of(kernel, stride, silu, job);                                                                       \
    }
DEPTHWISE(3, 1, 0) DEPTHWISE(3, 2, 0) DEPTHWISE(5, 1, 0) DEPTHWISE(5, 2, 0)
DEPTHWISE(3, 1, 1) DEPTHWISE(3, 2, 1) DEPTHWISE(5, 1, 1) DEPTHWISE(5, 2, 1)

static void depthwise(const struct vk_depthwise_row *job) {
    static void (*const table[2][2][2])(const struct vk_depthwise_row *) = {
        {{depthwise_3_1_0, depthwise_3_1_1}, {depthwise_3_2_0, depthwise_3_2_1}},
        {{depthwise_5_1_0, depthwise_5_1_1}, {depthwise_5_2_0, depthwise_5_2_1}}};
    table[job->kernel == 5][job->stride == 2][job->activation == VK_SILU](job);
}
