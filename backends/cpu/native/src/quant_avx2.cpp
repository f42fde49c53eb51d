// Compiled with the flags of its instruction set; see build.py. Integer tiles: bytes widened to 16 bits, so that
// products of any two of them are exact; a lane then sums two of the four k of a column. Half a panel at a time.
#include "vec_avx2.h"

#include "quant_table.h"

namespace forgec {
namespace {

constexpr int kRows = 3;

template <int R>
void tile(const DotArgs& t) {
  for (int half = 0; half < 2; ++half) {
    __m256i sum[R][4];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = _mm256_setzero_si256();
    const char* a = t.a;
    const char* b = t.b + half * 64;
    const char* ahead = t.ahead;
    for (int64_t w = 0; w < t.words; ++w, a += 8 * R, b += kCodePanel * 4, ahead += t.ahead_step) {
      if (half == 0 && t.ahead_step != 0) __builtin_prefetch(ahead, 0, 2);
      if (half == 0 && t.ahead_step == kCodePanel * 4) __builtin_prefetch(ahead + 64, 0, 2);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + 16 * v)));
#pragma GCC unroll 4
        for (int i = 0; i < R; ++i) {
          int64_t four;
          std::memcpy(&four, a + 8 * i, 8);
          sum[i][v] = _mm256_add_epi32(sum[i][v], _mm256_madd_epi16(wide, _mm256_set1_epi64x(four)));
        }
      }
    }
    for (int i = 0; i < R; ++i) {
      for (int v = 0; v < 4; v += 2) {
        const __m256i pairs = _mm256_hadd_epi32(sum[i][v], sum[i][v + 1]);  // columns 0 1 4 5, 2 3 6 7
        auto* c = reinterpret_cast<__m256i*>(t.c + i * kCodePanel + half * 16 + v * 4);
        _mm256_storeu_si256(c, _mm256_permute4x64_epi64(pairs, 0xd8));
      }
    }
  }
}

#include "nibbles_256.h"

struct Nibbles : Nibbles256 {
  static constexpr int rows = 4, chunk = 4;
  using Short = __m256i;

  static Short none() { return _mm256_setzero_si256(); }
  static Sums widen(Short s) { return _mm256_madd_epi16(s, _mm256_set1_epi16(1)); }
  static void add(Short* s, Codes c, Quad x) { *s = _mm256_add_epi16(*s, _mm256_maddubs_epi16(c, x)); }
};

#include "dot_tile.h"
#include "nibble_tile.h"

constexpr Dot kDot = make_dot(kRows, false, std::make_integer_sequence<int, kRows>());
constexpr NibbleDot kNibbleDot = make_nibble_dot<Nibbles>();

}  // namespace

const QuantKernels kQuantAvx2 = make_quant_kernels<VecAvx2>(&kDot, &kNibbleDot);

}  // namespace forgec
