// Kernels of the sparse layer, float32. The two headers are compiled once for AVX-512, for AVX2 and for the base instructions (SSE2,
// NEON or scalar) through function target attributes; kernels.py asks `noodles_isa` which of them this processor has.

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
#include "kernels_any.h"
#include "kernels_bundle.h"
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
#include "kernels_any.h"
#include "kernels_bundle.h"
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
#include "kernels_any.h"
#include "kernels_bundle.h"

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
