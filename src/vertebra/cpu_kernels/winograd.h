/* One-dimensional transforms of Winograd's algorithm, at ±3/4, ±3/2, 0 and ∞ for 3×3 weights and at ±1/2, ±5/4 and ∞ for
 * the phases of stride 2, and which parts and weights the phases have; for conv3x3.c, which explains them. With these
 * points the error of rounding is half of what it is with the paper's, and about twice that of a plain sum. */

#ifndef WINOGRAD_H
#define WINOGRAD_H

#include "matrix_product.h"

enum {
    TILE = 4, /* rows and columns of outputs */
    SPAN = 6 /* most rows and columns of parts */
};

/* Rows and columns of the input for stride 2, in an order in which those with products in a part follow each other; all of
 * them, for stride 1. */
typedef enum { EVEN_EVEN, EVEN_ODD, ODD_ODD, ODD_EVEN, PHASES, WHOLE = PHASES } Phase;

INLINE int is_odd_row(Phase phase) { return phase == ODD_ODD || phase == ODD_EVEN; }
INLINE int is_odd_column(Phase phase) { return phase == ODD_ODD || phase == EVEN_ODD; }

/* Along rows or columns: how many parts, of any phase or of one; weights; and which weight number i is. */
INLINE int span(int is_whole) { return is_whole ? 6 : 5; }
INLINE int part_count(int is_whole) { return span(is_whole) * span(is_whole); }
INLINE int parts(Phase phase, int is_odd) { return phase == WHOLE ? 6 : is_odd ? 5 : 4; }
INLINE int taps(Phase phase, int is_odd) { return phase == WHOLE ? 3 : is_odd ? 2 : 1; }
INLINE int tap(Phase phase, int is_odd, int i) { return phase == WHOLE ? i : is_odd ? 2 * i : 1; }

/* The first phase with products in a part, and how many; *count = 1 for stride 1. */
INLINE int first_phase(int is_whole, int part, int *count) {
    int is_last_row = part / 5 == 4, is_last_column = part % 5 == 4;
    *count = is_whole ? 1 : PHASES >> (is_last_row + is_last_column);
    return is_whole ? 0 : is_last_row ? ODD_ODD : is_last_column ? EVEN_ODD : EVEN_EVEN;
}

/* Calls `function` with a constant as the phase. */
#define WITH_PHASE(function, phase, ...)                           \
    switch (phase) {                                               \
        case EVEN_EVEN: function(EVEN_EVEN, __VA_ARGS__); break;   \
        case EVEN_ODD: function(EVEN_ODD, __VA_ARGS__); break;     \
        case ODD_ODD: function(ODD_ODD, __VA_ARGS__); break;       \
        case ODD_EVEN: function(ODD_EVEN, __VA_ARGS__); break;     \
        default: function(WHOLE, __VA_ARGS__);                     \
    }

/* Points ±a and ±b, their squares, and the inverse of the product of a point's differences from the others. */
typedef struct {
    float a, b, a2, b2, at_a, at_b;
} Points;

INLINE Points points(int is_whole) {
    const float a = is_whole ? 0.75f : 0.5f, b = is_whole ? 1.5f : 1.25f;
    return (Points){a, b, a * a, b * b, 1 / (2 * (is_whole ? a * a : a) * (a * a - b * b)),
                    1 / (2 * (is_whole ? b * b : b) * (b * b - a * a))};
}

/* Bᵀ d */
INLINE void transform_input(int is_whole, Vector *v, const Vector *d) {
    Points p = points(is_whole);
    if (is_whole) {
        *v++ = p.a2 * p.b2 * d[0] - (p.a2 + p.b2) * d[2] + d[4];
        d++;
    }
    Vector even_a = d[3] - p.b2 * d[1], odd_a = p.a * (d[2] - p.b2 * d[0]);
    Vector even_b = d[3] - p.a2 * d[1], odd_b = p.b * (d[2] - p.a2 * d[0]);
    v[0] = even_a + odd_a, v[1] = even_a - odd_a;
    v[2] = even_b + odd_b, v[3] = even_b - odd_b;
    v[4] = p.a2 * p.b2 * d[0] - (p.a2 + p.b2) * d[2] + d[4];
}

/* Aᵀ m, of `count` parts */
INLINE void transform_output(int is_whole, Vector y[TILE], const Vector *m, int count) {
    Points p = points(is_whole);
    const Vector *n = m + is_whole;
    Vector sum_a = n[0] + n[1], difference_a = n[0] - n[1], sum_b = n[2] + n[3], difference_b = n[2] - n[3];
    y[0] = sum_a + sum_b;
    y[1] = p.a * difference_a + p.b * difference_b;
    y[2] = p.a2 * sum_a + p.b2 * sum_b;
    y[3] = p.a * p.a2 * difference_a + p.b * p.b2 * difference_b;
    if (is_whole) y[0] += m[0];
    if (count == span(is_whole)) y[3] += n[4];
}

/* A dy */
INLINE void transform_gradient(int is_whole, Vector *e, const Vector y[TILE]) {
    Points p = points(is_whole);
    if (is_whole) *e++ = y[0];
    Vector even_a = y[0] + p.a2 * y[2], odd_a = p.a * (y[1] + p.a2 * y[3]);
    Vector even_b = y[0] + p.b2 * y[2], odd_b = p.b * (y[1] + p.b2 * y[3]);
    e[0] = even_a + odd_a, e[1] = even_a - odd_a;
    e[2] = even_b + odd_b, e[3] = even_b - odd_b;
    e[4] = y[3];
}

/* G g, of `count` weights */
INLINE void transform_weights(Vector *u, const Vector *g, int count) {
    Points p = points(count == 3);
    if (count == 3) {
        Vector even_a = p.at_a * g[0] + p.at_a * p.a2 * g[2], even_b = p.at_b * g[0] + p.at_b * p.b2 * g[2];
        u[0] = 1 / (p.a2 * p.b2) * g[0];
        u[1] = even_a + p.at_a * p.a * g[1], u[2] = even_a - p.at_a * p.a * g[1];
        u[3] = even_b + p.at_b * p.b * g[1], u[4] = even_b - p.at_b * p.b * g[1];
        u[5] = g[2];
    } else if (count == 2) {
        u[0] = p.at_a * p.a * g[1] + p.at_a * g[0], u[1] = p.at_a * p.a * g[1] - p.at_a * g[0];
        u[2] = p.at_b * p.b * g[1] + p.at_b * g[0], u[3] = p.at_b * p.b * g[1] - p.at_b * g[0];
        u[4] = g[1];
    } else {
        u[0] = p.at_a * g[0], u[1] = -u[0];
        u[2] = p.at_b * g[0], u[3] = -u[2];
    }
}

/* Gᵀ u, of `count` weights */
INLINE void transform_weight_gradient(Vector *g, const Vector *u, int count) {
    Points p = points(count == 3);
    if (count == 3) {
        Vector sum_a = p.at_a * (u[1] + u[2]), sum_b = p.at_b * (u[3] + u[4]);
        g[0] = 1 / (p.a2 * p.b2) * u[0] + sum_a + sum_b;
        g[1] = p.at_a * p.a * (u[1] - u[2]) + p.at_b * p.b * (u[3] - u[4]);
        g[2] = p.a2 * sum_a + p.b2 * sum_b + u[5];
    } else {
        g[0] = p.at_a * (u[0] - u[1]) + p.at_b * (u[2] - u[3]);
        if (count == 2) g[1] = p.at_a * p.a * (u[0] + u[1]) + p.at_b * p.b * (u[2] + u[3]) + u[4];
    }
}

#endif
