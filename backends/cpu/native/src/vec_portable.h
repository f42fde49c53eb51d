// Four floats with the compiler's own vector type: SSE2 on x86-64, NEON on arm64.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace forgec {

struct VecPortable {
  static constexpr int width = 4;
  static constexpr bool picks = false;
  static constexpr int abreast = 2;  // keys that rows are multiplied with at a time, and vectors of values
  static constexpr int tile_vectors = 2;
  static constexpr int tile_rows = 6;
  static constexpr int most_rows(int) { return tile_rows; }
  typedef float Lanes __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
  Lanes v;

  static VecPortable zero() { return {Lanes{0, 0, 0, 0}}; }
  static VecPortable set1(float x) { return {Lanes{x, x, x, x}}; }
  static VecPortable load(const float* p) {
    VecPortable r;
    std::memcpy(&r.v, p, 16);
    return r;
  }
  static VecPortable load_n(const float* p, int64_t n) {
    float x[4] = {0, 0, 0, 0};
    for (int64_t i = 0; i < n && i < 4; ++i) x[i] = p[i];
    return load(x);
  }
  static VecPortable load(const Half* p) { return load_n(p, 4); }
  static VecPortable load_n(const Half* p, int64_t n) {
    float x[4] = {0, 0, 0, 0};
    for (int64_t i = 0; i < n && i < 4; ++i) x[i] = half_to_float(p[i]);
    return load(x);
  }
  void store(float* p) const { std::memcpy(p, &v, 16); }
  void store_n(float* p, int64_t n) const {
    float x[4];
    store(x);
    for (int64_t i = 0; i < n && i < 4; ++i) p[i] = x[i];
  }

  friend VecPortable operator+(VecPortable a, VecPortable b) { return {a.v + b.v}; }
  friend VecPortable operator-(VecPortable a, VecPortable b) { return {a.v - b.v}; }
  friend VecPortable operator*(VecPortable a, VecPortable b) { return {a.v * b.v}; }
  friend VecPortable operator/(VecPortable a, VecPortable b) { return {a.v / b.v}; }
  static VecPortable fma(VecPortable a, VecPortable b, VecPortable c) { return {a.v * b.v + c.v}; }
  static VecPortable add_product(VecPortable sum, VecPortable a, VecPortable b) { return fma(a, b, sum); }

  static Mask less(VecPortable a, VecPortable b) { return a.v < b.v; }
  static Mask is_nan(VecPortable a) { return a.v != a.v; }
  static VecPortable select(Mask m, VecPortable a, VecPortable b) { return {m ? a.v : b.v}; }
  // As the processor's own: the second operand if either is nan.
  static VecPortable max(VecPortable a, VecPortable b) { return {a.v > b.v ? a.v : b.v}; }
  static VecPortable min(VecPortable a, VecPortable b) { return {a.v < b.v ? a.v : b.v}; }
  static VecPortable abs(VecPortable a) { return from_bits(bits(a) & 0x7fffffff); }
  // Magnitude of a, sign of b.
  static VecPortable copysign(VecPortable a, VecPortable b) {
    return from_bits((bits(a) & 0x7fffffff) | (bits(b) & INT32_MIN));
  }
  static VecPortable sqrt(VecPortable a) {
    return {Lanes{std::sqrt(a.v[0]), std::sqrt(a.v[1]), std::sqrt(a.v[2]), std::sqrt(a.v[3])}};
  }
  // Nearest integer of |a| < 2^22.
  static VecPortable round_small(VecPortable a) {
    const VecPortable magic = set1(12582912.0f);  // 1.5 * 2^23
    return (a + magic) - magic;
  }
  // a * 2^n for integers |n| < 250, over- and underflowing like one multiplication each half.
  static VecPortable scale(VecPortable a, VecPortable n) {
    const Mask whole = __builtin_convertvector(n.v, Mask);
    const Mask half = whole >> 1;
    return a * from_bits((half + 127) << 23) * from_bits((whole - half + 127) << 23);
  }
  static constexpr float kNothing = -127.0f;
  static VecPortable scale_normal(VecPortable a, VecPortable n) {
    return a * from_bits((__builtin_convertvector(n.v, Mask) + 127) << 23);
  }
  // The sums of four vectors.
  static void sums(const VecPortable* x, float* to) {
    for (int i = 0; i < 4; ++i) to[i] = x[i].sum();
  }
  float sum() const { return (v[0] + v[1]) + (v[2] + v[3]); }
  float largest() const {
    const float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
  }
  // dst[j * dst_row + i] = src[i * src_row + j] for i < rows <= width, j < width.
  static void transpose(const float* src, int64_t src_row, int rows, float* dst, int64_t dst_row) {
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < width; ++j) dst[j * dst_row + i] = src[i * src_row + j];
    }
  }

 private:
  static Mask bits(VecPortable a) {
    Mask m;
    std::memcpy(&m, &a.v, 16);
    return m;
  }
  static VecPortable from_bits(Mask m) {
    VecPortable r;
    std::memcpy(&r.v, &m, 16);
    return r;
  }
};

}  // namespace forgec
