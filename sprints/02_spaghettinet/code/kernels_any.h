// Any wiring. The batch is cut into chunks of 64 rows, and a chunk is kept feature-major, [features][64 rows], so that a connection
// is one broadcast weight times 64 consecutive floats. Included by kernels.cpp once per instruction set.
//
// x (B, in)  w, ids (out, k)  y, g (B, out), all contiguous; a null pointer leaves an output out.

namespace SUFFIX {

typedef float Vec __attribute__((vector_size(4 * WIDTH)));
typedef float Loose __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));

TARGET static inline Vec load(const float* p) { return *(const Loose*)p; }
TARGET static inline void store(float* p, Vec v) { *(Loose*)p = v; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

TARGET static inline float total(Vec v) {
    float sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += v[i];
    return sum;
}

// to[c][r] = from[r][c]. The last square of a side overlaps the one before it, so that only matrices below one square go one by
// one.
TARGET static void transpose(const float* from, int64_t from_step, float* to, int64_t to_step, int64_t rows, int64_t columns) {
    if (rows < WIDTH || columns < WIDTH) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) to[c * to_step + r] = from[r * from_step + c];
        return;
    }
    for (int64_t i = 0; i < columns; i += WIDTH)
        for (int64_t j = 0; j < rows; j += WIDTH) {
            int64_t c = least(i, columns - WIDTH), r = least(j, rows - WIDTH);
            Vec v[WIDTH], t[WIDTH];
            for (int i = 0; i < WIDTH; i++) v[i] = load(from + (r + i) * from_step + c);
            for (int span = 1; span < WIDTH; span *= 2) {
                for (int i = 0; i < WIDTH / 2; i++) {
                    t[2 * i] = SHUFFLE(v[i], v[i + WIDTH / 2], ZIP_LOW);
                    t[2 * i + 1] = SHUFFLE(v[i], v[i + WIDTH / 2], ZIP_HIGH);
                }
                for (int i = 0; i < WIDTH; i++) v[i] = t[i];
            }
            for (int i = 0; i < WIDTH; i++) store(to + (c + i) * to_step + r, v[i]);
        }
}

// The sums of 2 N = WIDTH vectors, as one vector.
template <int N>
TARGET static inline Vec totals(Vec* v) {
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) v[i] = SHUFFLE(v[i], v[i + N], ZIP_LOW) + SHUFFLE(v[i], v[i + N], ZIP_HIGH);
    if constexpr (N > 1) return totals<N / 2>(v);
    return v[0];
}

// Rows of the chunk that starts at row b, rounded up to whole vectors of every instruction set; its place in a buffer is b *
// features.
static inline int64_t chunk_width(int64_t B, int64_t b) { return (least(CHUNK, B - b) + 15) / 16 * 16; }

// Features f to f + 16 of the chunk at row b, from x (B, features) into xT; the missing rows are zeros.
TARGET static void into_chunk(const float* x, float* xT, int64_t B, int64_t features, int64_t b, int64_t f) {
    int64_t width = chunk_width(B, b), rows = least(CHUNK, B - b), n = least(16, features - f);
    float* to = xT + b * features + f * width;
    transpose(x + b * features + f, features, to, width, rows, n);
    if (rows < width)
        for (int64_t i = 0; i < n; i++) memset(to + i * width + rows, 0, 4 * (width - rows));
}

// y[0 .. T vectors] = start + sum over j of w[j] * x[ids[j]]
template <int T>
TARGET static inline void combine(const float* x, int64_t step, const float* w, const int32_t* ids, int64_t n, float start,
                                  float* y) {
    Vec a[T], b[T];
    for (int t = 0; t < T; t++) a[t] = Vec{} + start, b[t] = Vec{};
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
        const float *p = x + ids[j] * step, *q = x + ids[j + 1] * step;
        for (int t = 0; t < T; t++) a[t] += w[j] * load(p + t * WIDTH);
        for (int t = 0; t < T; t++) b[t] += w[j + 1] * load(q + t * WIDTH);
    }
    if (j < n)
        for (int t = 0; t < T; t++) a[t] += w[j] * load(x + ids[j] * step + t * WIDTH);
    for (int t = 0; t < T; t++) store(y + t * WIDTH, a[t] + b[t]);
}

