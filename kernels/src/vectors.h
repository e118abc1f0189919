/* Vectors of LANES floats, with what the compiler does not choose well by itself. Include after defining LANES. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if LANES > 4
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef float loose_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t int_vec __attribute__((vector_size(4 * LANES)));

/* The 8 outputs that remain after blocks of 16: half a vector of AVX-512. */
#define NARROW_LANES (LANES < 8 ? LANES : 8)
typedef float narrow __attribute__((vector_size(4 * NARROW_LANES)));
typedef float loose_narrow __attribute__((vector_size(4 * NARROW_LANES), aligned(4), may_alias));

INLINE vec load(const float *from) { return *(const loose_vec *)from; }
INLINE void store(float *to, vec value) { *(loose_vec *)to = value; }
INLINE narrow load_narrow(const float *from) { return *(const loose_narrow *)from; }
INLINE void store_narrow(float *to, narrow value) { *(loose_narrow *)to = value; }
INLINE vec splat(float value) { return value - (vec){0}; }

/* The multiply-add and the broadcast of the innermost loop are assembly: the compiler reorders them, runs out of
 * registers and spills accumulators (up to a quarter of the time). */
#if LANES == 16
#define MULTIPLY_ADD(sum, x, y) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))
#define BROADCAST(to, from) __asm__ volatile("vbroadcastss %1, %0" : "=v"(to) : "m"(from))
/* A broadcast within the multiply-add: faster where a broadcast serves one of them (on Zen 4 by a third). */
#define MULTIPLIES_FROM_MEMORY 1
#define MULTIPLY_ADD_FROM(sum, x, from)                                                                                \
    __asm__ volatile("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(from))
#define MULTIPLY_ADD_FROM_NARROW(sum, x, from)                                                                         \
    __asm__ volatile("vfmadd231ps %2%{1to8%}, %1, %0" : "+v"(sum) : "v"(x), "m"(from))
INLINE narrow lower(vec value) { return _mm512_castps512_ps256(value); }
INLINE vec maximum(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec minimum(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec reciprocal_estimate(vec value) { return _mm512_rcp14_ps(value); }
#elif LANES == 8
#define MULTIPLY_ADD(sum, x, y) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#define BROADCAST(to, from) __asm__ volatile("vbroadcastss %1, %0" : "=x"(to) : "m"(from))
INLINE narrow lower(vec value) { return value; }
INLINE vec maximum(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec minimum(vec a, vec b) { return _mm256_min_ps(a, b); }
INLINE vec nearest(vec value) { return _mm256_round_ps(value, 8); }
INLINE vec reciprocal_estimate(vec value) { return _mm256_rcp_ps(value); }
#else
#define MULTIPLY_ADD(sum, x, y) ((sum) += (x) * (y))
#define BROADCAST(to, from) ((to) = splat(from))
INLINE narrow lower(vec value) { return value; }
INLINE vec choose(int_vec where, vec a, vec b) { return (vec)(((int_vec)a & where) | ((int_vec)b & ~where)); }
INLINE vec maximum(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec minimum(vec a, vec b) { return choose(a < b, a, b); }
INLINE vec nearest(vec value) {
    const vec big = splat(12582912.0f); /* 1.5 x 2^23: adding it rounds values of less than 2^22 */
    return (value + big) - big;
}
#endif
#if LANES < 16
#define MULTIPLIES_FROM_MEMORY 0
#define MULTIPLY_ADD_FROM(sum, x, from) (void)0
#define MULTIPLY_ADD_FROM_NARROW(sum, x, from) (void)0
#endif

/* NaN stays NaN: both return their second operand where one is NaN. */
INLINE vec clamp(vec value, vec low, vec high) { return minimum(high, maximum(low, value)); }

/* e^x = 2^(whole + f), relative error below 1e-6 for |x| <= 80: the polynomial of degree 6 with the least relative
 * error of 2^f (2e-9). AVX-512 takes f from [0, 1) and needs no lower limit, the others from [-1/2, 1/2]. */
INLINE vec polynomial(vec f, const float factors[7]) { /* of the highest power first */
    vec sum = splat(factors[0]);
    UNROLL for (int i = 1; i < 7; i++) sum = sum * f + factors[i];
    return sum;
}

INLINE vec exponential(vec x) {
#if LANES == 16
    static const float factors[7] = {2.1702255e-4f, 1.2439688e-3f, 9.6788406e-3f, 5.5483341e-2f,
                                     2.4022983e-1f, 6.9314700e-1f, 1.0f};
    vec t = minimum(splat(115.0f), x * 1.44269504f);
    return _mm512_scalef_ps(polynomial(_mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF), factors), t);
#else
    static const float factors[7] = {1.5345812e-4f, 1.3399931e-3f, 9.6184891e-3f, 5.5503286e-2f,
                                     2.4022646e-1f, 6.9314718e-1f, 1.0f};
    vec t = clamp(x * 1.44269504f, splat(-115.0f), splat(115.0f)), whole = nearest(t);
    return (vec)((int_vec)polynomial(t - whole, factors) + (__builtin_convertvector(whole, int_vec) << 23));
#endif
}

/* 1 / (1 + e^-x) */
INLINE vec sigmoid_of(vec x) {
    vec divisor = exponential(-x) + 1.0f;
#if LANES > 4
    vec y = reciprocal_estimate(divisor);
    return y * (2.0f - divisor * y); /* a step of Newton's method */
#else
    return 1.0f / divisor;
#endif
}
