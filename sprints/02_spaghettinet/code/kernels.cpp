// Kernels of the sparse layer, float32. One body, compiled for AVX-512, AVX2 and the base instructions (SSE2, NEON or scalar)
// through function target attributes by including this file from itself; kernels.py asks `noodles_isa` which of them this processor
// has.
//
// Generic (any wiring): the batch is cut into chunks of 64 rows, and a chunk is kept feature-major, [features][64 rows], so that a
// connection is one broadcast weight times 64 consecutive floats. Bundle (16 outputs permute 16 inputs): no transpose of the
// activations at all, a connection of 16 outputs is one register permutation and one multiply-add.
//
// x (B, in)  w, ids (out, k)  y, g (B, out), all contiguous; a null pointer leaves an output out.

#ifndef WIDTH

#include <cstdint>
#include <cstring>
#include <memory>
#define CHUNK 64
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME(function) JOIN(function, SUFFIX)
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Ints){__VA_ARGS__})
#endif

struct Packed {  // packed.py has the same
    const void* w;
    const float* bias;
    const int32_t *lanes, *blocks, *quads;
    int64_t in, out, k, half;
};
alignas(64) static const float NOTHING[16] = {};

#if defined(__x86_64__)
#include <immintrin.h>
#define WIDTH 16
#define SUFFIX avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#include "kernels.cpp"
#undef WIDTH
#undef SUFFIX
#undef TARGET
#undef ZIP_LOW
#undef ZIP_HIGH
#define WIDTH 8
#define SUFFIX avx2
#define TARGET __attribute__((target("avx2,fma")))
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#include "kernels.cpp"
#undef WIDTH
#undef SUFFIX
#undef TARGET
#undef ZIP_LOW
#undef ZIP_HIGH
#endif

#define WIDTH 4
#define SUFFIX base
#define TARGET
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#include "kernels.cpp"

// The best instruction set of this processor: 2 AVX-512, 1 AVX2, 0 the base of its architecture.
extern "C" int noodles_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

#else  // the body, once per instruction set

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

namespace SUFFIX {

struct Lanes {  // of 16 outputs
    Vec part[16 / WIDTH];
};

// x[lane[o]] of a block x of 16 inputs, for WIDTH outputs o; a lane is the low half byte of its word.
TARGET static inline Vec permute(const float* x, Words lane) {
#if WIDTH == 16
    return (Vec)_mm512_permutexvar_ps((__m512i)lane, _mm512_loadu_ps(x));
#elif WIDTH == 8
    __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x), (__m256i)lane),
           high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(x + 8), (__m256i)lane);
    return (Vec)_mm256_blendv_ps(low, high, (__m256)(lane << 28));
#else
    return Vec{x[lane[0] & 15], x[lane[1] & 15], x[lane[2] & 15], x[lane[3] & 15]};
#endif
}

// Two entries of a packed bundle for one row: sum[o] += w[o] * x[lane[o]]. `lanes` holds those of the first in its low half bytes,
// above them those of the second. w: 16 floats of each, or where HALF is true 16 pairs of bfloat16, the first in the low half.
template <bool HALF>
TARGET static inline void add_pair(Lanes& first, Lanes& second, const char* w, const Words* lanes, int shift, const float* x0,
                                   const float* x1) {
#pragma GCC unroll 4
    for (int h = 0; h < 16 / WIDTH; h++) {
        const float* p = (const float*)w + h * WIDTH;
        Words both = (Words)load(p), lane = lanes[h] >> shift;
        Vec w0 = HALF ? (Vec)(both << 16) : (Vec)both, w1 = HALF ? (Vec)(both & 0xffff0000u) : load(p + (HALF ? 0 : 16));
        first.part[h] += w0 * permute(x0, lane);
        second.part[h] += w1 * permute(x1, lane >> 4);
    }
}

