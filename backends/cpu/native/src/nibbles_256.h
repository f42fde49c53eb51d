// What nibble_tile.h needs of 256-bit vectors, but the dot product. Include it as that.
struct Nibbles256 {
  static constexpr int columns = 8, vectors = 2;
  static constexpr bool pairs = false;
  using Sums = __m256i;
  using Words = __m256i;
  using Codes = __m256i;
  using Quad = __m256i;

  static Sums fill(int32_t x) { return _mm256_set1_epi32(x); }
  static Sums plus(Sums a, Sums b) { return _mm256_add_epi32(a, b); }
  static Words load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Quad quad(const char* p) {
    int32_t four;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
  // Codes of even or odd k, with 8 added, as bytes.
  template <int odd>
  static Codes codes(Words w) {
    const __m256i low = _mm256_and_si256(odd ? _mm256_srli_epi32(w, 4) : w, _mm256_set1_epi8(15));
    return _mm256_xor_si256(low, _mm256_set1_epi8(8));
  }
  static void keep(Codes c, char* p) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), c); }
  static Codes kept(const char* p) { return load(p); }
  static void finish(Sums s, float x, const float* scales, float* c, bool first) {
    const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(x), _mm256_loadu_ps(scales));
    const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(c);
    _mm256_storeu_ps(c, _mm256_fmadd_ps(_mm256_cvtepi32_ps(s), scale, before));
  }
};
