/* Opens, runs and closes packed networks. */
#define _GNU_SOURCE
#include "program.h"
#include "int8_walk.h"
#include "validation.h"
#include "walk.h"

#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

/* Images whose embeddings are kept until the classifier takes them together. */
enum { SLICE = 64, MOST_THREADS = 1024 };

struct block {
    void *address; /* NULL: none */
    size_t size;
};

/* A copy of the packed network, and how many networks use it. */
struct shared {
    struct block packed;
    atomic_int users;
};

struct vk_network {
    const struct vk_kernels *kernels;
    struct vk_header header;
    const struct vk_step *steps;
    const float *weights;
    struct shared *shared;
    struct block memory, tables;
    struct vk_sizes sizes;
    struct vk_workspace *workspaces; /* one for each thread */
    float *embeddings, *logits;
    const float *scale_row, *shift_row;
    int32_t *column_offsets;
    struct vk_threads *threads;
    int thread_count;
};

static const struct vk_kernels *const kernel_sets[VK_INSTRUCTION_SETS] = {
    &vk_kernels_portable,
#ifdef __x86_64__
    &vk_kernels_avx2, &vk_kernels_avx512,
#endif
};

const struct vk_kernels *vk_kernels_of(int instruction_set) { return kernel_sets[instruction_set]; }