// y = bias + the sum of the entries of a tile, for one row. Eight entries share 16 words of lanes; the sums of several at a time hide
// the latency of the multiply-add.
template <bool HALF>
TARGET static inline void packed_row(const float* x, const char* w, const int32_t* lanes, const int32_t* ids, int64_t k,
                                     const float* bias, float* y) {
    const int64_t size = HALF ? 64 : 128;  // bytes of weights of a pair
    const int sums = WIDTH == 16 ? 8 : 4;  // that fit into the registers
    Lanes a[sums] = {};
    for (int64_t e = 0; e < k; e += 8, lanes += 16) {
        Words lane[16 / WIDTH];
#pragma GCC unroll 4
        for (int h = 0; h < 16 / WIDTH; h++) lane[h] = (Words)load((const float*)lanes + h * WIDTH);
        if (e + 8 <= k) {
#pragma GCC unroll 4
            for (int u = 0; u < 8; u += 2, w += size)
                add_pair<HALF>(a[u % sums], a[u % sums + 1], w, lane, 4 * u, x + 16 * (int64_t)ids[e + u],
                               x + 16 * (int64_t)ids[e + u + 1]);
        } else
            for (int u = 0; e + u < k; u += 2, w += size)
                add_pair<HALF>(a[0], a[1], w, lane, 4 * u, x + 16 * (int64_t)ids[e + u],
                               e + u + 1 < k ? x + 16 * (int64_t)ids[e + u + 1] : NOTHING);
    }
    for (int h = 0; h < 16 / WIDTH; h++) {
        Vec sum = (a[0].part[h] + a[1].part[h]) + (a[2].part[h] + a[3].part[h]);
        if (sums == 8)
            sum += (a[4 % sums].part[h] + a[5 % sums].part[h]) + (a[6 % sums].part[h] + a[7 % sums].part[h]);
        store(y + h * WIDTH, bias ? sum + load(bias + h * WIDTH) : sum);
    }
}

// Quads of 4 floats from their places in a row to block order, or back.
static inline void gather_quads(const float* from, float* to, const int32_t* quads, int64_t n) {
    for (int64_t q = 0; q < n; q++) memcpy(to + 4 * q, from + quads[q], 16);
}
static inline void scatter_quads(const float* from, float* to, const int32_t* quads, int64_t n) {
    for (int64_t q = 0; q < n; q++) memcpy(to + quads[q], from + 4 * q, 16);
}

// Tile t for all rows of `from`, which are in block order.
TARGET static void packed_tile(const Packed* p, const float* from, float* y, int64_t B, int64_t t) {
    const int64_t pairs = (p->k + 1) / 2, groups = (p->k + 7) / 8;
    const char* w = (const char*)p->w + t * pairs * (p->half ? 64 : 128);
    const float* bias = p->bias ? p->bias + 16 * t : nullptr;
    auto row = p->half ? packed_row<true> : packed_row<false>;
    for (int64_t b = 0; b < B; b++)
        row(from + b * p->in, w, p->lanes + t * groups * 16, p->blocks + t * p->k, p->k, bias, y + b * p->out + 16 * t);
}

}  // namespace SUFFIX

// y = x W^T + bias for the weights of a bundle in pairs of entries (packed.py), float32 or bfloat16. One pointer to what stays the
// same, and no parallel region on one thread, keep the call short: it takes as long as a small product.
extern "C" TARGET void NAME(packed)(const Packed* p, const float* x, float* y, int64_t B, int64_t threads) {
    using namespace SUFFIX;
    std::unique_ptr<float[]> ordered(p->quads ? new float[B * p->in] : nullptr);
    for (int64_t b = 0; ordered && b < B; b++) gather_quads(x + b * p->in, ordered.get() + b * p->in, p->quads, p->in / 4);
    const float* from = ordered ? ordered.get() : x;
    const int64_t tiles = p->out / 16;
    if (threads == 1) {
        for (int64_t t = 0; t < tiles; t++) packed_tile(p, from, y, B, t);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t t = 0; t < tiles; t++) packed_tile(p, from, y, B, t);
}

#if WIDTH == 16  // training a bundle: elsewhere the generic kernels are as fast

