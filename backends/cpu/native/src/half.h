// The 16-bit float formats, converted by bit operations; rounding is to nearest, ties to even. Functions are static, since
// files for several instruction sets have them: the linker must not choose one for all.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace forgec {

struct Half {
  uint16_t bits;
};

struct Brain {
  uint16_t bits;
};

static inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

static inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

static inline float brain_to_float(Brain x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }

static inline Brain float_to_brain(float x) {
  const uint32_t bits = bits_of_float(x);
  if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

static inline float half_to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  if (rest < 0x400) return std::copysign(static_cast<float>(rest) * 0x1p-24f, float_of_bits(sign));
  return float_of_bits(sign | ((rest << 13) + 0x38000000));
}

// From double, so that integers and doubles are rounded once.
static inline Half double_to_half(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, 8);
  const auto sign = static_cast<uint16_t>(bits >> 48 & 0x8000);
  if (x != x) return {static_cast<uint16_t>(sign | 0x7e00)};
  const double size = std::fabs(x);
  if (size >= 65520.0) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (size < 0x1p-14) return {static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24)))};
  int exponent;
  const double fraction = std::frexp(size, &exponent);  // in [0.5, 1)
  const auto digits = static_cast<int>(std::nearbyint(fraction * 2048.0));  // in [1024, 2048]
  return {static_cast<uint16_t>(sign + ((exponent + 13) << 10) + digits)};
}

}  // namespace forgec
