// Eight floats: AVX2 with FMA.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "half.h"

namespace forgec {

struct VecAvx2 {
  static constexpr int width = 8;
  static constexpr bool picks = false;
  static constexpr int abreast = 2;  // keys that rows are multiplied with at a time, and vectors of values
  // Register tiles of two vectors by six rows; of the 16 registers, four are for the factors.
  static constexpr int tile_vectors = 2;
  static constexpr int tile_rows = 6;
  static constexpr int most_rows(int) { return tile_rows; }
  using Mask = __m256;
  __m256 v;

  static VecAvx2 zero() { return {_mm256_setzero_ps()}; }
  static VecAvx2 set1(float x) { return {_mm256_set1_ps(x)}; }
  static VecAvx2 load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static VecAvx2 load_n(const float* p, int64_t n) { return {_mm256_maskload_ps(p, first(n))}; }
  static VecAvx2 load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static VecAvx2 load_n(const Half* p, int64_t n) {
    Half some[8] = {};
    for (int64_t i = 0; i < n && i < 8; ++i) some[i] = p[i];
    return load(some);
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store_n(float* p, int64_t n) const { _mm256_maskstore_ps(p, first(n), v); }

  friend VecAvx2 operator+(VecAvx2 a, VecAvx2 b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend VecAvx2 operator-(VecAvx2 a, VecAvx2 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend VecAvx2 operator*(VecAvx2 a, VecAvx2 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend VecAvx2 operator/(VecAvx2 a, VecAvx2 b) { return {_mm256_div_ps(a.v, b.v)}; }
  static VecAvx2 fma(VecAvx2 a, VecAvx2 b, VecAvx2 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  // sum + a * b in the one form that stays in the register of `sum`; left to choose, GCC spills in long tiles.
  static VecAvx2 add_product(VecAvx2 sum, VecAvx2 a, VecAvx2 b) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(b.v));
    return sum;
  }

  static Mask less(VecAvx2 a, VecAvx2 b) { return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ); }
  static Mask is_nan(VecAvx2 a) { return _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q); }
  static VecAvx2 select(Mask m, VecAvx2 a, VecAvx2 b) { return {_mm256_blendv_ps(b.v, a.v, m)}; }
  static VecAvx2 max(VecAvx2 a, VecAvx2 b) { return {_mm256_max_ps(a.v, b.v)}; }
  static VecAvx2 min(VecAvx2 a, VecAvx2 b) { return {_mm256_min_ps(a.v, b.v)}; }
  static VecAvx2 abs(VecAvx2 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  static VecAvx2 copysign(VecAvx2 a, VecAvx2 b) {
    return {_mm256_or_ps(abs(a).v, _mm256_and_ps(_mm256_set1_ps(-0.0f), b.v))};
  }
  static VecAvx2 sqrt(VecAvx2 a) { return {_mm256_sqrt_ps(a.v)}; }
  static VecAvx2 round_small(VecAvx2 a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static VecAvx2 scale(VecAvx2 a, VecAvx2 n) {
    const __m256i whole = _mm256_cvtps_epi32(n.v);
    const __m256i half = _mm256_srai_epi32(whole, 1);
    return {_mm256_mul_ps(_mm256_mul_ps(a.v, power(half)), power(_mm256_sub_epi32(whole, half)))};
  }
  // a 2^n for whole n from kNothing, where it is 0, to 128, where it may be infinite.
  static constexpr float kNothing = -127.0f;
  static VecAvx2 scale_normal(VecAvx2 a, VecAvx2 n) { return {_mm256_mul_ps(a.v, power(_mm256_cvtps_epi32(n.v)))}; }
  // The sums of four vectors.
  static void sums(const VecAvx2* x, float* to) {
    const __m256 a = x[0].v, b = x[1].v, c = x[2].v, d = x[3].v;
    const __m256 s = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const __m256 t = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256 u = _mm256_add_ps(_mm256_shuffle_ps(s, t, 0x44), _mm256_shuffle_ps(s, t, 0xee));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(u), _mm256_extractf128_ps(u, 1)));
  }
  float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  float largest() const {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
  }
  static void transpose(const float* src, int64_t src_row, int rows, float* dst, int64_t dst_row) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = i < rows ? _mm256_loadu_ps(src + i * src_row) : _mm256_setzero_ps();
    for (int i = 0; i < 4; ++i) {
      t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
      t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    if (rows == 8) {  // masked stores are slow on AMD's processors
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(dst + i * dst_row, t[i]);
      return;
    }
    const __m256i mask = first(rows);
    for (int i = 0; i < 8; ++i) _mm256_maskstore_ps(dst + i * dst_row, mask, t[i]);
  }

 private:
  static __m256i first(int64_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n < 8 ? n : 8)), lane);
  }
  static __m256 power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace forgec