namespace SUFFIX {

TARGET static inline __m512i lanes_at(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }

// y[r] = bias + sum over entries e of w[e] * permute(x[r, block ids[e]], lanes[e]) for R rows
template <int R>
TARGET static inline void entries(const float* x, int64_t x_step, const float* w, const uint8_t* lanes, const int32_t* ids,
                                  int64_t n, const float* bias, float* y, int64_t y_step) {
    __m512 a[R];
    for (int r = 0; r < R; r++) a[r] = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps();
    for (int64_t e = 0; e < n; e++) {
        const float* p = x + 16 * (int64_t)ids[e];
        __m512 weight = _mm512_loadu_ps(w + 16 * e);
        __m512i lane = lanes_at(lanes + 16 * e);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++)
            a[r] = _mm512_fmadd_ps(weight, _mm512_permutexvar_ps(lane, _mm512_loadu_ps(p + r * x_step)), a[r]);
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(y + r * y_step, a[r]);
}

// The same for one row; four sums at a time hide the latency of the multiply-add.
TARGET static inline void entries_row(const float* x, const float* w, const uint8_t* lanes, const int32_t* ids, int64_t n,
                                      const float* bias, float* y) {
    Vec a[4] = {};
    int64_t e = 0;
    for (; e + 4 <= n; e += 4)
        for (int u = 0; u < 4; u++)
            a[u] += load(w + 16 * (e + u)) * permute(x + 16 * (int64_t)ids[e + u], (Words)lanes_at(lanes + 16 * (e + u)));
    for (; e < n; e++) a[0] += load(w + 16 * e) * permute(x + 16 * (int64_t)ids[e], (Words)lanes_at(lanes + 16 * e));
    Vec sum = (a[0] + a[1]) + (a[2] + a[3]);
    store(y, bias ? sum + load(bias) : sum);
}

// Segments s0 to s1 for all rows. Segment s has the entries offsets[s] to offsets[s + 1], or k of them where offsets is null. A few
// rows at a time for all segments: the rows stay in the first cache, the weights in the second.
TARGET static void segments(const float* x, int64_t x_step, const float* w, const uint8_t* lanes, const int32_t* ids,
                            const int32_t* offsets, int64_t k, int64_t s0, int64_t s1, const float* bias, float* y, int64_t y_step,
                            int64_t B) {
    for (int64_t b = 0, rows; b < B; b += rows) {
        rows = B - b >= 8 ? 8 : B - b >= 4 ? 4 : 1;
        const float* from = x + b * x_step;
        for (int64_t s = s0; s < s1; s++) {
            int64_t e = offsets ? offsets[s] : s * k, n = offsets ? offsets[s + 1] - e : k;
            const float* shift = bias ? bias + 16 * s : nullptr;
            float* to = y + b * y_step + 16 * s;
            if (rows == 8)
                entries<8>(from, x_step, w + 16 * e, lanes + 16 * e, ids + e, n, shift, to, y_step);
            else if (rows == 4)
                entries<4>(from, x_step, w + 16 * e, lanes + 16 * e, ids + e, n, shift, to, y_step);
            else
                entries_row(from, w + 16 * e, lanes + 16 * e, ids + e, n, shift, to);
        }
    }
}

// gw[e] (+)= sum over R rows of g[r] * permute(x[r, block ids[e]], lanes[e]), and gb the sum of g; g is a tile's first column
template <int R>
TARGET static inline void entry_grads(const float* g, int64_t g_step, const float* x, int64_t x_step, const uint8_t* lanes,
                                      const int32_t* ids, int64_t n, float* gw, float* gb, bool add) {
    __m512 grad[R], sum = add && gb ? _mm512_loadu_ps(gb) : _mm512_setzero_ps();
    for (int r = 0; r < R; r++) {
        grad[r] = _mm512_loadu_ps(g + r * g_step);
        sum = _mm512_add_ps(sum, grad[r]);
    }
    if (gb) _mm512_storeu_ps(gb, sum);
    for (int64_t e = 0; gw && e < n; e++) {
        const float* p = x + 16 * (int64_t)ids[e];
        __m512i lane = lanes_at(lanes + 16 * e);
        __m512 a = add ? _mm512_loadu_ps(gw + 16 * e) : _mm512_setzero_ps();
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) a = _mm512_fmadd_ps(grad[r], _mm512_permutexvar_ps(lane, _mm512_loadu_ps(p + r * x_step)), a);
        _mm512_storeu_ps(gw + 16 * e, a);
    }
}

// Segments that one thread takes at a time: at most a quarter of a megabyte of weights and lanes, and some for every thread.
static inline int64_t group_size(int64_t segments, int64_t entries, int64_t threads) {
    int64_t fit = (1 << 18) * segments / (80 * entries), share = (segments + threads - 1) / threads;
    return fit < 1 ? 1 : least(fit, share);
}

// The gradients of the weights and the biases of tiles t0 to t1; grad (t, k, 16) is scratch.
TARGET static void tile_grads(const float* g, const float* x, const uint8_t* lanes, const int32_t* blocks, float* grad, float* gw,
                              float* gb, int64_t B, int64_t in, int64_t out, int64_t k, int64_t t0, int64_t t1) {
    for (int64_t b = 0, rows; b < B; b += rows) {
        rows = B - b >= 8 ? 8 : B - b >= 4 ? 4 : 1;
        auto add = rows == 8 ? entry_grads<8> : rows == 4 ? entry_grads<4> : entry_grads<1>;
        for (int64_t t = t0; t < t1; t++)
            add(g + b * out + 16 * t, out, x + b * in, in, lanes + t * 16 * k, blocks + t * k, k, gw ? grad + t * 16 * k : nullptr,
                gb ? gb + 16 * t : nullptr, b > 0);
    }
    for (int64_t t = t0; gw && t < t1; t++) transpose(grad + t * 16 * k, 16, gw + t * 16 * k, k, k, 16);
}

