// Sixteen floats: AVX-512 F, DQ, BW and VL.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "half.h"

namespace forgec {

struct VecAvx512 {
  static constexpr int width = 16;
  static constexpr bool picks = true;  // has pick()
  // Register tiles of three vectors by nine rows; of the 32 registers, four are for the factors.
  static constexpr int abreast = 4;  // keys that rows are multiplied with at a time, and vectors of values
  static constexpr int tile_vectors = 3;
  static constexpr int tile_rows = 9;
  static constexpr int most_rows(int vectors) { return vectors == tile_vectors ? tile_rows : 14; }
  using Mask = __mmask16;
  __m512 v;

  static VecAvx512 zero() { return {_mm512_setzero_ps()}; }
  static VecAvx512 set1(float x) { return {_mm512_set1_ps(x)}; }
  static VecAvx512 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static VecAvx512 load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first(n), p)}; }
  static VecAvx512 load(const Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static VecAvx512 load_n(const Half* p, int64_t n) { return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_n(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, first(n), v); }

  friend VecAvx512 operator+(VecAvx512 a, VecAvx512 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend VecAvx512 operator-(VecAvx512 a, VecAvx512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend VecAvx512 operator*(VecAvx512 a, VecAvx512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend VecAvx512 operator/(VecAvx512 a, VecAvx512 b) { return {_mm512_div_ps(a.v, b.v)}; }
  static VecAvx512 fma(VecAvx512 a, VecAvx512 b, VecAvx512 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  // sum + a * b in the one form that stays in the register of `sum`; left to choose, GCC spills in long tiles.
  static VecAvx512 add_product(VecAvx512 sum, VecAvx512 a, VecAvx512 b) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(b.v));
    return sum;
  }

  static Mask less(VecAvx512 a, VecAvx512 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
  static Mask is_nan(VecAvx512 a) { return _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q); }
  static VecAvx512 select(Mask m, VecAvx512 a, VecAvx512 b) { return {_mm512_mask_blend_ps(m, b.v, a.v)}; }
  static VecAvx512 max(VecAvx512 a, VecAvx512 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static VecAvx512 min(VecAvx512 a, VecAvx512 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static VecAvx512 abs(VecAvx512 a) { return {_mm512_abs_ps(a.v)}; }
  static VecAvx512 copysign(VecAvx512 a, VecAvx512 b) {
    const __m512 sign = _mm512_set1_ps(-0.0f);
    return {_mm512_or_ps(_mm512_andnot_ps(sign, a.v), _mm512_and_ps(sign, b.v))};
  }
  static VecAvx512 sqrt(VecAvx512 a) { return {_mm512_sqrt_ps(a.v)}; }
  static VecAvx512 round_small(VecAvx512 a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // Of 32 numbers those that the lowest bits of each lane of `index` say.
  static VecAvx512 pick(const float* from, VecAvx512 index) {
    return {_mm512_permutex2var_ps(_mm512_load_ps(from), _mm512_castps_si512(index.v), _mm512_load_ps(from + 16))};
  }
  static VecAvx512 scale(VecAvx512 a, VecAvx512 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
  // As in VecAvx2, but exact where results are denormal: 0 is further down.
  static constexpr float kNothing = -151.0f;
  static VecAvx512 scale_normal(VecAvx512 a, VecAvx512 n) { return scale(a, n); }
  float sum() const { return _mm512_reduce_add_ps(v); }
  // The sums of four vectors.
  static void sums(const VecAvx512* x, float* to) {
    const __m512 a = x[0].v, b = x[1].v, c = x[2].v, d = x[3].v;
    const __m512 s = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 t = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512 u = _mm512_add_ps(_mm512_shuffle_ps(s, t, 0x44), _mm512_shuffle_ps(s, t, 0xee));
    const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(u), _mm512_extractf32x8_ps(u, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1)));
  }
  float largest() const { return _mm512_reduce_max_ps(v); }
  static void transpose(const float* src, int64_t src_row, int rows, float* dst, int64_t dst_row) {
    __m512 r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = i < rows ? _mm512_loadu_ps(src + i * src_row) : _mm512_setzero_ps();
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
      r[4 * i] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
      r[4 * i + 1] = _mm512_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
      r[4 * i + 2] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
      r[4 * i + 3] = _mm512_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    // r[4 g + i] now has columns i, i+4, i+8, i+12 of rows 4g .. 4g+3, one 128-bit block each.
    const Mask mask = first(rows);
    for (int i = 0; i < 4; ++i) {
      const __m512 low02 = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
      const __m512 low13 = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
      const __m512 high02 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
      const __m512 high13 = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
      _mm512_mask_storeu_ps(dst + i * dst_row, mask, _mm512_shuffle_f32x4(low02, high02, 0x88));
      _mm512_mask_storeu_ps(dst + (i + 4) * dst_row, mask, _mm512_shuffle_f32x4(low13, high13, 0x88));
      _mm512_mask_storeu_ps(dst + (i + 8) * dst_row, mask, _mm512_shuffle_f32x4(low02, high02, 0xdd));
      _mm512_mask_storeu_ps(dst + (i + 12) * dst_row, mask, _mm512_shuffle_f32x4(low13, high13, 0xdd));
    }
  }

 private:
  static Mask first(int64_t n) { return n >= 16 ? Mask(0xffff) : Mask((1u << n) - 1); }
};

}  // namespace forgec