TARGET static inline void combine_chunk(const float* x, int64_t width, const float* w, const int32_t* ids, int64_t n, float start,
                                        float* y) {
    int64_t p = 0;
    for (; p + 4 * WIDTH <= width; p += 4 * WIDTH) combine<4>(x + p, width, w, ids, n, start, y + p);
    for (; p + 2 * WIDTH <= width; p += 2 * WIDTH) combine<2>(x + p, width, w, ids, n, start, y + p);
    for (; p < width; p += WIDTH) combine<1>(x + p, width, w, ids, n, start, y + p);
}

// sums[u] += g * x[ids[u]] over T vectors
template <int T>
TARGET static inline void dots(const float* g, const float* x, int64_t step, const int32_t* ids, Vec* sums) {
    Vec q[T];
    for (int t = 0; t < T; t++) q[t] = load(g + t * WIDTH);
#pragma GCC unroll 16
    for (int u = 0; u < WIDTH; u++) {
        const float* p = x + ids[u] * step;
        Vec a = sums[u];
#pragma GCC unroll 4
        for (int t = 0; t < T; t++) a += q[t] * load(p + t * WIDTH);
        sums[u] = a;
    }
}

// <g, x[ids[u]]> for WIDTH of them: in a whole chunk of AVX-512 all sums stay in registers.
TARGET static inline Vec dots_at_once(const float* g, const float* x, int64_t width, const int32_t* ids) {
    Vec sums[WIDTH] = {};
    dots<4>(g, x, width, ids, sums);
    return totals<WIDTH / 2>(sums);
}

TARGET __attribute__((noinline)) static Vec dots_in_parts(const float* g, const float* x, int64_t width, const int32_t* ids) {
    Vec sums[WIDTH] = {};
    int64_t p = 0;
    for (; p + 4 * WIDTH <= width; p += 4 * WIDTH) dots<4>(g + p, x + p, width, ids, sums);
    for (; p < width; p += WIDTH) dots<1>(g + p, x + p, width, ids, sums);
    return totals<WIDTH / 2>(sums);
}

// gw[j] (+)= <g, x[ids[j]]> over the rows of a chunk
TARGET static void dots_chunk(const float* g, const float* x, int64_t width, const int32_t* ids, int64_t n, float* gw, bool add) {
    int64_t j = 0;
    for (; j + WIDTH <= n; j += WIDTH) {
        Vec sum = width == 4 * WIDTH ? dots_at_once(g, x, width, ids + j) : dots_in_parts(g, x, width, ids + j);
        store(gw + j, add ? load(gw + j) + sum : sum);
    }
    for (; j < n; j++) {
        Vec sum = {};
        for (int64_t p = 0; p < width; p += WIDTH) sum += load(g + p) * load(x + ids[j] * width + p);
        gw[j] = (add ? gw[j] : 0) + total(sum);
    }
}

// Features f to f + 16 of y = the combinations of a chunk of `from` (chunk at row b, `width_from` features) whose lists of
// connections are offsets[u] to offsets[u + 1], or k for each u where offsets is null.
TARGET static void combine_block(const float* from, int64_t width_from, const float* w, const int32_t* ids, const int32_t* offsets,
                                 int64_t k, const float* bias, float* y, int64_t features, int64_t B, int64_t b, int64_t f) {
    alignas(64) float tile[16 * CHUNK];
    int64_t n = least(16, features - f), width = chunk_width(B, b);
    for (int64_t u = 0; u < n; u++) {
        int64_t start = offsets ? offsets[f + u] : (f + u) * k, count = offsets ? offsets[f + u + 1] - start : k;
        combine_chunk(from + b * width_from, width, w + start, ids + start, count, bias ? bias[f + u] : 0, tile + u * width);
    }
    transpose(tile, width, y + b * features + f, features, n, least(CHUNK, B - b));
}

// The gradients of the weights and the bias of output o from the chunk at row b, added to those of the chunks before it.
TARGET static void output_grads(const float* gT, const float* xT, const int32_t* ids, float* gw, float* gb, int64_t B, int64_t in,
                                int64_t out, int64_t k, int64_t b, int64_t o) {
    int64_t width = chunk_width(B, b);
    const float* g = gT + b * out + o * width;
    if (gw) dots_chunk(g, xT + b * in, width, ids + o * k, k, gw + o * k, b > 0);
    if (gb) {
        Vec sum = {};
        for (int64_t p = 0; p < width; p += WIDTH) sum += load(g + p);
        gb[o] = (b ? gb[o] : 0) + total(sum);
    }
}