int vk_supports(int instruction_set) {
    if (instruction_set == VK_PORTABLE) return 1;
#ifdef __x86_64__
    if (instruction_set == VK_AVX2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (instruction_set == VK_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("fma");
#endif
    return 0;
}

int vk_best_instruction_set(void) {
    int best = VK_AVX512;
    while (!vk_supports(best)) best--;
    return best;
}

int vk_supports_int8(void) {
#ifdef __x86_64__
    return vk_supports(VK_AVX512) && __builtin_cpu_supports("avx512vnni");
#else
    return 0;
#endif
}

/* Large blocks on large pages, because weights are read in long runs once an image: from the system, as memory that
 * malloc had given before keeps its small pages. */
static struct block allocate(size_t size) {
    const size_t page = (size_t)1 << 21;
    size_t alignment = size >= page ? page : 64;
    struct block block = {NULL, (size + alignment - 1) / alignment * alignment};
#ifdef __linux__
    if (alignment == page) {
        char *all = mmap(NULL, block.size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (all == MAP_FAILED) return block;
        size_t before = (page - (uintptr_t)all % page) % page;
        if (before) munmap(all, before);
        if (before < page) munmap(all + before + block.size, page - before);
        block.address = all + before;
        madvise(block.address, block.size, MADV_HUGEPAGE);
        return block;
    }
#endif
    block.address = aligned_alloc(alignment, block.size);
    return block;
}

static void release(struct block block) {
#ifdef __linux__
    if (block.size >= (size_t)1 << 21) {
        if (block.address) munmap(block.address, block.size);
        return;
    }
#endif
    free(block.address);
}

static void drop(struct shared *shared) {
    if (atomic_fetch_sub(&shared->users, 1) > 1) return;
    release(shared->packed);
    free(shared);
}

static float *carve(float **memory, int64_t count) {
    float *part = *memory;
    *memory += (count + 63) / 16 * 16 + 16; /* apart by a little more, so that parts do not fall on the same cache sets */
    return part;
}

/* Lays out a workspace from `memory`; with a null pointer, only counts. */
static void lay_out(struct vk_workspace *w, const struct vk_sizes *sizes, int members, float **memory) {
    w->maps[0] = carve(memory, sizes->map);
    w->maps[1] = carve(memory, sizes->map);
    w->widened = carve(memory, sizes->widened);
    w->depthwise = carve(memory, sizes->depthwise);
    w->partial = carve(memory, sizes->partial);
    w->image_rows = carve(memory, sizes->image_rows);
    w->sums = carve(memory, sizes->hidden);
    w->gates = carve(memory, sizes->hidden);
    w->pooled = carve(memory, sizes->hidden);
    w->squeezed = carve(memory, sizes->squeezed);
    w->scaled_weights = carve(memory, sizes->scaled_weights);
    w->group_offsets = (ptrdiff_t *)carve(memory, 2 * (sizes->groups + 8));
    w->parts = (const float **)carve(memory, 2 * members);
}

static int make_workspaces(struct vk_network *n) {
    const struct vk_sizes *sizes = &n->sizes;
    const int64_t line = (int64_t)n->header.image_width * 3;
    int64_t each = 0, parts[] = {sizes->map, sizes->map, sizes->widened, sizes->depthwise, sizes->partial,
                                 sizes->image_rows, sizes->hidden, sizes->hidden, sizes->hidden, sizes->squeezed,
                                 sizes->scaled_weights, 2 * (sizes->groups + 8), 2 * (int64_t)n->thread_count};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) each += (parts[i] + 63) / 16 * 16 + 16;
    n->workspaces = calloc((size_t)n->thread_count, sizeof *n->workspaces);
    n->memory = allocate((size_t)(each * n->thread_count) * sizeof(float));
    n->tables = allocate((size_t)(3 * (line + 64) + sizes->columns + 64 +
                                  SLICE * (sizes->embedding + sizes->logits) + 256) * sizeof(float));
    if (!n->workspaces || !n->memory.address || !n->tables.address) return VK_NO_MEMORY;
    float *memory = n->memory.address, *tables = n->tables.address;
    for (int i = 0; i < n->thread_count; i++) lay_out(&n->workspaces[i], sizes, n->thread_count, &memory);
    float *scale = carve(&tables, line), *shift = carve(&tables, line);
    for (int64_t i = 0; i < line; i++) {
        scale[i] = n->steps[0].scale[i % 3];
        shift[i] = n->steps[0].shift[i % 3];
    }
    n->scale_row = scale;
    n->shift_row = shift;
    n->column_offsets = (int32_t *)carve(&tables, sizes->columns);
    for (int64_t i = 0; i < sizes->columns; i++) n->column_offsets[i] = (int32_t)i * VK_BLOCK;
    n->embeddings = carve(&tables, SLICE * sizes->embedding);
    n->logits = carve(&tables, SLICE * sizes->logits);
    return VK_OK;
}

/* The caller's share is taken over, whether this succeeds or not. */
static int open_shared(struct shared *shared, const struct vk_sizes *sizes, int threads, struct vk_network **network) {
    struct vk_network *n = calloc(1, sizeof *n);
    if (!n) {
        drop(shared);
        return VK_NO_MEMORY;
    }
    const char *packed = shared->packed.address;
    n->shared = shared;
    memcpy(&n->header, packed, sizeof n->header);
    n->sizes = *sizes;
    n->thread_count = threads;
    n->kernels = vk_kernels_of((int)n->header.instruction_set);
    n->steps = (const struct vk_step *)(packed + n->header.steps_offset);
    n->weights = (const float *)(packed + n->header.weights_offset);
    int status = make_workspaces(n);
    if (!status && !(n->threads = vk_threads_start(threads))) status = VK_NO_THREADS;
    if (status) {
        vk_close(n);
        return status;
    }
    *network = n;
    return VK_OK;
}

int vk_open(const void *packed, size_t size, int threads, struct vk_network **network) {
    struct vk_sizes sizes;
    struct vk_header header;
    if (!network) return VK_BAD_ARGUMENT;
    *network = NULL;
    if (threads < 1 || threads > MOST_THREADS || (uintptr_t)packed % 8) return VK_BAD_ARGUMENT;
    int status = vk_validate(packed, size, &sizes);
    if (status) return status;
    memcpy(&header, packed, sizeof header);
    if (!vk_supports((int)header.instruction_set) || (header.precision == VK_INT8 && !vk_supports_int8()))
        return VK_OTHER_PROCESSOR;
    struct shared *shared = malloc(sizeof *shared);
    if (!shared) return VK_NO_MEMORY;
    shared->packed = allocate(size);
    atomic_init(&shared->users, 1);
    if (!shared->packed.address) {
        free(shared);
        return VK_NO_MEMORY;
    }
    memcpy(shared->packed.address, packed, size);
    return open_shared(shared, &sizes, threads, network);
}

int vk_open_beside(struct vk_network *other, int threads, struct vk_network **network) {
    if (!network) return VK_BAD_ARGUMENT;
    *network = NULL;
    if (!other || threads < 1 || threads > MOST_THREADS) return VK_BAD_ARGUMENT;
    atomic_fetch_add(&other->shared->users, 1);
    return open_shared(other->shared, &other->sizes, threads, network);
}

void vk_describe(const struct vk_network *n, int64_t sizes[6]) {
    const struct vk_step *head = &n->steps[n->header.step_count - 2];
    const int64_t all[6] = {n->header.image_height, n->header.image_width, head->out_channels,
                            head->height,           head->width,           head[1].out_channels};
    memcpy(sizes, all, sizeof all);
}

struct run {
    struct vk_network *network;
    const uint8_t *images;
    int count;
    float *features, *embedding, *logits, *probabilities; /* of the first image, or NULL */
    atomic_int next;                                      /* image that a thread takes alone */
};

static void run_image(const struct run *run, struct vk_walk *walk, int index) {
    const struct vk_network *n = run->network;
    const ptrdiff_t image_size = (ptrdiff_t)n->header.image_height * n->header.image_width * 3;
    walk->image = run->images + index * image_size;
    walk->before_classifier = index + 1 == run->count && (run->logits || run->probabilities);
    const int int8 = n->header.precision == VK_INT8;
    const float *in = NULL; /* in int8 the bytes of these floats are levels */
    int turn = 0;
    for (uint32_t i = 0; i + 2 < n->header.step_count; i++) {
        float *out = walk->team->maps[turn];
        if (int8)
            vk_int8_inverted_residual(walk, &n->steps[i], (const uint8_t *)in, (uint8_t *)out);
        else if (n->steps[i].kind == VK_FUSED)
            vk_fused_block(walk, &n->steps[i], in, out);
        else
            vk_inverted_residual(walk, &n->steps[i], in, out);
        in = out;
        turn = 1 - turn;
    }
    const struct vk_step *head = &n->steps[n->header.step_count - 2];
    float *features = NULL;
    if (run->features) features = run->features + (ptrdiff_t)index * head->out_channels * head->height * head->width;
    float *embedding = n->embeddings + index * n->sizes.embedding;
    if (int8)
        vk_int8_head(walk, head, (const uint8_t *)in, embedding, features);
    else
        vk_head(walk, head, in, embedding, features);
}

static void run_thread(void *context, int rank) {
    struct run *run = context;
    struct vk_network *n = run->network;
    const int members = n->thread_count;
    struct vk_walk walk = {
        .kernels = n->kernels, .weights = n->weights, .scale_row = n->scale_row, .shift_row = n->shift_row,
        .column_offsets = n->column_offsets, .image_height = (int)n->header.image_height,
        .image_width = (int)n->header.image_width, .rank = 0, .members = 1,
        .own = &n->workspaces[rank], .team = &n->workspaces[rank], .threads = n->threads,
    };
    /* As many images as fill all threads are taken one by a thread; those left are shared by all. */
    const int alone = run->count / members * members;
    if (members > 1)
        for (int i; (i = atomic_fetch_add(&run->next, 1)) < alone;) run_image(run, &walk, i);
    walk.rank = rank;
    walk.members = members;
    walk.team = n->workspaces;
    vk_meet(&walk);
    for (int i = members > 1 ? alone : 0; i < run->count; i++) run_image(run, &walk, i);
    const struct vk_step *head = &n->steps[n->header.step_count - 2], *classifier = head + 1;
    if (run->embedding)
        for (int i = rank; i < run->count; i += members)
            memcpy(run->embedding + (ptrdiff_t)i * head->out_channels, n->embeddings + i * n->sizes.embedding,
                   (size_t)head->out_channels * sizeof(float));
    if (!run->logits && !run->probabilities) return;
    if (n->header.precision == VK_INT8)
        vk_int8_classifier(&walk, classifier, n->embeddings, n->sizes.embedding, run->count, n->logits);
    else
        vk_classifier(&walk, classifier, n->embeddings, run->count, n->logits);
    const ptrdiff_t classes = classifier->out_channels;
    for (int i = rank; i < run->count; i += members) {
        const float *logits = n->logits + i * n->sizes.logits;
        if (run->logits) memcpy(run->logits + i * classes, logits, (size_t)classes * sizeof(float));
        if (run->probabilities) n->kernels->softmax(run->probabilities + i * classes, logits, classes);
    }
}

int vk_run(struct vk_network *n, const uint8_t *images, ptrdiff_t count, float *features, float *embedding,
           float *logits, float *probabilities) {
    if (!n || (!images && count) || count < 0) return VK_BAD_ARGUMENT;
    const struct vk_step *head = &n->steps[n->header.step_count - 2];
    const ptrdiff_t image_size = (ptrdiff_t)n->header.image_height * n->header.image_width * 3;
    const ptrdiff_t feature_size = (ptrdiff_t)head->out_channels * head->height * head->width;
    for (ptrdiff_t first = 0; first < count; first += SLICE) {
        const ptrdiff_t classes = head[1].out_channels;
        struct run run = {
            .network = n, .images = images + first * image_size,
            .count = (int)(count - first < SLICE ? count - first : SLICE),
            .features = features ? features + first * feature_size : NULL,
            .embedding = embedding ? embedding + first * head->out_channels : NULL,
            .logits = logits ? logits + first * classes : NULL,
            .probabilities = probabilities ? probabilities + first * classes : NULL,
        };
        if (vk_threads_run(n->threads, run_thread, &run)) return VK_NO_THREADS;
    }
    return VK_OK;
}

void vk_close(struct vk_network *n) {
    if (!n) return;
    vk_threads_stop(n->threads);
    drop(n->shared);
    free(n->workspaces);
    release(n->memory);
    release(n->tables);
    free(n);
}

const char *vk_error(int status) {
    static const char *const messages[VK_STATUSES] = {
        "", "not a packed network", "packed by another version; pack the network anew",
        "packed for instructions that this processor lacks; pack the network anew",
        "the packed network is damaged; pack it anew", "an argument is outside its limits", "not enough memory",
        "the threads cannot be started",
    };
    return status >= 0 && status < VK_STATUSES ? messages[status] : "unknown error";
}
