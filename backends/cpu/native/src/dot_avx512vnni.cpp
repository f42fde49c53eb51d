// Integer tiles with AVX-512 VNNI: four products of bytes per 32-bit lane and instruction.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "quant.h"

namespace forgec {
namespace {

constexpr int kRows = 14;

// sum += x * b, in place: left to choose, GCC moves two sums of three to and fro in a tile of 28.
__attribute__((always_inline)) inline void add_products(__m512i* sum, __m512i x, __m512i b) {
  asm("vpdpbusd %2, %1, %0" : "+v"(*sum) : "v"(x), "v"(b));
}

template <int R>
__attribute__((always_inline)) inline void finish(const DotFinish& f, __m512i (&sum)[R][2]) {
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const __m512i offsets = _mm512_loadu_si512(f.offsets + 16 * v);
    const __m512 scales = _mm512_loadu_ps(f.scales + 16 * v);
    const __m512 bias = f.bias != nullptr ? _mm512_loadu_ps(f.bias + 16 * v) : _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(f.row_scales[i]), scales);
      __m512 y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(sum[i][v], offsets)), scale, bias);
      if (f.residual != nullptr) y = _mm512_add_ps(y, _mm512_loadu_ps(f.residual + i * f.ldr + 16 * v));
      _mm512_storeu_ps(f.c + i * f.ldc + 16 * v, y);
    }
  }
}

template <int R>
void tile(const DotArgs& t) {
  __m512i sum[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_si512();
  const char* a = t.a;
  const char* b = t.b;
  const char* ahead = t.ahead;
#pragma GCC unroll 2
  for (int64_t w = 0; w < t.words; ++w, a += 4 * R, b += kCodePanel * 4, ahead += t.ahead_step) {
    if (R > kDigits || t.ahead_step != 0) __builtin_prefetch(ahead, 0, 2);
    if (R <= kDigits && t.ahead_step != 0) __builtin_prefetch(ahead + 64, 0, 2);
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 64);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      int32_t four;
      std::memcpy(&four, a + 4 * i, 4);
      const __m512i x = _mm512_set1_epi32(four);
      add_products(&sum[i][0], x, b0);
      add_products(&sum[i][1], x, b1);
    }
  }
  if (t.finish != nullptr) return finish<R>(*t.finish, sum);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    _mm512_storeu_si512(t.c + i * kCodePanel, sum[i][0]);
    _mm512_storeu_si512(t.c + i * kCodePanel + 16, sum[i][1]);
  }
}

#include "nibbles_512.h"

struct Nibbles : Nibbles512 {
  static constexpr int rows = 12, chunk = 0;

  static void add(Sums* s, Codes c, Quad x) { add_products(s, c, x); }
};

#include "dot_tile.h"
#include "nibble_tile.h"

}  // namespace

const Dot kDotAvx512Vnni = make_dot(kRows, true, std::make_integer_sequence<int, kRows>(), true);
const NibbleDot kNibbleDotAvx512Vnni = make_nibble_dot<Nibbles>();

}  // namespace forgec
