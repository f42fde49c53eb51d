// Integer tiles with AVX-VNNI, the 256-bit form of laptop processors.
#include <immintrin.h>

#include <cstring>
#include <utility>

#include "quant.h"

namespace forgec {
namespace {

#include "finish_256.h"
#include "nibbles_256.h"

constexpr int kRows = 6;

// sum += x * b, in place: left to choose, GCC moves sums to the stack and back in every turn of a loop.
__attribute__((always_inline)) inline void add_products(__m256i* sum, __m256i x, __m256i b) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(*sum) : "x"(x), "x"(b));
}

// Half a panel at a time, or all of it with few rows, which wait for memory.
template <int R>
void tile(const DotArgs& t) {
  constexpr bool few = R <= kDigits;
  constexpr int N = few ? 4 : 2;
  for (int col = 0; col < kCodePanel; col += N * 8) {
    __m256i sum[R][N];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sum[i][v] = _mm256_setzero_si256();
    }
    const char* a = t.a;
    const char* b = t.b + col * 4;
    const char* ahead = t.ahead;
    for (int64_t w = 0; w < t.words; ++w, a += 4 * R, b += kCodePanel * 4, ahead += t.ahead_step) {
      if (col == 0 && t.ahead_step != 0) __builtin_prefetch(ahead, 0, 2);
      if (few && t.ahead_step != 0) __builtin_prefetch(ahead + 64, 0, 2);
      // Of 16 registers there is room for the words of two columns beside one row, or for one beside three rows.
      constexpr int abreast = few ? 1 : N;
#pragma GCC unroll 4
      for (int v = 0; v < N; v += abreast) {
        __m256i words[abreast];
#pragma GCC unroll 4
        for (int u = 0; u < abreast; ++u) words[u] = Nibbles256::load(b + 32 * (v + u));
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) {
          const __m256i x = Nibbles256::quad(a + 4 * i);
#pragma GCC unroll 4
          for (int u = 0; u < abreast; ++u) add_products(&sum[i][v + u], x, words[u]);
        }
      }
    }
    if (t.finish != nullptr) {
      finish<true>(*t.finish, col, sum);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.c + i * kCodePanel + col) + v, sum[i][v]);
      }
    }
  }
}

struct Nibbles : Nibbles256 {
  static constexpr int rows = 6, chunk = 0;

  static void add(Sums* s, Codes c, Quad x) { add_products(s, c, x); }
};

#include "dot_tile.h"
#include "nibble_tile.h"

}  // namespace

const Dot kDotAvxVnni = make_dot(kRows, true, std::make_integer_sequence<int, kRows>(), true);
const NibbleDot kNibbleDotAvxVnni = make_nibble_dot<Nibbles>();

}  // namespace forgec
