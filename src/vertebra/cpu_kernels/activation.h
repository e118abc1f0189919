/* Activations and their gradients, of single values; loops over them become vector instructions. */

#ifndef ACTIVATION_H
#define ACTIVATION_H

#include <string.h>

#include "threads.h"

enum { NONE = 0, RELU = 1, RELU6 = 2, SILU = 3 };

/* exp(x) to 2 ulp, by the polynomial of Cephes' expf; no branches. */
INLINE float exponential(float x) {
    x = x < -87.3f ? -87.3f : x; /* NaN stays NaN */
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t)((uint32_t)((int32_t)n + 127) << 23); /* 2^n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

INLINE float activate(float z, const int activation) {
    switch (activation) {
    case RELU: return z < 0 ? 0 : z; /* as torch: NaN stays NaN */
    case RELU6: z = z < 0 ? 0 : z; return z > 6 ? 6 : z;
    case SILU: return z / (1 + exponential(-z));
    default: return z;
    }
}

/* The gradient of the activation's input z, from that of its output. */
INLINE float input_gradient(float z, float gradient, const int activation) {
    switch (activation) {
    case RELU: return z <= 0 ? 0 : gradient;
    case RELU6: return z <= 0 || z >= 6 ? 0 : gradient;
    case SILU: {
        float s = 1 / (1 + exponential(-z));
        return gradient * (s * (1 + z * (1 - s)));
    }
    default: return gradient;
    }
}

/* Call FUNCTION with a constant activation, so that each has a loop of its own. */
#define FOR_ACTIVATION(activation, FUNCTION, ...)          \
    switch (activation) {                                  \
    case RELU: FUNCTION(__VA_ARGS__, RELU); break;         \
    case RELU6: FUNCTION(__VA_ARGS__, RELU6); break;       \
    case SILU: FUNCTION(__VA_ARGS__, SILU); break;         \
    default: FUNCTION(__VA_ARGS__, NONE);                  \
    }

#endif
