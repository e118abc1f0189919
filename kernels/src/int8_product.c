/* A product of up to 14 rows with one to three blocks of weights, all sums in registers. */
#include "int8_vectors.h"

enum { MOST_ROWS = 14 };

/* What a call works on: rows of a job, blocks of a job. */
struct tile {
    const uint8_t *in;
    const int8_t *weights;
    const int32_t *bias;
    const float *multiplier;
    uint8_t *out;
    ptrdiff_t ahead;      /* bytes from its weights to those that are fetched into L2 meanwhile; 0: none */
    ptrdiff_t sum_offset; /* of its first row and block in the input that is added */
};

INLINE void write_groups(const int rows, const int blocks, const struct vk_int8_product *job, const struct tile *at,
                         __m512i sum[MOST_ROWS][3]) {
    const __m512i zero = _mm512_set1_epi16((short)job->zero);
    const __m512i transpose = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    UNROLL for (int b = 0; b < blocks; b++) {
        const __m512 multiplier = _mm512_loadu_ps(at->multiplier + b * VK_BLOCK);
        UNROLL for (int g = 0; g * 4 < rows; g++) {
            __m512i level[4];
            UNROLL for (int i = 0; i < 4; i++)
                level[i] = g * 4 + i < rows ? nearest_level(sum[g * 4 + i][b], multiplier) : _mm512_setzero_si512();
            __m512i packed = pack_levels(level[0], level[1], level[2], level[3], zero);
            _mm512_storeu_si512(at->out + b * job->out_block_stride + g * VK_GROUP_BYTES,
                                _mm512_shuffle_epi8(packed, transpose));
        }
    }
}

INLINE void write_levels(const int rows, const int blocks, const struct vk_int8_product *job, const struct tile *at,
                         __m512i sum[MOST_ROWS][3]) {
    const __m512i zero = _mm512_set1_epi32(job->zero);
    UNROLL for (int b = 0; b < blocks; b++) {
        const __m512 multiplier = _mm512_loadu_ps(at->multiplier + b * VK_BLOCK);
        UNROLL for (int i = 0; i < rows; i++) {
            const ptrdiff_t offset = i * job->out_row_stride + b * job->out_block_stride;
            __m512i level = one_level(nearest_level(sum[i][b], multiplier), zero);
            if (job->sum.input) level = add_input(level, &job->sum, at->sum_offset + offset);
            store_levels(at->out + offset, level);
        }
    }
}

INLINE void run_tile(const int rows, const int blocks, const struct vk_int8_product *job, const struct tile *at) {
    __m512i sum[MOST_ROWS][3];
    const ptrdiff_t stride = job->in_row_stride, block_stride = job->weight_block_stride;
    UNROLL for (int b = 0; b < blocks; b++) {
        const __m512i bias = at->bias ? _mm512_loadu_si512(at->bias + b * VK_BLOCK) : _mm512_setzero_si512();
        UNROLL for (int i = 0; i < rows; i++) sum[i][b] = bias;
    }
    const int8_t *w = at->weights;
    for (int g = 0; g < job->groups; g++) {
        const uint8_t *a[5]; /* one pointer for three rows: all are addresses of one instruction */
        UNROLL for (int i = 0; i * 3 < rows; i++) {
            a[i] = at->in + job->group_offsets[g] + i * 3 * stride;
            __asm__("" : "+r"(a[i]));
        }
        for (int q = 0; q < job->group_quads; q++) {
            __m512i b[3];
            UNROLL for (int j = 0; j < blocks; j++) b[j] = _mm512_load_si512(w + j * block_stride);
            UNROLL for (int i = 0; i < rows; i++) {
                __m512i x;
                BROADCAST_FOUR(x, *(const int32_t *)(a[i / 3] + (i % 3) * stride));
                UNROLL for (int j = 0; j < blocks; j++) ADD_FOUR_PRODUCTS(sum[i][j], x, b[j]);
            }
            __asm__ volatile("" ::: "memory"); /* keeps the loads beside their use */
            if (at->ahead) {
                UNROLL for (int j = 0; j < blocks; j++) __builtin_prefetch(w + j * block_stride + at->ahead, 0, 2);
            }
            w += VK_BLOCK * VK_QUAD;
            UNROLL for (int i = 0; i * 3 < rows; i++) a[i] += VK_QUAD;
        }
    }
    if (job->output == VK_TO_GROUPS) {
        write_groups(rows, blocks, job, at, sum);
    } else if (job->output == VK_TO_LEVELS) {
        write_levels(rows, blocks, job, at, sum);
    } else {
        UNROLL for (int b = 0; b < blocks; b++)
            UNROLL for (int i = 0; i < rows; i++)
                _mm512_storeu_si512(at->out + i * job->out_row_stride + b * job->out_block_stride, sum[i][b]);
    }
}

