/* Depthwise convolution of rows of a block of 16 channels.
 *
 * Up to 8 outputs at a time: for each kernel row, the kernel's weights and the outputs' sums are in registers and
 * each input is loaded once for all the outputs that it contributes to. 8 + 5 + 1 registers fit AVX2's 16.
 */
INLINE void depthwise_tile(const int width, const int kernel, const int stride, const int silu, const int sums,
                           const struct vk_depthwise *job, const float *const *rows, float *out, ptrdiff_t column,
                           int lane, vec *total) {
    vec sum[8];
    UNROLL for (int i = 0; i < width; i++) sum[i] = load(job->bias + lane);
    UNROLL for (int dy = 0; dy < kernel; dy++) {
        const float *in = rows[dy] + column * stride * VK_BLOCK + lane;
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
        store(out + (column + i) * VK_BLOCK + lane, value);
        if (sums) *total += value;
    }
}

INLINE void depthwise_of(const int kernel, const int stride, const int silu, const int sums,
                         const struct vk_depthwise *job) {
    /* Tiles of nearly equal width, none of a single output where that can be helped. */
    const int tiles = (job->width + 7) / 8, narrow_width = job->width / tiles, wider = job->width - narrow_width * tiles;
    vec total[PER_BLOCK] = {{0}};
    float *out = job->out;
    for (int y = 0; y < job->height; y++, out += (ptrdiff_t)job->width * VK_BLOCK) {
        const float *rows[5];
        UNROLL for (int dy = 0; dy < kernel; dy++) {
            const int slot = job->first + y * stride + dy;
            rows[dy] = job->in + (slot < job->slots ? slot : slot - job->slots) * job->in_line;
        }
        ptrdiff_t column = 0;
        for (int t = 0; t < tiles; t++) {
            const int width = narrow_width + (t < wider);
            for (int part = 0; part < PER_BLOCK; part++) /* within a tile: each line of the input is fetched once */
                switch (width) {
#define CASE(n)                                                                                                        \
    case n: depthwise_tile(n, kernel, stride, silu, sums, job, rows, out, column, part * LANES, &total[part]); break;
                    CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
                }
            column += width;
        }
    }
    if (sums)
        for (int part = 0; part < PER_BLOCK; part++)
            store(job->sums + part * LANES, load(job->sums + part * LANES) + total[part]);
}

/* A tenth to a fifth of the time of 3 x 3 with AVX2 goes where there are sums, so those without are of their own. */
#define DEPTHWISE(kernel, stride, silu, sums)                                                                          \
    __attribute__((noinline)) static void depthwise_##kernel##_##stride##_##silu##_##sums(                             \
        const struct vk_depthwise *job) {                                                                          \
        depthwise_of(kernel, stride, silu, sums, job);                                                                 \
    }
#define DEPTHWISE_OF(kernel, stride)                                                                                   \
    DEPTHWISE(kernel, stride, 0, 0) DEPTHWISE(kernel, stride, 0, 1)                                                    \
    DEPTHWISE(kernel, stride, 1, 0) DEPTHWISE(kernel, stride, 1, 1)
DEPTHWISE_OF(3, 1) DEPTHWISE_OF(3, 2) DEPTHWISE_OF(5, 1) DEPTHWISE_OF(5, 2)
#define ENTRIES(kernel, stride)                                                                                        \
    {{depthwise_##kernel##_##stride##_0_0, depthwise_##kernel##_##stride##_0_1},                                       \
     {depthwise_##kernel##_##stride##_1_0, depthwise_##kernel##_##stride##_1_1}}

static void depthwise(const struct vk_depthwise *job) {
    static void (*const table[2][2][2][2])(const struct vk_depthwise *) = {{ENTRIES(3, 1), ENTRIES(3, 2)},
                                                                               {ENTRIES(5, 1), ENTRIES(5, 2)}};
    table[job->kernel == 5][job->stride == 2][job->activation == VK_SILU][job->sums != NULL](job);
}
