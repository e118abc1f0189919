/* Sums of bytes times integer weights, for `vk_resize`. */
#if LANES == 16
INLINE int_vec load_bytes(const uint8_t *from) { return (int_vec)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from)); }
INLINE void store_bytes(uint8_t *to, int_vec values) { _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)values)); }
#elif LANES == 8
INLINE int_vec load_bytes(const uint8_t *from) { return (int_vec)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from)); }
INLINE void store_bytes(uint8_t *to, int_vec values) {
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)values), _mm256_extracti128_si256((__m256i)values, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
}
#else
INLINE int_vec load_bytes(const uint8_t *from) { return (int_vec){from[0], from[1], from[2], from[3]}; }
INLINE void store_bytes(uint8_t *to, int_vec values) {
    for (int i = 0; i < LANES; i++) to[i] = (uint8_t)values[i];
}
#endif

/* Three vectors at a time are 16 rows of a column, or 16 pixels of a row, with AVX-512. */
INLINE void weigh_vectors(const int vectors, uint8_t *out, const uint8_t *in, ptrdiff_t stride, int taps,
                          const int32_t *weights) {
    int_vec sum[3];
    UNROLL for (int j = 0; j < vectors; j++) sum[j] = (int_vec){0} + (1 << (VK_FRACTION_BITS - 1));
    for (int k = 0; k < taps; k++, in += stride)
        UNROLL for (int j = 0; j < vectors; j++) sum[j] += load_bytes(in + j * LANES) * weights[k];
    UNROLL for (int j = 0; j < vectors; j++) {
        int_vec value = sum[j] >> VK_FRACTION_BITS;
        value &= ~(value >> 31);
        value = (value | (value > 255)) & 255;
        store_bytes(out + j * LANES, value);
    }
}

static void weigh(uint8_t *out, const uint8_t *in, ptrdiff_t stride, int taps, const int32_t *weights, ptrdiff_t count) {
    ptrdiff_t i = 0;
    for (; i + 3 * LANES <= count; i += 3 * LANES) weigh_vectors(3, out + i, in + i, stride, taps, weights);
    for (; i < count; i += LANES) weigh_vectors(1, out + i, in + i, stride, taps, weights);
}
