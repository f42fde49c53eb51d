// Softmax and its logarithm, on the last axis and on any other, and rotary position embedding.
#pragma once

#include <cmath>

#include "norm.h"
#include "vec_math.h"

namespace forgec {

constexpr int64_t kColumns = 128;  // columns done together when the axis is not the last

template <class V>
void softmax_row(const float* x, float* out, int64_t size, bool logarithm) {
  constexpr int W = V::width;
  const V lowest = V::set1(-__builtin_inff());
  V top = lowest;
  int64_t i = 0;
  for (; i + W <= size; i += W) top = V::max(top, V::load(x + i));
  float largest = top.largest();
  for (; i < size; ++i) largest = x[i] > largest ? x[i] : largest;
  const V shift = V::set1(largest);
  V sum = V::zero();
  for (i = 0; i + W <= size; i += W) {
    const V d = V::load(x + i) - shift, e = exp(d);
    (logarithm ? d : e).store(out + i);
    sum = sum + e;
  }
  float total = sum.sum();
  if (i < size) {
    const V d = V::load_n(x + i, size - i) - shift, e = exp(d);
    (logarithm ? d : e).store_n(out + i, size - i);
    float rest[W];
    e.store(rest);
    for (int64_t j = 0; j < size - i; ++j) total += rest[j];
  }
  const V factor = V::set1(1.0f / total), term = V::set1(std::log(total));
  for (i = 0; i < size; i += W) {
    const V y = load_some<V>(out + i, size - i);
    store_some(logarithm ? y - term : y * factor, out + i, size - i);
  }
}

template <class V>
void softmax_last(const void* params, Context& context) {
  const Softmax& p = *static_cast<const Softmax*>(params);
  int64_t begin, end;
  context.share(p.outer, 1, &begin, &end);
  for (int64_t row = begin; row < end; ++row) softmax_row<V>(p.x + row * p.size, p.out + row * p.size, p.size, p.log);
}

// Columns [0, n) of one [size, inner] matrix.
template <class V>
void softmax_columns(const float* x, float* out, int64_t size, int64_t inner, int64_t n, bool logarithm) {
  constexpr int W = V::width;
  for (int64_t j = 0; j < n; j += W) {
    const int64_t m = n - j;
    V top = V::set1(-__builtin_inff()), sum = V::zero();
    for (int64_t i = 0; i < size; ++i) top = V::max(top, load_some<V>(x + i * inner + j, m));
    for (int64_t i = 0; i < size; ++i) {
      const V d = load_some<V>(x + i * inner + j, m) - top, e = exp(d);
      store_some(logarithm ? d : e, out + i * inner + j, m);
      sum = sum + e;
    }
    V term = sum;
    if (logarithm) {
      float lanes[W];
      sum.store(lanes);
      for (int lane = 0; lane < W; ++lane) lanes[lane] = std::log(lanes[lane]);
      term = V::load(lanes);
    }
    for (int64_t i = 0; i < size; ++i) {
      const V y = load_some<V>(out + i * inner + j, m);
      store_some(logarithm ? y - term : y / term, out + i * inner + j, m);
    }
  }
}

template <class V>
void softmax_axis(const void* params, Context& context) {
  const Softmax& p = *static_cast<const Softmax*>(params);
  const int64_t groups = (p.inner + kColumns - 1) / kColumns;
  int64_t begin, end;
  context.share(p.outer * groups, 1, &begin, &end);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t col = task % groups * kColumns, start = task / groups * p.size * p.inner + col;
    const int64_t n = p.inner - col < kColumns ? p.inner - col : kColumns;
    softmax_columns<V>(p.x + start, p.out + start, p.size, p.inner, n, p.log);
  }
}

// One row: the first of a pair takes first * cos - second * sin, the second second * cos + first * sin.
template <class V>
void rope_row(const Rope& p, const float* x, const float* cos, const float* sin, float* out) {
  const int64_t half = p.rotary / 2;
  int64_t i = 0;
  if (!p.interleaved && p.x_last == 1 && p.cos_last == 1) {
    for (; i + V::width <= half; i += V::width) {
      const V a = V::load(x + i), b = V::load(x + half + i);
      V::fma(a, V::load(cos + i), V::zero() - b * V::load(sin + i)).store(out + i);
      V::fma(b, V::load(cos + half + i), a * V::load(sin + half + i)).store(out + half + i);
    }
  }
  for (; i < half; ++i) {
    const int64_t first = p.interleaved ? 2 * i : i, second = p.interleaved ? 2 * i + 1 : half + i;
    const float a = x[first * p.x_last], b = x[second * p.x_last];
    out[first] = a * cos[first * p.cos_last] - b * sin[first * p.cos_last];
    out[second] = b * cos[second * p.cos_last] + a * sin[second * p.cos_last];
  }
  for (i = p.rotary; i < p.size; ++i) out[i] = x[i * p.x_last];
}

template <class V>
void rope(const void* params, Context& context) {
  const Rope& p = *static_cast<const Rope*>(params);
  int64_t begin, end;
  context.share(p.rows, 1, &begin, &end);
  int64_t index[kMaxRank] = {};
  int64_t rest = begin;
  for (int i = p.rank - 1; i >= 0; --i) {
    index[i] = rest % p.shape[i];
    rest /= p.shape[i];
  }
  for (int64_t row = begin; row < end; ++row) {
    int64_t x = 0, c = 0;
    for (int i = 0; i < p.rank; ++i) {
      x += index[i] * p.x_step[i];
      c += index[i] * p.cos_step[i];
    }
    rope_row<V>(p, p.x + x, p.cos + c, p.sin + c, p.out + row * p.size);
    for (int i = p.rank - 1; i >= 0 && ++index[i] == p.shape[i]; --i) index[i] = 0;
  }
}

}  // namespace forgec
