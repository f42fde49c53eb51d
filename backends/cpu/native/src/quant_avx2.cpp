// Compiled with the flags of its instruction set; see build.py. Integer tiles: bytes widened to 16 bits, so that
// products of any two of them are exact; a lane sums the products of two k of a column.
//
// Widening is two instructions for every eight columns and two k. With many rows a panel is opened first: [2 halves of the
// panel][words][first two k, last two k][16 columns] pairs of 16-bit integers.
#include "vec_avx2.h"

#include "quant_table.h"

namespace forgec {
namespace {

#include "finish_256.h"
#include "nibbles_256.h"

constexpr int kRows = 6;

// The first or the last two of the four codes of each column as pairs of 16-bit integers.
template <int second>
__m256i pairs_of(__m256i words) {
  constexpr char z = -1, k = 2 * second, l = k + 1;
  const __m256i order = _mm256_setr_epi8(z, k, z, l, z, k + 4, z, l + 4, z, k + 8, z, l + 8, z, k + 12, z, l + 12,  //
                                         z, k, z, l, z, k + 4, z, l + 4, z, k + 8, z, l + 8, z, k + 12, z, l + 12);
  return _mm256_srai_epi16(_mm256_shuffle_epi8(words, order), 8);
}

void open_bytes(const char* b, int64_t words, char* to) {
  const int64_t half = words * (kOpenWord / 2);
  for (int64_t w = 0; w < words; ++w, b += kCodePanel * 4, to += kOpenWord / 2) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      const __m256i word = Nibbles256::load(b + 32 * v);
      char* place = to + v / 2 * half + v % 2 * 32;
      Nibbles256::keep(pairs_of<0>(word), place);
      Nibbles256::keep(pairs_of<1>(word), place + kOpenWord / 4);
    }
  }
}

// sum[0] += x * y[0], pairwise, and sum[1] += x * y[1]. Both products come before the sums, which would take their ports; and left to
// choose, GCC moves sums to the stack and back.
__attribute__((always_inline)) inline void add_pairs(__m256i* sum, __m256i x, __m256i y0, __m256i y1) {
  __m256i product;
  asm("vpmaddwd %4, %2, %3\n\tvpmaddwd %5, %2, %2\n\tvpaddd %3, %0, %0\n\tvpaddd %2, %1, %1"
      : "+x"(sum[0]), "+x"(sum[1]), "+x"(x), "=&x"(product)
      : "x"(y0), "x"(y1));
}

// Half a panel at a time, or all of it with few rows, which wait for memory.
template <int R, bool open>
void pair_tile(const DotArgs& t) {
  constexpr bool few = R <= kDigits && !open;
  constexpr int N = few ? 4 : 2;
  constexpr int64_t word = open ? kOpenWord / 2 : kCodePanel * 4;
  for (int col = 0; col < kCodePanel; col += N * 8) {
    __m256i sum[R][N];
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) sum[i][v] = _mm256_setzero_si256();
    }
    const char* a = t.a;
    const char* b = t.b + (open ? col / 16 * t.words * word : col * 4);
    const char* ahead = t.ahead;
    const auto pairs = [&](auto second, int64_t at) __attribute__((always_inline)) {
      constexpr int s = decltype(second)::value;
#pragma GCC unroll 2
      for (int v = 0; v < N; v += 2) {
        const char* from = b + at * word + 32 * v + (open ? s * (kOpenWord / 4) : 0);
        const __m256i w0 = Nibbles256::load(from), w1 = Nibbles256::load(from + 32);
        const __m256i y0 = open ? w0 : pairs_of<s>(w0), y1 = open ? w1 : pairs_of<s>(w1);
#pragma GCC unroll 8
        for (int i = 0; i < R; ++i) add_pairs(sum[i] + v, Nibbles256::quad(a + 8 * (at * R + i) + 4 * s), y0, y1);
      }
    };
    const auto step = [&](int64_t at) __attribute__((always_inline)) {
      pairs(std::integral_constant<int, 0>(), at);
      pairs(std::integral_constant<int, 1>(), at);
    };
    int64_t w = t.words;
    for (; w >= 2; w -= 2, a += 16 * R, b += 2 * word, ahead += 2 * t.ahead_step) {
      if (col == 0 && t.ahead_step != 0) {
        __builtin_prefetch(ahead, 0, 2);
        if (few || t.ahead_step > 32) __builtin_prefetch(ahead + t.ahead_step, 0, 2);
        if (few) __builtin_prefetch(ahead + 64, 0, 2);
        if (few) __builtin_prefetch(ahead + t.ahead_step + 64, 0, 2);
      }
      step(0);
      step(1);
    }
    if (w > 0) step(0);
    if (t.finish != nullptr) {
      finish<false>(*t.finish, col, sum);
      continue;
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < N; ++v) {
        Nibbles256::keep(sum[i][v], reinterpret_cast<char*>(t.c + i * kCodePanel + col + 8 * v));
      }
    }
  }
}

struct Nibbles : Nibbles256 {
  static constexpr int rows = 6, chunk = 4;
  static constexpr bool pairs = true;
  using Short = __m256i;

  static Short none() { return _mm256_setzero_si256(); }
  static Sums widen(Short s) { return _mm256_madd_epi16(s, _mm256_set1_epi16(1)); }
  static void add(Short* s, Codes c, Quad x) { *s = _mm256_add_epi16(*s, _mm256_maddubs_epi16(c, x)); }
  // In the order of add_pairs().
  static void add_pair(Short* s, const Codes* c, Quad x) {
    Short product;
    asm("vpmaddubsw %2, %4, %3\n\tvpmaddubsw %2, %5, %2\n\tvpaddw %3, %0, %0\n\tvpaddw %2, %1, %1"
        : "+x"(s[0]), "+x"(s[1]), "+x"(x), "=&x"(product)
        : "x"(c[0]), "x"(c[1]));
  }
};

#include "dot_tile.h"
#include "nibble_tile.h"

template <int... R>
constexpr Dot make_pair_dot(std::integer_sequence<int, R...>) {
  return {kRows, true, false, {nullptr, &pair_tile<R + 1, false>...}, {nullptr, &pair_tile<R + 1, true>...}, open_bytes};
}

constexpr Dot kDot = make_pair_dot(std::make_integer_sequence<int, kRows>());
constexpr NibbleDot kNibbleDot = make_nibble_dot<Nibbles>();

}  // namespace

const QuantKernels kQuantAvx2 = make_quant_kernels<VecAvx2>(&kDot, &kNibbleDot);

}  // namespace forgec
