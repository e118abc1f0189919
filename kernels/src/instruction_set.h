/* All that one instruction set implements. A source file defines LANES and KERNELS, and includes this. */
#include "kernels.h"
#include "vectors.h"
#include "microkernels.h"
#include "depthwise.h"
#include "weigh.h"

static void normalise(float *out, const uint8_t *in, const float *scale, const float *shift, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) out[i] = (float)in[i] * scale[i] + shift[i];
}

INLINE vec activated(vec value, const int activation, vec low, vec high) {
    return activation == VK_SILU ? value * sigmoid_of(value) : clamp(value, low, high);
}

static void activate(float *map, const float *add, ptrdiff_t count, int activation, float low, float high) {
    const vec lowest = splat(low), highest = splat(high);
    ptrdiff_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = activated(load(map + i), activation, lowest, highest);
        store(map + i, add ? value + load(add + i) : value);
    }
    if (i == count) return;
    const size_t rest = (size_t)(count - i) * sizeof(float);
    vec value = {0}, more = {0};
    memcpy(&value, map + i, rest);
    if (add) memcpy(&more, add + i, rest);
    value = activated(value, activation, lowest, highest) + more;
    memcpy(map + i, &value, rest);
}

#include "winograd.h"

static void sum_parts(float *out, const float *const *parts, int part_count, ptrdiff_t begin, ptrdiff_t end) {
    for (ptrdiff_t i = begin; i < end; i += 8) {
        float value[8];
        memcpy(value, parts[0] + i, sizeof value);
        for (int p = 1; p < part_count; p++)
            for (int j = 0; j < 8; j++) value[j] += parts[p][i + j];
        memcpy(out + i, value, sizeof value);
    }
}

static void scale_map(float *map, const float *gates, ptrdiff_t count) {
    for (int lane = 0; lane < VK_BLOCK; lane += LANES) {
        vec gate = load(gates + lane);
        for (ptrdiff_t i = 0; i < count; i++)
            store(map + i * VK_BLOCK + lane, load(map + i * VK_BLOCK + lane) * gate);
    }
}

static void scale_weights(float *out, const float *weights, const float *gates, int inputs, int lanes) {
    for (int k = 0; k < inputs; k++)
        for (int lane = 0; lane < lanes; lane += NARROW_LANES)
            store_narrow(out + k * lanes + lane, load_narrow(weights + k * lanes + lane) * gates[k]);
}

static void mean(float *out, const float *map, ptrdiff_t count) {
    for (int lane = 0; lane < VK_BLOCK; lane += LANES) {
        vec sum[4] = {{0}};
        ptrdiff_t i = 0;
        for (; i + 4 <= count; i += 4)
            for (int j = 0; j < 4; j++) sum[j] += load(map + (i + j) * VK_BLOCK + lane);
        for (; i < count; i++) sum[0] += load(map + i * VK_BLOCK + lane);
        store(out + lane, (sum[0] + sum[1] + (sum[2] + sum[3])) / (float)count);
    }
}

static void sigmoid(float *values, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i += LANES) store(values + i, sigmoid_of(load(values + i)));
}

static void softmax(float *out, const float *in, ptrdiff_t count) {
    float highest = in[0], total = 0;
    for (ptrdiff_t i = 1; i < count; i++) highest = in[i] > highest ? in[i] : highest;
    for (ptrdiff_t i = 0; i < count; i += VK_BLOCK) {
        float values[VK_BLOCK] = {0};
        ptrdiff_t some = count - i < VK_BLOCK ? count - i : VK_BLOCK;
        for (ptrdiff_t j = 0; j < some; j++) values[j] = in[i + j] - highest;
        for (int lane = 0; lane < VK_BLOCK; lane += LANES) store(values + lane, exponential(load(values + lane)));
        for (ptrdiff_t j = 0; j < some; j++) total += values[j];
        memcpy(out + i, values, (size_t)some * sizeof(float));
    }
    for (ptrdiff_t i = 0; i < count; i++) out[i] /= total;
}

const struct vk_kernels KERNELS = {multiply,  depthwise,     normalise, activate, winograd_inputs, winograd_outputs, sum_parts, scale_map,
                                   scale_weights, mean, sigmoid,   softmax, weigh};
