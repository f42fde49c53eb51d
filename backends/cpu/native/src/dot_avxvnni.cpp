// Integer tiles with AVX-VNNI, the 256-bit form of laptop processors: half a panel at a time.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "quant.h"

namespace forgec {
namespace {

constexpr int kRows = 6;

template <int R>
void tile(const DotArgs& t) {
  for (int half = 0; half < 2; ++half) {
    __m256i sum[R][2];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    const char* a = t.a;
    const char* b = t.b + half * 64;
    for (int64_t w = 0; w < t.words; ++w, a += 4 * R, b += kCodePanel * 4) {
      const __m256i b0 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
      const __m256i b1 = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + 32));
#pragma GCC unroll 8
      for (int i = 0; i < R; ++i) {
        int32_t four;
        std::memcpy(&four, a + 4 * i, 4);
        const __m256i x = _mm256_set1_epi32(four);
        sum[i][0] = _mm256_dpbusd_avx_epi32(sum[i][0], x, b0);
        sum[i][1] = _mm256_dpbusd_avx_epi32(sum[i][1], x, b1);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
      auto* c = reinterpret_cast<__m256i*>(t.c + i * kCodePanel + half * 16);
      _mm256_storeu_si256(c, sum[i][0]);
      _mm256_storeu_si256(c + 1, sum[i][1]);
    }
  }
}

#include "nibbles_256.h"

struct Nibbles : Nibbles256 {
  static constexpr int rows = 4, chunk = 0;

  template <int odd>
  static void add(Sums* s, Words w, Quad x) {
    *s = _mm256_dpbusd_avx_epi32(*s, codes<odd>(w), x);
  }
};

#include "dot_tile.h"
#include "nibble_tile.h"

}  // namespace

const Dot kDotAvxVnni = make_dot(kRows, true, std::make_integer_sequence<int, kRows>());
const NibbleDot kNibbleDotAvxVnni = make_nibble_dot<Nibbles>();

}  // namespace forgec