typedef void tile_function(const struct vk_int8_product *job, const struct tile *at);
#define TILE(rows, blocks)                                                                                             \
    __attribute__((noinline)) static void tile_##rows##_##blocks(const struct vk_int8_product *job,                    \
                                                                 const struct tile *at) {                              \
        run_tile(rows, blocks, job, at);                                                                               \
    }
#define ENTRY(rows, blocks) [rows] = tile_##rows##_##blocks,
#define TO_8(X, b) X(1, b) X(2, b) X(3, b) X(4, b) X(5, b) X(6, b) X(7, b) X(8, b)
#define TO_9(X, b) TO_8(X, b) X(9, b)
#define TO_14(X, b) TO_9(X, b) X(10, b) X(11, b) X(12, b) X(13, b) X(14, b)
TO_14(TILE, 1) TO_14(TILE, 2) TO_9(TILE, 3)
static tile_function *const tiles[4][MOST_ROWS + 1] = {{0}, {TO_14(ENTRY, 1)}, {TO_14(ENTRY, 2)}, {TO_9(ENTRY, 3)}};

/* The rows of each tile: nearly equal, and in groups of 4 columns all but the last a multiple of 4. */
static void run_rows(const struct vk_int8_product *job, struct tile at, int blocks) {
    const int most = blocks == 3 ? 9 : MOST_ROWS, unit = job->output == VK_TO_GROUPS && job->rows > most ? 4 : 1;
    const int units = (job->rows + unit - 1) / unit, most_units = most / unit;
    const int count = (units + most_units - 1) / most_units, low = units / count, higher = units - low * count;
    const ptrdiff_t row_stride = job->output == VK_TO_GROUPS ? VK_GROUP_BYTES / 4 : job->out_row_stride;
    int done = 0;
    for (int t = 0; t < count; t++) {
        int rows = (low + (t < higher)) * unit;
        if (rows > job->rows - done) rows = job->rows - done;
        tiles[blocks][rows](job, &at);
        at.ahead = 0;
        at.in += rows * job->in_row_stride;
        at.out += rows * row_stride;
        at.sum_offset += rows * row_stride;
        done += rows;
    }
}

void vk_int8_multiply(const struct vk_int8_product *job) {
    for (int first = 0, take; first < job->blocks; first += take) {
        const int left = job->blocks - first;
        take = left <= 3 ? left : 2;
        run_rows(job,
                 (struct tile){
                     .in = job->in,
                     .weights = job->weights + first * job->weight_block_stride,
                     .bias = job->bias ? job->bias + first * VK_BLOCK : NULL,
                     .multiplier = job->multiplier + first * VK_BLOCK,
                     .out = job->out + first * job->out_block_stride,
                     .ahead = job->prefetch_next ? take * job->weight_block_stride : 0,
                     .sum_offset = first * job->out_block_stride,
                 },
                 take);
    }
}

void vk_int8_requantise(uint8_t *out, const int32_t *const *parts, int part_count, int positions, int outputs,
                        const float *multiplier, int zero, const struct vk_int8_sum *sum) {
    const __m512i zeros = _mm512_set1_epi32(zero);
    for (int p = 0; p < positions; p++)
        for (int c = 0; c < outputs; c += VK_BLOCK) {
            const ptrdiff_t at = (ptrdiff_t)p * outputs + c;
            __m512i total = _mm512_loadu_si512(parts[0] + at);
            for (int i = 1; i < part_count; i++) total = _mm512_add_epi32(total, _mm512_loadu_si512(parts[i] + at));
            __m512i level = one_level(nearest_level(total, _mm512_loadu_ps(multiplier + c)), zeros);
            if (sum->input) level = add_input(level, sum, at);
            store_levels(out + at, level);
        }
}

void vk_int8_mean(uint8_t *out, const uint8_t *in, int positions, ptrdiff_t stride, int in_zero, float multiplier,
                  int zero) {
    __m512i total = _mm512_set1_epi32(-in_zero * positions);
    for (int p = 0; p < positions; p++)
        total = _mm512_add_epi32(total, _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(in + p * stride))));
    store_levels(out, one_level(nearest_level(total, _mm512_set1_ps(multiplier)), _mm512_set1_epi32(zero)));
}
