// Bundles: 16 outputs permute blocks of 16 inputs. No transpose of the activations at all, a connection of 16 outputs is one
// register permutation and one multiply-add. Included by kernels.cpp once per instruction set, after kernels_any.h.

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
