/* A product of a few rows with one to three blocks of weights, all sums in registers.
 *
 * ROWS(blocks, half) is the most rows that fit the registers: rows x (vectors of the blocks) sums, one vector of
 * weights for each, one broadcast input. A map's rows are cut into tiles of nearly equal height, never one full
 * and one of a row.
 *
 * With few inputs, what precedes a tile and what is counted in its loop take a tenth of the time. So a product other
 * than linear whose inputs are one run of a multiple of four, with nothing to fetch later, has functions of its own:
 * `several` is 0. AVX-512 keeps the check for what to fetch in all: without it GCC's tiles of 12 rows take 2 to 3 %
 * longer.
 */
#define PER_BLOCK (VK_BLOCK / LANES)
#define PER_HALF (VK_HALF / NARROW_LANES)

struct cursor { /* where a tile begins */
    const float *in, *weights, *half_weights, *bias;
    float *out;
    const int32_t *offsets;
    const float *add;
    const char *prefetch, *prefetch_end; /* of the first of `blocks` runs of weights */
    ptrdiff_t prefetch_stride;           /* bytes between runs */
    const char *later, *later_end;       /* of `job->later`, the part of these blocks */
    int later_lines;                     /* for each four inputs */
    int tiles;
};

INLINE void run_tiles(const int rows, const int blocks, const int half, const int mode, const int several,
                      const struct vk_product *job, const struct cursor *at) {
    enum { MOST = 14 };
    const int full = blocks * PER_BLOCK, parts = half * PER_HALF, groups = several ? job->groups : 1;
    const int group_size = job->group_size, fetches_later = LANES == 16 || (several && mode != VK_LINEAR);
    const ptrdiff_t row_bytes = job->in_row_stride * (ptrdiff_t)sizeof(float), block_stride = job->weight_block_stride;
    const ptrdiff_t *const group_offsets = job->group_offsets; /* copies: the loop's assembly may write to memory */
    const float *const bias = at->bias, *const weights = at->weights, *const half_weights = at->half_weights;
    const float *in = at->in, *add = at->add;
    float *out = at->out;
    const int32_t *offsets = at->offsets;
    const char *prefetch = at->prefetch, *later = at->later;
    for (int tile = 0; tile < at->tiles; tile++) {
        const ptrdiff_t prefetch_step = prefetch < at->prefetch_end ? 64 : 0;
        const int later_lines = fetches_later && later < at->later_end ? at->later_lines : 0;
        vec sum[MOST][6];
        narrow half_sum[MOST][2];
        UNROLL for (int i = 0; i < rows; i++) {
            UNROLL for (int j = 0; j < full; j++) sum[i][j] = bias ? load(bias + j * LANES) : (vec){0};
            UNROLL for (int j = 0; j < parts; j++)
                half_sum[i][j] = bias ? load_narrow(bias + blocks * VK_BLOCK + j * NARROW_LANES) : (narrow){0};
        }
        const float *w = weights, *wh = half_weights;
        for (int g = 0; g < groups; g++) {
            /* One pointer for three rows: base, base + stride, base + 2 strides are all addresses of one instruction. */
            const char *a[5];
            UNROLL for (int i = 0; i * 3 < rows; i++) {
                a[i] = (const char *)(in + (several ? group_offsets[g] : 0)) + i * 3 * row_bytes;
                __asm__("" : "+r"(a[i])); /* a register each, not a sum each time */
            }
#define ONE_INPUT(u)                                                                                                   \
    do {                                                                                                               \
        vec b[6];                                                                                                      \
        narrow bh[2];                                                                                                  \
        UNROLL for (int j = 0; j < full; j++) b[j] =                                                                   \
            load(w + (j / PER_BLOCK) * block_stride + (j % PER_BLOCK) * LANES + (u) * VK_BLOCK);                       \
        UNROLL for (int j = 0; j < parts; j++) bh[j] = load_narrow(wh + j * NARROW_LANES + (u) * VK_HALF);             \
        UNROLL for (int i = 0; i < rows; i++) {                                                                        \
            const float *input = (const float *)(a[i / 3] + (i % 3) * row_bytes) + (u);                                \
            if (MULTIPLIES_FROM_MEMORY && blocks < 2) {                                                                \
                UNROLL for (int j = 0; j < full; j++) MULTIPLY_ADD_FROM(sum[i][j], b[j], *input);                      \
                UNROLL for (int j = 0; j < parts; j++) MULTIPLY_ADD_FROM_NARROW(half_sum[i][j], bh[j], *input);        \
            } else {                                                                                                   \
                vec x;                                                                                                 \
                BROADCAST(x, *input);                                                                                  \
                UNROLL for (int j = 0; j < full; j++) MULTIPLY_ADD(sum[i][j], x, b[j]);                                \
                UNROLL for (int j = 0; j < parts; j++) MULTIPLY_ADD(half_sum[i][j], lower(x), bh[j]);                  \
            }                                                                                                          \
        }                                                                                                              \
        __asm__ volatile("" ::: "memory"); /* keeps the loads of an input beside its use */                            \
    } while (0)
            int k = 0;
            for (; k + 4 <= group_size; k += 4) {
                UNROLL for (int u = 0; u < 4; u++) ONE_INPUT(u);
                w += 4 * VK_BLOCK;
                wh += 4 * VK_HALF;
                UNROLL for (int i = 0; i * 3 < rows; i++) a[i] += 4 * sizeof(float);
                for (int line = 0; line < (rows < 4 ? 4 : 1); line++) {
                    UNROLL for (int b = 0; b < blocks; b++)
                        __builtin_prefetch(prefetch + b * at->prefetch_stride, 0, 2);
                    prefetch += prefetch_step;
                }
                for (int line = 0; line < later_lines; line++, later += 64) __builtin_prefetch(later, 0, 2);
            }
            for (; several && k < group_size; k++) {
                ONE_INPUT(0);
                w += VK_BLOCK;
                wh += VK_HALF;
                UNROLL for (int i = 0; i * 3 < rows; i++) a[i] += sizeof(float);
            }
#undef ONE_INPUT
        }
        const vec low = splat(job->low), high = splat(job->high);
        UNROLL for (int i = 0; i < rows; i++) {
            float *to = out + (mode == VK_LINEAR ? i * job->out_row_stride : offsets[i]);
            UNROLL for (int j = 0; j < full; j++) {
                ptrdiff_t lane = (j / PER_BLOCK) * job->out_block_stride + (j % PER_BLOCK) * LANES;
                vec value = sum[i][j];
                if (mode == VK_LINEAR && add) value += load(add + i * job->out_row_stride + lane);
                if (mode == VK_CLAMP) value = clamp(value, low, high);
                store(to + lane, value);
            }
            UNROLL for (int j = 0; j < parts; j++) { /* only maps in NHWC end in half a block */
                ptrdiff_t lane = blocks * job->out_block_stride + j * NARROW_LANES;
                narrow value = half_sum[i][j];
                if (mode == VK_LINEAR && add) value += load_narrow(add + i * job->out_row_stride + lane);
                store_narrow(to + lane, value);
            }
        }
        if (mode == VK_SILU) { /* a loop over what was just stored: unrolled it would be kilobytes of code */
            for (int i = 0; i < rows; i++)
                UNROLL for (int j = 0; j < full; j++) {
                    float *to = out + offsets[i] + (j / PER_BLOCK) * job->out_block_stride + (j % PER_BLOCK) * LANES;
                    vec value = load(to);
                    store(to, value * sigmoid_of(value));
                }
        }
        in += rows * job->in_row_stride;
        if (mode == VK_LINEAR) {
            out += rows * job->out_row_stride;
            if (add) add += rows * job->out_row_stride;
        } else {
            offsets += rows;
        }
    }
}

