// Compiled with the flags of its instruction set; see build.py. Integer tiles without VNNI: bytes widened to 16
// bits, so that products of any two of them are exact; a lane then sums two of the four k of a column.
#include "vec_avx512.h"

#include "quant_table.h"

namespace forgec {
namespace {

constexpr int kRows = 6;

template <int R>
void tile(const DotArgs& t) {
  __m512i sum[R][4];
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = _mm512_setzero_si512();
  const char* a = t.a;
  const char* b = t.b;
  for (int64_t w = 0; w < t.words; ++w, a += 8 * R, b += kCodePanel * 4) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m512i wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32 * v)));
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        int64_t four;
        std::memcpy(&four, a + 8 * i, 8);
        sum[i][v] = _mm512_add_epi32(sum[i][v], _mm512_madd_epi16(wide, _mm512_set1_epi64(four)));
      }
    }
  }
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < 4; v += 2) {
      const __m512i first = _mm512_permutex2var_epi32(sum[i][v], even, sum[i][v + 1]);
      const __m512i second = _mm512_permutex2var_epi32(sum[i][v], odd, sum[i][v + 1]);
      _mm512_storeu_si512(t.c + i * kCodePanel + v * 8, _mm512_add_epi32(first, second));
    }
  }
}

#include "nibbles_512.h"

struct Nibbles : Nibbles512 {
  static constexpr int rows = 12, chunk = 4;
  using Short = __m512i;

  static Short none() { return _mm512_setzero_si512(); }
  static Sums widen(Short s) { return _mm512_madd_epi16(s, _mm512_set1_epi16(1)); }
  static void add(Short* s, Codes c, Quad x) { *s = _mm512_add_epi16(*s, _mm512_maddubs_epi16(c, x)); }
};

#include "dot_tile.h"
#include "nibble_tile.h"

constexpr Dot kDot = make_dot(kRows, false, std::make_integer_sequence<int, kRows>());
constexpr NibbleDot kNibbleDot = make_nibble_dot<Nibbles>();

}  // namespace

const QuantKernels kQuantAvx512 = make_quant_kernels<VecAvx512>(&kDot, &kNibbleDot);

}  // namespace forgec
