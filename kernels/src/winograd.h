/* Winograd's F(2 x 2, 3 x 3): four outputs of a 3 x 3 convolution from 16 products instead of 36.
 *
 *     Y = A^T [ (G g G^T) o (B^T d B) ] A     d: 4 x 4 inputs, g: 3 x 3 weights, Y: 2 x 2 outputs, o: element by element
 *
 * A tile's inputs become 16 values for each channel; value m of all tiles and channels is a matrix, and so are the
 * transformed weights of m (packing.py makes them): 16 products of matrices. All factors of A and B are 0, 1 and -1, so
 * rounding errors grow little. (Lavin & Gray 2015, https://arxiv.org/abs/1509.09308) */
INLINE vec load_part(const float *from, const int count) {
    vec value = {0};
    memcpy(&value, from, (size_t)count * sizeof(float));
    return value;
}

INLINE void winograd_input_tile(const struct vk_winograd *job, int tile, int channel, const int count) {
    const ptrdiff_t channels = job->channels, matrix = channels * job->tiles;
    vec half[4][4]; /* B^T d */
    UNROLL for (int x = 0; x < 4; x++) {
        const ptrdiff_t at = (2 * (ptrdiff_t)tile + x) * channels + channel;
        vec d[4];
        UNROLL for (int y = 0; y < 4; y++) d[y] = load_part(job->rows[y] + at, count);
        half[0][x] = d[0] - d[2], half[1][x] = d[1] + d[2], half[2][x] = d[2] - d[1], half[3][x] = d[1] - d[3];
    }
    float *out = job->matrices + tile * channels + channel;
    UNROLL for (int y = 0; y < 4; y++) {
        const vec v[4] = {half[y][0] - half[y][2], half[y][1] + half[y][2], half[y][2] - half[y][1],
                          half[y][1] - half[y][3]};
        UNROLL for (int x = 0; x < 4; x++) memcpy(out + (4 * y + x) * matrix, &v[x], (size_t)count * sizeof(float));
    }
}

static void winograd_inputs(const struct vk_winograd *job) {
    for (int tile = 0; tile < job->tiles; tile++) {
        int channel = 0;
        for (; channel + LANES <= job->channels; channel += LANES) winograd_input_tile(job, tile, channel, LANES);
        if (channel < job->channels) winograd_input_tile(job, tile, channel, NARROW_LANES);
    }
}

INLINE void winograd_output_tile(const struct vk_winograd *job, int tile, int channel, const int count,
                                 const int activation) {
    const ptrdiff_t matrix = (ptrdiff_t)job->channels * job->tiles;
    const float *in = job->matrices + (ptrdiff_t)tile * job->channels + channel;
    const vec bias = load_part(job->bias + channel, count), low = splat(job->low), high = splat(job->high);
    vec half[4][2]; /* M A */
    UNROLL for (int y = 0; y < 4; y++) {
        vec m[4];
        UNROLL for (int x = 0; x < 4; x++) m[x] = load_part(in + (4 * y + x) * matrix, count);
        half[y][0] = m[0] + m[1] + m[2], half[y][1] = m[1] - m[2] - m[3];
    }
    const ptrdiff_t place = channel / VK_BLOCK * job->out_block_stride + channel % VK_BLOCK;
    UNROLL for (int x = 0; x < 2; x++) {
        if (2 * tile + x >= job->width) break;
        const vec sums[2] = {half[0][x] + half[1][x] + half[2][x] + bias, half[1][x] - half[2][x] - half[3][x] + bias};
        UNROLL for (int y = 0; y < 2; y++) {
            if (!job->out[y]) continue;
            const vec value = activation == VK_LINEAR ? sums[y] : activated(sums[y], activation, low, high);
            memcpy(job->out[y] + (2 * tile + x) * job->out_stride + place, &value, (size_t)count * sizeof(float));
        }
    }
}

INLINE void winograd_outputs_of(const struct vk_winograd *job, const int activation) {
    for (int tile = 0; tile < job->tiles; tile++) {
        int channel = 0;
        for (; channel + LANES <= job->channels; channel += LANES)
            winograd_output_tile(job, tile, channel, LANES, activation);
        if (channel < job->channels) winograd_output_tile(job, tile, channel, NARROW_LANES, activation);
    }
}

static void winograd_outputs(const struct vk_winograd *job) {
    if (job->activation == VK_SILU)
        winograd_outputs_of(job, VK_SILU);
    else if (job->activation == VK_CLAMP)
        winograd_outputs_of(job, VK_CLAMP);
    else
        winograd_outputs_of(job, VK_LINEAR);
}
