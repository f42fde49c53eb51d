// Attention with products of pairs of bf16, two per 32-bit lane and instruction. Compiled with the flags of its
// instruction set; see build.py.
#include "attention.h"
#include "vec_avx512.h"

namespace forgec {
namespace {

// A word is two numbers rounded to the nearest, the first in its lower half.
struct Pairs {
  static constexpr int per_word = 2;
  using V = VecAvx512;

  static V add_product(V sum, V x, V y) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.v) : "v"(x.v), "v"(y.v));
    return sum;
  }

  // Words of numbers [0, n), which may lie where `x` does.
  static void narrow(const float* x, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += 32) {
      const V low = V::load_n(x + i, n - i), high = n - i > 16 ? V::load_n(x + i + 16, n - i - 16) : V::zero();
      const V words = {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v))};
      words.store_n(to + i / 2, (n - i + 1) / 2);
    }
  }

  // Word i is numbers i of two rows, of which the second may be missing.
  static void interleave(const float* x, const float* y, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += 16) {
      const __m512i low = rounded(V::load_n(x + i, n - i));
      const __m512i high = y != nullptr ? _mm512_slli_epi32(rounded(V::load_n(y + i, n - i)), 16) : _mm512_setzero_si512();
      V{_mm512_castsi512_ps(_mm512_or_si512(high, low))}.store_n(to + i, n - i);
    }
  }

 private:
  static __m512i rounded(V x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x.v)); }
};

}  // namespace

const Run kAttentionAvx512Bf16 = attention<VecAvx512, Pairs>;

}  // namespace forgec
