/* Products of matrices in rows, of a few rows and columns at a time in registers; for inclusion in a source. */

#ifndef MATRIX_PRODUCT_H
#define MATRIX_PRODUCT_H

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef int64_t Index;

enum {
#ifdef __AVX512F__
    LANES = 16, /* of a vector */
    ROWS = 14, /* of a product that are computed at once */
#else
    LANES = 8,
    ROWS = 6,
#endif
    PANEL = 2 * LANES, /* columns of a product that are computed at once */
    LINE = 16 /* floats of a line of the cache */
};

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Vector load(const float *p) { return *(const Vector *)p; }
INLINE void store(float *p, Vector v) { *(Vector *)p = v; }
INLINE Vector splat(float value) { return value - (Vector){0}; }
INLINE Index least(Index a, Index b) { return a < b ? a : b; }

/* Share `member` of `members` of `count` things: *first … *last - 1. */
INLINE void find_share(Index *first, Index *last, Index count, Index member, Index members) {
    *first = count * member / members, *last = count * (member + 1) / members;
}

/* c (rows, vectors · LANES) = a b, or c += a b; a: rows `a_row` and terms `a_term` apart. */
INLINE void multiply_block(float *c, Index c_row, const float *a, Index a_row, Index a_term, const float *b, Index b_term,
                           Index terms, int adds, const int rows, const int vectors) {
    Vector sum[ROWS][2];
    const float *third[(ROWS + 2) / 3];
    UNROLL for (int i = 0; 3 * i < rows; i++) third[i] = a + 3 * i * a_row;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++)
            sum[i][j] = adds ? load(c + i * c_row + j * LANES) : splat(0);
    for (Index k = 0; k < terms; k++) {
        Vector factor[2];
        UNROLL for (int j = 0; j < vectors; j++) factor[j] = load(b + j * LANES);
        b += b_term;
        UNROLL for (int i = 0; i < rows; i++) {
            const float *p = third[i / 3] + i % 3 * a_row;
#if defined(__AVX512F__) || defined(__FMA__) && defined(__AVX2__)
            /* The compiler would spill sums. */
            Vector value;
            __asm__("vbroadcastss %1, %0" : "=v"(value) : "m"(*p));
            UNROLL for (int j = 0; j < vectors; j++)
                __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum[i][j]) : "v"(value), "v"(factor[j]));
#else
            UNROLL for (int j = 0; j < vectors; j++) sum[i][j] += *p * factor[j];
#endif
        }
        UNROLL for (int i = 0; 3 * i < rows; i++) third[i] += a_term;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) store(c + i * c_row + j * LANES, sum[i][j]);
}

#define ROWS_OF(count)                                                                                         \
    for (; rows >= (count); rows -= (count), a += (count) * a_row, c += (count) * c_row) {                     \
        if (vectors == 2)                                                                                      \
            multiply_block(c, c_row, a, a_row, a_term, b, b_term, terms, adds, count, 2);                      \
        else                                                                                                   \
            multiply_block(c, c_row, a, a_row, a_term, b, b_term, terms, adds, count, 1);                      \
    }

/* As multiply_block, for any number of rows. */
INLINE void multiply_rows(float *c, Index c_row, const float *a, Index a_row, Index a_term, const float *b, Index b_term,
                          Index terms, int adds, Index rows, int vectors) {
    ROWS_OF(ROWS)
#ifdef __AVX512F__
    ROWS_OF(8)
#endif
    ROWS_OF(4)
    ROWS_OF(2)
    ROWS_OF(1)
}

#endif
