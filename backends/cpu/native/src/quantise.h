// Scales and codes of a weight, as the ops `scales` and `quantise` define them. Plain loops, which the compiler makes
// vectors of with the flags of each instruction set; V only tells the sets apart.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant_codes.h"

namespace forgec {

constexpr int kLanes = 16;
constexpr int64_t kCodeBlock = 1024;  // codes of a row that are rounded before they are stored

// The smallest and the largest of n floats; both NaN if one is.
inline void ends_of(const float* x, int64_t n, float* low, float* high) {
  float lows[kLanes], highs[kLanes], odd[kLanes] = {};
  std::fill_n(lows, kLanes, x[0]);
  std::fill_n(highs, kLanes, x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      const float y = x[i + j];
      lows[j] = y < lows[j] ? y : lows[j];
      highs[j] = y > highs[j] ? y : highs[j];
      odd[j] += y - y;  // 0, or NaN for NaN and infinities
    }
  }
  for (int j = 0; i < n; ++i, ++j) {
    lows[j] = x[i] < lows[j] ? x[i] : lows[j];
    highs[j] = x[i] > highs[j] ? x[i] : highs[j];
    odd[j] += x[i] - x[i];
  }
  *low = *std::min_element(lows, lows + kLanes);
  *high = *std::max_element(highs, highs + kLanes);
  if (std::any_of(odd, odd + kLanes, [](float y) { return y != y; }) &&
      std::any_of(x, x + n, [](float y) { return y != y; })) {
    *low = *high = NAN;
  }
}

template <class V>
void scales_of_rows(const void* params, Context& context) {
  const Quantise& p = *static_cast<const Quantise*>(params);
  int64_t begin, end;
  context.share(p.n, 16, &begin, &end);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.weight + row * p.row_step;
    for (int64_t g = 0; g * p.group < p.k; ++g) {
      float low, high;
      ends_of(x + g * p.group, std::min(p.group, p.k - g * p.group), &low, &high);
      float& scale = p.scales[g * p.n + row];
      if (p.bits == 8) {
        const float a = std::fabs(low), b = std::fabs(high);
        scale = (a > b || a != a ? a : b) / 127.0f;
      } else {
        scale = (std::fabs(low) >= std::fabs(high) ? low : high) / -8.0f;
      }
    }
  }
}

// Codes of n floats: (x - offset) / scale to the nearest, ties to even, by what adding a large number does; 0 for NaN.
inline void codes_of(const float* x, int64_t n, float offset, float inverse, float low, float high, int8_t* to) {
  constexpr float whole = 12582912.0f;  // 1.5 * 2^23: what is added to it counts in its lowest bits
  for (int64_t i = 0; i < n; ++i) {
    float y = (x[i] - offset) * inverse;
    y = y == y ? y : 0.0f;
    y = y < low ? low : y;
    y = y > high ? high : y;
    y += whole;
    int32_t bits;
    std::memcpy(&bits, &y, sizeof(bits));
    to[i] = static_cast<int8_t>(bits);
  }
}

inline void store_nibbles(const int8_t* codes, int64_t n, int8_t* to) {
  for (int64_t i = 0; i < n / 2; ++i) {
    to[i] = static_cast<int8_t>((codes[2 * i] & 15) | (codes[2 * i + 1] << 4));
  }
}

template <class V>
void codes_of_rows(const void* params, Context& context) {
  const Quantise& p = *static_cast<const Quantise*>(params);
  const float low = p.bits == 8 ? -128.0f : -8.0f, high = p.bits == 8 ? 127.0f : 7.0f;
  int64_t begin, end;
  context.share(p.n, 16, &begin, &end);
  int8_t block[kCodeBlock];
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.weight + row * p.row_step;
    int8_t* to = p.codes + row * (p.bits == 8 ? p.k : p.k / 2);
    for (int64_t first = 0; first < p.k; first += kCodeBlock) {
      const int64_t last = std::min(first + kCodeBlock, p.k);
      int8_t* codes = p.bits == 8 ? to + first : block;
      for (int64_t k = first; k < last;) {
        const int64_t g = k / p.group, stop = std::min(last, (g + 1) * p.group);
        const int64_t at = g * p.n + row;
        const float offset = p.offsets != nullptr ? p.offsets[at] : 0.0f;
        codes_of(x + k, stop - k, offset, 1.0f / p.scales[at], low, high, codes + k - first);
        k = stop;
      }
      if (p.bits == 4) store_nibbles(block, last - first, to + first / 2);
    }
  }
}

template <class V>
void narrow_floats(const void* params, Context& context) {
  constexpr int W = V::width;
  const Narrow& p = *static_cast<const Narrow*>(params);
  int64_t begin, end;
  context.share(p.count, W, &begin, &end);
  for (; begin + W <= end; begin += W) Codes<V>::store_halves(V::load(p.from + begin), p.to + 2 * begin);
  if (begin == end) return;
  char rest[2 * W];
  Codes<V>::store_halves(V::load_n(p.from + begin, end - begin), rest);
  std::memcpy(p.to + 2 * begin, rest, static_cast<size_t>(2 * (end - begin)));
}

}  // namespace forgec
