/* Depthwise convolution of rows of a block of 16 channels: four outputs at a time, up to four taps an instruction.
 *
 * Output i of a group of four begins at column i x stride - pad of the input, which is byte s (0 ... 3) of some group.
 * Its taps lie in that group, weights shifted up by s bytes, and in the next one, where s + kernel > 4. */
#include "int8_vectors.h"

/* Rounds towards minus infinity. */
INLINE int group_of(int column) { return column >= 0 ? column / 4 : -((3 - column) / 4); }
INLINE int byte_of(int column) { return column - 4 * group_of(column); }

/* By a count that need not be a literal, as where nothing is unrolled. */
INLINE __m512i shift_up(__m512i value, int bytes) { return _mm512_sll_epi32(value, _mm_cvtsi32_si128(8 * bytes)); }
INLINE __m512i shift_down(__m512i value, int bytes) { return _mm512_srl_epi32(value, _mm_cvtsi32_si128(8 * bytes)); }

/* weights[row][s][0 and 1]: for the group of the first tap and the next one. */
INLINE void shift_weights(const int kernel, const int8_t *from, __m512i weights[5][4][2]) {
    const int8_t *fifth = from + kernel * VK_GROUP_BYTES;
    UNROLL for (int dy = 0; dy < kernel; dy++) {
        const __m512i four = _mm512_load_si512(from + dy * VK_GROUP_BYTES);
        UNROLL for (int s = 0; s < 4; s++) {
            weights[dy][s][0] = shift_up(four, s);
            weights[dy][s][1] = shift_down(four, 4 - s);
            if (kernel == 5)
                weights[dy][s][1] = _mm512_or_si512(
                    weights[dy][s][1], shift_up(_mm512_load_si512(fifth + dy * VK_GROUP_BYTES), s));
        }
    }
}

INLINE void convolve(const int kernel, const int stride, const int pad, const struct vk_int8_depthwise *job) {
    enum { MOST_GROUPS = 5 };
    __m512i weights[5][4][2];
    shift_weights(kernel, job->weights, weights);
    const __m512i bias = _mm512_loadu_si512(job->bias), zero = _mm512_set1_epi16((short)job->zero);
    const __m512 multiplier = _mm512_loadu_ps(job->multiplier);
    const __m512i by_position = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const int lowest = group_of(-pad), highest = group_of(3 * stride - pad + kernel - 1);
    uint8_t *out = job->out;
    for (int y = 0; y < job->height; y++) {
        const uint8_t *rows[5];
        UNROLL for (int dy = 0; dy < kernel; dy++)
            rows[dy] = job->in + (job->first_slot + y * stride + dy) % job->slots * job->in_row_stride;
        for (int x = 0; x < job->width; x += 4) {
            __m512i sum[4] = {bias, bias, bias, bias};
            UNROLL for (int dy = 0; dy < kernel; dy++) {
                const uint8_t *in = rows[dy] + (ptrdiff_t)x * stride * 16;
                __m512i group[MOST_GROUPS];
                UNROLL for (int g = lowest; g <= highest; g++)
                    group[g - lowest] = _mm512_load_si512(in + g * VK_GROUP_BYTES);
                UNROLL for (int i = 0; i < 4; i++) {
                    const int g = group_of(i * stride - pad) - lowest, s = byte_of(i * stride - pad);
                    sum[i] = _mm512_dpbusd_epi32(sum[i], group[g], weights[dy][s][0]);
                    if (s + kernel > 4) sum[i] = _mm512_dpbusd_epi32(sum[i], group[g + 1], weights[dy][s][1]);
                }
            }
            UNROLL for (int i = 0; i < 4; i++) sum[i] = nearest_level(sum[i], multiplier);
            const __m512i packed = pack_levels(sum[0], sum[1], sum[2], sum[3], zero);
            _mm512_storeu_si512(out + (ptrdiff_t)x * VK_BLOCK, _mm512_permutexvar_epi32(by_position, packed));
        }
        out += (ptrdiff_t)job->width * VK_BLOCK;
    }
}

#define KIND(kernel, stride, pad)                                                                                      \
    __attribute__((noinline)) static void convolve_##kernel##_##stride##_##pad(const struct vk_int8_depthwise *job) {  \
        convolve(kernel, stride, pad, job);                                                                            \
    }
VK_INT8_DEPTHWISE_KINDS(KIND)
#define ENTRY(kernel, stride, pad) {kernel, stride, pad, convolve_##kernel##_##stride##_##pad},
static const struct kind {
    int kernel, stride, pad;
    void (*run)(const struct vk_int8_depthwise *job);
} kinds[] = {VK_INT8_DEPTHWISE_KINDS(ENTRY)};

void vk_int8_convolve(const struct vk_int8_depthwise *job) {
    const struct kind *kind = kinds;
    while (kind->kernel != job->kernel || kind->stride != job->stride || kind->pad != job->pad_left) kind++;
    kind->run(job);
}