typedef void tile_function(const struct vk_product *job, const struct cursor *at);

#define NAME(rows, blocks, half, mode, several) tiles_##rows##_##blocks##_##half##_##mode##_##several
#define TILES(rows, blocks, half, mode, several)                                                                       \
    __attribute__((noinline)) static void NAME(rows, blocks, half, mode, several)(const struct vk_product *job,        \
                                                                                  const struct cursor *at) {           \
        run_tiles(rows, blocks, half, mode, several, job, at);                                                         \
    }
#define TILE_MODES(rows, blocks)                                                                                       \
    TILES(rows, blocks, 0, 0, 1)                                                                                       \
    TILES(rows, blocks, 0, 1, 0) TILES(rows, blocks, 0, 1, 1) TILES(rows, blocks, 0, 2, 0) TILES(rows, blocks, 0, 2, 1)

/* One table for each way of taking blocks: [several][activation][rows]. Half a block follows linear products alone. */
#define EACH_TO_2(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__)
#define EACH_TO_4(X, ...) EACH_TO_2(X, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__)
#define EACH_TO_6(X, ...) EACH_TO_4(X, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#define EACH_TO_9(X, ...) EACH_TO_6(X, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__)
#define EACH_TO_14(X, ...)                                                                                             \
    EACH_TO_9(X, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__) X(13, __VA_ARGS__)              \
    X(14, __VA_ARGS__)
