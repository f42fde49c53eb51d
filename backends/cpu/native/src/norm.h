// Layer and root-mean-square normalisation of rows, after adding a residual where there is one. Statistics take
// two passes over a row, which stays in the first-level cache.
#pragma once

#include <cmath>

#include "params.h"

namespace forgec {

template <class V>
V load_some(const float* p, int64_t n) {
  return n >= V::width ? V::load(p) : V::load_n(p, n);
}

template <class V>
void store_some(V x, float* p, int64_t n) {
  if (n >= V::width) {
    x.store(p);
  } else {
    x.store_n(p, n);
  }
}

// f(sum, i) over the whole vectors of a row, begun with zero: the total of four sums, since one would wait for itself.
// `*rest` is where they end.
template <class V, class F>
float sum_vectors(int64_t size, int64_t* rest, const F& f) {
  constexpr int W = V::width;
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + 4 * W <= size; i += 4 * W) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) sums[j] = f(sums[j], i + j * W);
  }
  for (; i + W <= size; i += W) sums[0] = f(sums[0], i);
  *rest = i;
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).sum();
}

// The row to normalise: x itself, or x + residual, which is written to `total`.
template <class V>
const float* norm_input(const Norm& p, int64_t row) {
  const float* x = p.x + row * p.x_row;
  if (p.residual == nullptr) return x;
  const float* residual = p.residual + row * p.residual_row;
  float* total = p.total + row * p.size;
  for (int64_t i = 0; i < p.size; i += V::width) {
    store_some(load_some<V>(x + i, p.size - i) + load_some<V>(residual + i, p.size - i), total + i, p.size - i);
  }
  return total;
}

template <class V, bool centred>
void norm_row(const Norm& p, int64_t row) {
  constexpr int W = V::width;
  const float* x = norm_input<V>(p, row);
  const float* next = p.x + (row + 1) * p.x_row;
  float* out = p.out + row * p.size;
  const float size = static_cast<float>(p.size);
  float mean = 0.0f;
  int64_t i;
  if constexpr (centred) {
    float sum = sum_vectors<V>(p.size, &i, [&](V so_far, int64_t j) { return so_far + V::load(x + j); });
    for (; i < p.size; ++i) sum += x[i];
    mean = sum / size;
  }
  const V middle = V::set1(mean);
  float square = sum_vectors<V>(p.size, &i, [&](V so_far, int64_t j) {
    const V d = V::load(x + j) - middle;
    __builtin_prefetch(next + j);  // the row after this one
    __builtin_prefetch(out + j, 1);
    return V::fma(d, d, so_far);
  });
  for (; i < p.size; ++i) square += (x[i] - mean) * (x[i] - mean);
  const V scale = V::set1(1.0f / std::sqrt(square / size + p.eps)), none = V::zero();
  const auto scaled = [&](V y, const auto& load) __attribute__((always_inline)) {
    y = (y - middle) * scale;
    if (p.weight == nullptr) return p.bias == nullptr ? y : y + load(p.bias);
    return V::fma(y, load(p.weight), p.bias == nullptr ? none : load(p.bias));
  };
  for (i = 0; i + W <= p.size; i += W) {
    scaled(V::load(x + i), [&](const float* from) { return V::load(from + i); }).store(out + i);
  }
  const int64_t n = p.size - i;
  if (n > 0) scaled(V::load_n(x + i, n), [&](const float* from) { return V::load_n(from + i, n); }).store_n(out + i, n);
}

template <class V, bool centred>
void norm(const void* params, Context& context) {
  const Norm& p = *static_cast<const Norm*>(params);
  int64_t begin, end;
  context.share(p.rows, 1, &begin, &end);
  for (int64_t row = begin; row < end; ++row) norm_row<V, centred>(p, row);
}

}  // namespace forgec
