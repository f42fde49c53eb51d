// Rows of A as bytes, or as digits of them, for products of blocks of rows (quant.h, BlockGemm). Include it in one file
// only, after a vector of AVX-512.
#pragma once

#include "split.h"

namespace forgec {
namespace {

constexpr float kUpperBits = 1.0f / 16;  // of a sum of codes of i4

// The bits of the largest absolute value of k floats: those of numbers that are not finite are the largest.
int32_t largest_bits(const float* x, int64_t k) {
  const __m512i size = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[4] = {};
  const auto add = [&](int j, VecAvx512 y) __attribute__((always_inline)) {
    largest[j] = _mm512_max_epi32(largest[j], _mm512_and_si512(_mm512_castps_si512(y.v), size));
  };
  int64_t i = 0;
  for (; i + 64 <= k; i += 64) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) add(j, VecAvx512::load(x + i + 16 * j));
  }
  for (; i < k; i += 16) add(0, VecAvx512::load_n(x + i, k - i));
  return _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3])));
}

// 64 whole numbers in [-127, 127] as bytes in order, or of every eight those at even places first.
template <bool split>
__m512i bytes_of(const __m512i (&x)[4]) {
  const __m512i mixed = _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
  const __m512i bytes =
      _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), mixed);
  if constexpr (!split) return bytes;
  return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11,
                                                                         13, 15)));
}

// A group of a row as `digits` rows of bytes, `plane` bytes apart, whose scales are `scale_step` apart. Writes multiples
// of 64 bytes. False if digits do not have the group's bits.
template <int digits, bool split>
bool quantise_bytes(const float* x, int64_t k, char* to, int64_t plane, float* scales, int64_t scale_step) {
  constexpr float kFiner = 254;  // a digit is at most half a step of the one before, and 127 of its own
  const int32_t bits = largest_bits(x, k);
  float size;
  std::memcpy(&size, &bits, sizeof(size));
  const bool finite = bits < 0x7f800000, some = finite && size >= 0x1p-100f;
  float step[digits];
  __m512 factor[digits];
  step[0] = finite ? (some ? size / 127.0f : 0.0f) : __builtin_nanf("");
  factor[0] = _mm512_set1_ps(some ? 127.0f / size : 0.0f);
  for (int d = 1; d < digits; ++d) {
    step[d] = step[d - 1] / kFiner;
    factor[d] = _mm512_mul_ps(factor[d - 1], _mm512_set1_ps(kFiner));
  }
  for (int d = 0; d < digits; ++d) scales[d * scale_step] = split ? step[d] * kUpperBits : step[d];
  if (!some) {
    for (int d = 0; d < digits; ++d) std::memset(to + d * plane, 0, static_cast<size_t>((k + 63) / 64 * 64));
    return bits == 0;
  }
  for (int64_t i = 0; i < k; i += 64) {
    __m512 y[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const int64_t left = k - i - 16 * j;
      y[j] = (left >= 16 ? VecAvx512::load(x + i + 16 * j) : left > 0 ? VecAvx512::load_n(x + i + 16 * j, left) : VecAvx512::zero()).v;
    }
#pragma GCC unroll 4
    for (int d = 0; d < digits; ++d) {
      __m512i whole[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        whole[j] = _mm512_cvtps_epi32(_mm512_mul_ps(y[j], factor[d]));
        if (d + 1 < digits) y[j] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(whole[j]), _mm512_set1_ps(step[d]), y[j]);
      }
      _mm512_storeu_si512(to + d * plane + i, bytes_of<split>(whole));
    }
  }
  return step[0] >= kLeastScale;
}

template <int digits, bool split>
bool quantise_rows(const BlockGemm& p, int64_t begin, int64_t end) {
  const Gemm& g = p.quant.gemm;
  bool fits = true;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t group = 0; group < p.groups; ++group) {
      const int64_t from = group * p.group, count = g.k - from < p.group ? g.k - from : p.group;
      fits &= quantise_bytes<digits, split>(g.a + row * g.a_row + from, count,
                                            p.rows + row * p.row_bytes + group * p.group_bytes, (g.m + 1) * p.row_bytes,
                                            p.row_scales + group * digits * g.m + row, g.m);
    }
  }
  return fits;
}

// This thread's rows.
bool quantise_rows(const BlockGemm& p, Context& context) {
  int64_t begin, end;
  context.share(p.quant.gemm.m, 1, &begin, &end);
  const bool split = p.code == Code::i4;
  if (p.digits == 1) return split ? quantise_rows<1, true>(p, begin, end) : quantise_rows<1, false>(p, begin, end);
  return split ? quantise_rows<kDigits, true>(p, begin, end) : quantise_rows<kDigits, false>(p, begin, end);
}

}  // namespace
}  // namespace forgec
