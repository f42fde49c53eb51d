// What kernels for compressed weights need of an instruction set beside its vector of floats: words of codes, and
// the float value of the j-th code of each.
#pragma once

#include <cstring>

#include "quant.h"

namespace forgec {

template <class V>
struct Codes;

#if defined(__AVX512F__)

template <>
struct Codes<VecAvx512> {
  using V = VecAvx512;
  using Words = __m512i;
  static constexpr int thin_rows = 4;  // rows that are multiplied while decoding

  static Words load(const char* p) { return _mm512_loadu_si512(p); }

  template <Code code, int j>
  static V value(Words w) {
    if constexpr (code == Code::i8) {
      return {_mm512_cvtepi32_ps(_mm512_srai_epi32(j < 3 ? _mm512_slli_epi32(w, 24 - 8 * j) : w, 24))};
    } else if constexpr (code == Code::i4) {
      // The permutation reads the lowest four bits of each index.
      const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
      return {_mm512_permutexvar_ps(j > 0 ? _mm512_srli_epi32(w, 4 * j) : w, values)};
    } else if constexpr (code == Code::f16) {
      // The first numbers of all words, then the second ones: one permutation for both.
      const __m512i order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                             30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
      const __m512i apart = _mm512_permutexvar_epi16(order, w);
      return {_mm512_cvtph_ps(j == 0 ? _mm512_castsi512_si256(apart) : _mm512_extracti64x4_epi64(apart, 1))};
    } else {
      return {_mm512_castsi512_ps(j == 0 ? _mm512_slli_epi32(w, 16)
                                         : _mm512_and_si512(w, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
    }
  }

  static V from_ints(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
  static V from_difference(const int32_t* p, const int32_t* q) {
    return {_mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_loadu_si512(q)))};
  }
  // Whole numbers in [-127, 127] as bytes with 128 added, or as 16-bit integers.
  static void store_bytes(V x, char* to) {
    const __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(x.v), _mm512_set1_epi32(128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(whole));
  }
  static void store_shorts(V x, char* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x.v)));
  }
  static void store_halves(V x, char* to) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
  }
  // The same as bytes with nothing added, at place i of `to`, of every eight those at even places first.
  static void store_split(V x, char* to, int64_t i) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm_shuffle_epi8(bytes, order));
  }
};

#elif defined(__AVX2__)

template <>
struct Codes<VecAvx2> {
  using V = VecAvx2;
  using Words = __m256i;
  static constexpr int thin_rows = 2;

  static Words load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }

  template <Code code, int j>
  static V value(Words w) {
    if constexpr (code == Code::f16) {
      // The first numbers of all words, then the second ones: one permutation for both.
      const Words order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
      const Words apart = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(w, order), _MM_SHUFFLE(3, 1, 2, 0));
      return {_mm256_cvtph_ps(j == 0 ? _mm256_castsi256_si128(apart) : _mm256_extracti128_si256(apart, 1))};
    }
    constexpr int bits = code == Code::i8 ? 8 : code == Code::i4 ? 4 : 16;
    const Words top = _mm256_slli_epi32(w, 32 - bits * (j + 1));
    if constexpr (code == Code::bf16) {
      return {_mm256_castsi256_ps(
          j == 0 ? top : _mm256_and_si256(w, _mm256_set1_epi32(static_cast<int>(0xffff0000))))};
    } else {
      return {_mm256_cvtepi32_ps(_mm256_srai_epi32(top, 32 - bits))};
    }
  }

  static V from_ints(const int32_t* p) { return {_mm256_cvtepi32_ps(ints(p))}; }
  static V from_difference(const int32_t* p, const int32_t* q) {
    return {_mm256_cvtepi32_ps(_mm256_sub_epi32(ints(p), ints(q)))};
  }
  static void store_bytes(V x, char* to) {
    const __m128i shorts = _mm_add_epi16(narrow(x), _mm_set1_epi16(128));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(shorts, shorts));
  }
  static void store_shorts(V x, char* to) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), narrow(x)); }
  static void store_halves(V x, char* to) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store_split(V x, char* to, int64_t i) {
    const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + i), _mm_shuffle_epi8(narrow(x), order));
  }

 private:
  static __m256i ints(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static __m128i narrow(V x) {
    const __m256i whole = _mm256_cvtps_epi32(x.v);
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  }
};

#else

template <>
struct Codes<VecPortable> {
  using V = VecPortable;
  typedef int32_t Words __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  static constexpr int thin_rows = 2;

  static Words load(const char* p) {
    Words w;
    std::memcpy(&w, p, 16);
    return w;
  }

  template <Code code, int j>
  static V value(Words w) {
    constexpr int bits = code == Code::i8 ? 8 : code == Code::i4 ? 4 : 16;
    const Words top = reinterpret_cast<Words>(reinterpret_cast<Bits>(w) << (32 - bits * (j + 1)));
    V x;
    if constexpr (code == Code::f16) {
      for (int i = 0; i < 4; ++i) x.v[i] = half_to_float({static_cast<uint16_t>(w[i] >> (16 * j))});
    } else if constexpr (code == Code::bf16) {
      const Words upper = top & static_cast<int32_t>(0xffff0000);
      std::memcpy(&x.v, &upper, 16);
    } else {
      x.v = __builtin_convertvector(top >> (32 - bits), V::Lanes);
    }
    return x;
  }

  static V from_ints(const int32_t* p) {
    return {__builtin_convertvector(load(reinterpret_cast<const char*>(p)), V::Lanes)};
  }
  static V from_difference(const int32_t* p, const int32_t* q) {
    const Words w = load(reinterpret_cast<const char*>(p)) - load(reinterpret_cast<const char*>(q));
    return {__builtin_convertvector(w, V::Lanes)};
  }
  static void store_bytes(V x, char* to) {
    for (int i = 0; i < 4; ++i) to[i] = static_cast<char>(static_cast<int>(x.v[i]) + 128);
  }
  static void store_shorts(V x, char* to) {
    for (int i = 0; i < 4; ++i) {
      const auto s = static_cast<int16_t>(x.v[i]);
      std::memcpy(to + 2 * i, &s, 2);
    }
  }
  static void store_halves(V x, char* to) {
    for (int i = 0; i < 4; ++i) {
      const Half half = double_to_half(x.v[i]);
      std::memcpy(to + 2 * i, &half, 2);
    }
  }
  static void store_split(V x, char* to, int64_t i) {
    char* eight = to + i / 8 * 8 + i % 8 / 2;
    for (int j = 0; j < 4; ++j) eight[j % 2 * 4 + j / 2] = static_cast<char>(static_cast<int>(x.v[j]));
  }
};

#endif

}  // namespace forgec