// sum over j of w[j] * x[ids[j]] for one row x
TARGET static float combine_row(const float* x, const float* w, const int32_t* ids, int64_t k) {
#if WIDTH == 16
    __m512 a = _mm512_setzero_ps(), b = a;
    int64_t j = 0;
    for (; j + 32 <= k; j += 32) {
        a = _mm512_fmadd_ps(_mm512_loadu_ps(w + j), _mm512_i32gather_ps(_mm512_loadu_si512(ids + j), x, 4), a);
        b = _mm512_fmadd_ps(_mm512_loadu_ps(w + j + 16), _mm512_i32gather_ps(_mm512_loadu_si512(ids + j + 16), x, 4), b);
    }
    for (; j < k; j += 16) {
        __mmask16 m = k - j >= 16 ? 0xffff : (1 << (k - j)) - 1;
        __m512 read = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), m, _mm512_maskz_loadu_epi32(m, ids + j), x, 4);
        a = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, w + j), read, a);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(a, b));
#else
    float part[4] = {0, 0, 0, 0};
    int64_t j = 0;
    for (; j + 4 <= k; j += 4)
        for (int u = 0; u < 4; u++) part[u] += w[j + u] * x[ids[j + u]];
    for (; j < k; j++) part[0] += w[j] * x[ids[j]];
    return (part[0] + part[1]) + (part[2] + part[3]);
#endif
}

}  // namespace SUFFIX

// The parallel regions below only call functions: what Clang makes of a region does not inherit the target attribute.

// y = x W^T + bias. Scratch: xT, in floats for every row of B rounded up to 16.
extern "C" TARGET void NAME(forward)(const float* x, const float* w, const int32_t* ids, const float* bias, float* xT, float* y,
                                     int64_t B, int64_t in, int64_t out, int64_t k, int64_t threads) {
    using namespace SUFFIX;
    const int64_t chunks = (B + CHUNK - 1) / CHUNK, in_blocks = (in + 15) / 16, out_blocks = (out + 15) / 16;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
#pragma omp for schedule(static)
        for (int64_t i = 0; i < chunks * in_blocks; i++) into_chunk(x, xT, B, in, i / in_blocks * CHUNK, i % in_blocks * 16);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < chunks * out_blocks; i++)
            combine_block(xT, in, w, ids, nullptr, k, bias, y, out, B, i / out_blocks * CHUNK, i % out_blocks * 16);
    }
}

// The same for one row x (in,).
extern "C" TARGET void NAME(forward_row)(const float* x, const float* w, const int32_t* ids, const float* bias, float* y,
                                         int64_t out, int64_t k, int64_t threads) {
    using namespace SUFFIX;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
    for (int64_t o = 0; o < out; o++) y[o] = combine_row(x, w + o * k, ids + o * k, k) + (bias ? bias[o] : 0);
}

// gx = g W, gw = g^T x at the connections, gb = sum of g. The connections by input: `offsets` (in + 1), their outputs `rows` and
// their `places` in w. Scratch as in forward: xT where gw is asked for, gT; wT (out * k) where gx is asked for.
extern "C" TARGET void NAME(backward)(const float* g, const float* x, const float* w, const int32_t* ids, const int32_t* rows,
                                      const int32_t* places, const int32_t* offsets, float* gT, float* xT, float* wT, float* gx,
                                      float* gw, float* gb, int64_t B, int64_t in, int64_t out, int64_t k, int64_t threads) {
    using namespace SUFFIX;
    const int64_t chunks = (B + CHUNK - 1) / CHUNK, in_blocks = (in + 15) / 16, out_blocks = (out + 15) / 16;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (gx) {
#pragma omp for schedule(static) nowait
            for (int64_t i = 0; i < out * k; i++) wT[i] = w[places[i]];
        }
        if (gw) {
#pragma omp for schedule(static) nowait
            for (int64_t i = 0; i < chunks * in_blocks; i++) into_chunk(x, xT, B, in, i / in_blocks * CHUNK, i % in_blocks * 16);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < chunks * out_blocks; i++) into_chunk(g, gT, B, out, i / out_blocks * CHUNK, i % out_blocks * 16);
        if (gw || gb)
            for (int64_t b = 0; b < B; b += CHUNK) {  // a thread has the same outputs in every chunk, so nobody waits
#pragma omp for schedule(static) nowait
                for (int64_t o = 0; o < out; o++) output_grads(gT, xT, ids, gw, gb, B, in, out, k, b, o);
            }
        if (gx) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < chunks * in_blocks; i++)
                combine_block(gT, out, wT, rows, offsets, 0, nullptr, gx, in, B, i / in_blocks * CHUNK, i % in_blocks * 16);
        }
    }
}
