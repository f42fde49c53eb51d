// Words that are two numbers rounded to bf16, the first in its lower half, with AVX-512 BF16. Include it in one file per
// instruction set only, inside an unnamed namespace.
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
      words(low, high).store_n(to + i / 2, (n - i + 1) / 2);
    }
  }

  // Word i is numbers i of two vectors.
  static V interleave(V x, V y) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return {_mm512_castsi512_ps(_mm512_permutexvar_epi16(order, _mm512_castps_si512(words(x, y).v)))};
  }

  // The same of rows, of which the second may be missing.
  static void interleave(const float* x, const float* y, int64_t n, float* to) {
    for (int64_t i = 0; i < n; i += 16) {
      interleave(V::load_n(x + i, n - i), y != nullptr ? V::load_n(y + i, n - i) : V::zero()).store_n(to + i, n - i);
    }
  }

  // 2^x to 2^-13, where the result is rounded to bf16; 0 gives 1, -inf 0, a nan stays.
  static V power(V x) {
    const V u = {_mm512_reduce_ps(x.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};  // x less the next whole number below
    return V::scale(polynomial(u, 1.0f, 0.6954243183f, 0.2263076752f, 0.0782679692f), x);
  }

  // Words of 32 numbers, in order.
  static V words(V low, V high) { return {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.v, low.v))}; }
};