#define ENTRY(rows, blocks, half, mode, several) [rows] = NAME(rows, blocks, half, mode, several),
#define WHOLE_TABLE(most, blocks)                                                                                      \
    EACH_TO_##most(TILE_MODES, blocks) static tile_function *const whole_##blocks[2][3][15] = {                        \
        {{EACH_TO_##most(ENTRY, blocks, 0, 0, 1)},                                                                     \
         {EACH_TO_##most(ENTRY, blocks, 0, 1, 0)},                                                                     \
         {EACH_TO_##most(ENTRY, blocks, 0, 2, 0)}},                                                                    \
        {{EACH_TO_##most(ENTRY, blocks, 0, 0, 1)},                                                                     \
         {EACH_TO_##most(ENTRY, blocks, 0, 1, 1)},                                                                     \
         {EACH_TO_##most(ENTRY, blocks, 0, 2, 1)}}};
#define HALF_TABLE(most, blocks)                                                                                       \
    EACH_TO_##most(TILES, blocks, 1, 0, 1) static tile_function *const half_##blocks[15] = {                           \
        EACH_TO_##most(ENTRY, blocks, 1, 0, 1)};

#if LANES == 16
WHOLE_TABLE(14, 1) WHOLE_TABLE(14, 2) WHOLE_TABLE(9, 3)
HALF_TABLE(14, 0) HALF_TABLE(14, 1) HALF_TABLE(9, 2)
#elif LANES == 8
WHOLE_TABLE(6, 1) HALF_TABLE(6, 0) HALF_TABLE(4, 1)
#else
WHOLE_TABLE(2, 1) HALF_TABLE(4, 0)
#endif

/* The blocks that the next microkernel takes of those left, and whether it takes the half block with them. */
static int take_blocks(int left, int half, int mode, int several, int *with_half, int *most_rows,
                       tile_function *const **table) {
    int take;
#if LANES == 16
    *with_half = half && left <= 2;
    take = left <= 2 || (left == 3 && !half) ? left : 2;
    *table = *with_half ? (take == 2 ? half_2 : take ? half_1 : half_0)
             : take == 3 ? whole_3[several][mode] : take == 2 ? whole_2[several][mode] : whole_1[several][mode];
    *most_rows = take == 3 || (take == 2 && *with_half) ? 9 : 14;
#elif LANES == 8
    *with_half = half && left <= 1;
    take = left ? 1 : 0;
    *table = *with_half ? (take ? half_1 : half_0) : whole_1[several][mode];
    *most_rows = *with_half && take ? 4 : 6;
#else
    *with_half = half && left == 0;
    take = left ? 1 : 0;
    *table = *with_half ? half_0 : whole_1[several][mode];
    *most_rows = *with_half ? 4 : 2;
#endif
    return take;
}

static void multiply(const struct vk_product *job) {
    const int inputs = job->groups * job->group_size, most = job->blocks;
    const int several = job->groups > 1 || job->group_size % 4 || job->later.count;
    int half = job->half;
    for (int first = 0, take; first < most || half; first += take) {
        int with_half, most_rows;
        tile_function *const *table;
        take = take_blocks(most - first, half, job->activation, several, &with_half, &most_rows, &table);
        if (with_half) half = 0;
        struct cursor at = {
            .in = job->in,
            .weights = job->weights + first * job->weight_block_stride,
            .half_weights = job->half_weights,
            .bias = job->bias ? job->bias + first * VK_BLOCK : NULL,
            .out = job->out + first * job->out_block_stride,
            .offsets = job->out_offsets,
            .add = job->add ? job->add + first * job->out_block_stride : NULL,
        };
        const int tiles = (job->rows + most_rows - 1) / most_rows, low = job->rows / tiles, higher = job->rows - low * tiles;
        struct vk_ahead next = {at.weights + take * job->weight_block_stride, job->weight_block_stride, inputs};
        if (first + take >= most) next = job->next;
        at.prefetch = (const char *)(next.inputs ? next.weights : at.weights);
        at.prefetch_end = at.prefetch + next.inputs * VK_BLOCK * (ptrdiff_t)sizeof(float);
        at.prefetch_stride = next.block_stride * (ptrdiff_t)sizeof(float);
        const ptrdiff_t quads = (ptrdiff_t)job->groups * (job->group_size / 4); /* of inputs, in each tile */
        if (job->later.count && quads) {
            at.later = (const char *)(job->later.from + job->later.count * first / most);
            at.later_end = (const char *)(job->later.from + job->later.count * (first + take) / most);
            at.later_lines = (int)((at.later_end - at.later) / 64 / (tiles * quads)) + 1;
        }
        if (higher) {
            at.tiles = higher;
            table[low + 1](job, &at);
            ptrdiff_t rows = (ptrdiff_t)higher * (low + 1);
            at.in += rows * job->in_row_stride;
            if (job->activation == VK_LINEAR) {
                at.out += rows * job->out_row_stride;
                if (at.add) at.add += rows * job->out_row_stride;
            } else {
                at.offsets += rows;
            }
            at.prefetch += higher * quads * 64;
            at.later += higher * quads * at.later_lines * 64;
        }
        at.tiles = tiles - higher;
        table[low](job, &at);
    }
}