// The weights of entries e0 to e1 in the order of the blocks.
TARGET static void turn_weights(const float* wt, float* wT, const int32_t* places, const uint8_t* back, int64_t e0, int64_t e1) {
    for (int64_t e = e0; e < e1; e++)
        _mm512_storeu_ps(wT + 16 * e,
                         _mm512_permutexvar_ps(lanes_at(back + 16 * e), _mm512_loadu_ps(wt + 16 * (int64_t)places[e])));
}

}  // namespace SUFFIX

// y = x W^T + bias for a bundle: tile t of 16 outputs has entries (t, k) with `blocks` of 16 inputs and `lanes` (t, k, 16). `quads`
// (in / 4) or null: where the blocks' floats lie in a row of x, four at a time; then xP (B, in) is scratch.
// wt (t, k, 16), scratch: the weights by entry.
extern "C" TARGET void bundle_forward(const float* x, const int32_t* quads, float* xP, const float* w, float* wt,
                                      const uint8_t* lanes, const int32_t* blocks, const float* bias, float* y, int64_t B,
                                      int64_t in, int64_t out, int64_t k, int64_t threads) {
    using namespace SUFFIX;
    const int64_t tiles = out / 16, size = group_size(tiles, tiles * k, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (quads) {
#pragma omp for schedule(static)
            for (int64_t b = 0; b < B; b++) gather_quads(x + b * in, xP + b * in, quads, in / 4);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < tiles; first += size) {
            int64_t last = least(first + size, tiles);
            for (int64_t t = first; t < last; t++) transpose(w + t * 16 * k, k, wt + t * 16 * k, 16, 16, k);
            segments(quads ? xP : x, in, wt, lanes, blocks, nullptr, k, first, last, bias, y, out, B);
        }
    }
}

// As `backward`. The entries by block of inputs: `offsets` (in / 16 + 1), their `tiles`, their `places` among (t, k) and the
// inverse lanes `back` (out * k). Scratch: wt, wT (out * k), wT at first for the gradients by entry; xP, gxP (B, in) with quads.
extern "C" TARGET void bundle_backward(const float* g, const float* x, const int32_t* quads, float* xP, const float* w, float* wt,
                                       float* wT, const uint8_t* lanes, const int32_t* blocks, const int32_t* offsets,
                                       const int32_t* tiles, const int32_t* places, const uint8_t* back, float* gxP, float* gx,
                                       float* gw, float* gb, int64_t B, int64_t in, int64_t out, int64_t k, int64_t threads) {
    using namespace SUFFIX;
    const int64_t out_tiles = out / 16, in_blocks = in / 16;
    const int64_t out_size = group_size(out_tiles, out_tiles * k, threads), in_size = group_size(in_blocks, out_tiles * k, threads);
    const float* from = quads ? xP : x;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (quads && gw) {
#pragma omp for schedule(static)
            for (int64_t b = 0; b < B; b++) gather_quads(x + b * in, xP + b * in, quads, in / 4);
        }
#pragma omp for schedule(static)
        for (int64_t first = 0; first < out_tiles; first += out_size) {
            int64_t last = least(first + out_size, out_tiles);
            if (gw || gb) tile_grads(g, from, lanes, blocks, wT, gw, gb, B, in, out, k, first, last);
            for (int64_t t = first; gx && t < last; t++) transpose(w + t * 16 * k, k, wt + t * 16 * k, 16, 16, k);
        }
        if (gx) {
#pragma omp for schedule(static)
            for (int64_t first = 0; first < in_blocks; first += in_size) {
                int64_t last = least(first + in_size, in_blocks);
                turn_weights(wt, wT, places, back, offsets[first], offsets[last]);
                segments(g, out, wT, back, tiles, offsets, 0, first, last, nullptr, quads ? gxP : gx, in, B);
            }
            if (quads) {
#pragma omp for schedule(static)
                for (int64_t b = 0; b < B; b++) scatter_quads(gxP + b * in, gx + b * in, quads, in / 4);
            }
        }
    }
}

#endif
#endif
