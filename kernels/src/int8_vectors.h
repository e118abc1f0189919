/* What the int8 kernels share. Compiled for AVX-512 with VNNI alone. */
#include "int8_kernels.h"
#include "layout.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* Assembly in the innermost loop, as in microkernels.h: the compiler would spill sums. */
#define ADD_FOUR_PRODUCTS(sum, levels, weights)                                                                        \
    __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(levels), "v"(weights))
#define BROADCAST_FOUR(to, from) __asm__ volatile("vpbroadcastd %1, %0" : "=v"(to) : "m"(from))

INLINE __m512i nearest_level(__m512i sum, __m512 multiplier) {
    return _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), multiplier));
}

/* Four vectors of 16 channels, the zero point added: in each 128 bits 4 channels of `a`, the same of `b`, `c`, `d`. */
INLINE __m512i pack_levels(__m512i a, __m512i b, __m512i c, __m512i d, __m512i zero) {
    __m512i ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero);
    __m512i cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero);
    return _mm512_packus_epi16(ab, cd);
}

/* 16 levels of one position; `zero` in 32 bits. */
INLINE __m512i one_level(__m512i level, __m512i zero) {
    level = _mm512_max_epi32(_mm512_add_epi32(level, zero), _mm512_setzero_si512());
    return _mm512_min_epi32(level, _mm512_set1_epi32(255));
}

INLINE __m512i add_input(__m512i level, const struct vk_int8_sum *sum, ptrdiff_t offset) {
    __m512 input = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(sum->input + offset))));
    __m512 own = _mm512_cvtepi32_ps(level), value = _mm512_set1_ps(sum->fixed);
    const __m512 ratio = _mm512_set1_ps(sum->ratio), input_ratio = _mm512_set1_ps(sum->input_ratio);
    if (sum->input_last)
        value = _mm512_fmadd_ps(input, input_ratio, _mm512_fmadd_ps(own, ratio, value));
    else
        value = _mm512_fmadd_ps(own, ratio, _mm512_fmadd_ps(input, input_ratio, value));
    return one_level(_mm512_cvtps_epi32(value), _mm512_setzero_si512());
}

INLINE void store_levels(uint8_t *to, __m512i levels) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(levels));
}
