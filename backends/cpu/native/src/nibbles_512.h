// What nibble_tile.h needs of 512-bit vectors, but the dot product. Include it as that.
struct Nibbles512 {
  static constexpr int columns = 16, vectors = 2;
  static constexpr bool pairs = false;
  using Sums = __m512i;
  using Words = __m512i;
  using Codes = __m512i;
  using Quad = __m512i;

  static Sums fill(int32_t x) { return _mm512_set1_epi32(x); }
  static Sums plus(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
  static Words load(const char* p) { return _mm512_loadu_si512(p); }
  static Quad quad(const char* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
  // Codes of even or odd k, with 8 added, as bytes: (w & 15) ^ 8 in one instruction.
  template <int odd>
  static Codes codes(Words w) {
    return _mm512_ternarylogic_epi32(odd ? _mm512_srli_epi32(w, 4) : w, _mm512_set1_epi8(15), _mm512_set1_epi8(8), 0x6a);
  }
  static void keep(Codes c, char* p) { _mm512_storeu_si512(p, c); }
  static Codes kept(const char* p) { return load(p); }
  static void finish(Sums s, float x, const float* scales, float* c, bool first) {
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(x), _mm512_loadu_ps(scales));
    const __m512 before = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c);
    _mm512_storeu_ps(c, _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), scale, before));
  }
};
