/* Products of matrices in rows, of a few rows and columns at a time in registers; for inclusion in a source. */

#ifndef MATRIX_PRODUCT_H
#define MATRIX_PRODUCT_H

#include "threads.h"

#define UNROLL _Pragma("GCC unroll 16")

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

/* c (rows, columns) = a (rows, terms) × b (terms, columns), columns at most PANEL. */
typedef struct {
    float *c;
    Index c_row; /* distance of rows */
    const float *a;
    Index a_row, a_term; /* distances of rows and terms */
    const float *b;
    Index b_term;
    Index rows, terms, columns;
    int adds; /* c += a × b */
    const float *ahead; /* what is read after this product, fetched meanwhile: `step` floats further for each term */
    Index step;
} Product;

INLINE Product shift_rows(Product p, Index count) {
    p.c += count * p.c_row, p.a += count * p.a_row, p.ahead += p.terms * p.step, p.rows -= count;
    return p;
}

/* The first `rows` rows, of `vectors` vectors. */
INLINE void multiply_block(Product p, const int rows, const int vectors) {
    Vector sum[ROWS][2];
    const float *third[(ROWS + 2) / 3];
    UNROLL for (int i = 0; 3 * i < rows; i++) third[i] = p.a + 3 * i * p.a_row;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = splat(0);
    for (Index k = 0; k < p.terms; k++) {
        Vector factor[2];
        UNROLL for (int j = 0; j < vectors; j++) factor[j] = load(p.b + j * LANES);
        p.b += p.b_term;
        __builtin_prefetch(p.ahead, 0, 2);
        p.ahead += p.step;
        UNROLL for (int i = 0; i < rows; i++) {
            const float *a = third[i / 3] + i % 3 * p.a_row;
#if defined(__AVX512F__) || defined(__FMA__) && defined(__AVX2__)
            /* The compiler would spill sums. */
            Vector value;
            __asm__("vbroadcastss %1, %0" : "=v"(value) : "m"(*a));
            UNROLL for (int j = 0; j < vectors; j++)
                __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum[i][j]) : "v"(value), "v"(factor[j]));
#else
            UNROLL for (int j = 0; j < vectors; j++) sum[i][j] += *a * factor[j];
#endif
        }
        UNROLL for (int i = 0; 3 * i < rows; i++) third[i] += p.a_term;
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < vectors; j++) {
            float *c = p.c + i * p.c_row + j * LANES;
            if (p.adds) sum[i][j] += load(c); /* at the end: the error of a sum grows with the number of its terms */
            store(c, sum[i][j]);
        }
}

#define MULTIPLY_BLOCKS(count)                              \
    for (; p.rows >= (count); p = shift_rows(p, count)) {   \
        if (p.columns == PANEL)                             \
            multiply_block(p, count, 2);                    \
        else                                                \
            multiply_block(p, count, 1);                    \
    }

/* All rows, by as many at a time as there are registers for. */
static __attribute__((noinline)) void multiply_panel(Product p) {
    MULTIPLY_BLOCKS(ROWS)
#ifdef __AVX512F__
    MULTIPLY_BLOCKS(8)
#endif
    MULTIPLY_BLOCKS(4)
    MULTIPLY_BLOCKS(2)
    MULTIPLY_BLOCKS(1)
}

#endif
