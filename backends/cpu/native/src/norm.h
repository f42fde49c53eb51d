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
  float* out = p.out + row * p.size;
  const float size = static_cast<float>(p.size);
  float mean = 0.0f;
  if constexpr (centred) {
    V sum = V::zero();
    for (int64_t i = 0; i < p.size; i += W) sum = sum + load_some<V>(x + i, p.size - i);
    mean = sum.sum() / size;
  }
  const V middle = V::set1(mean);
  V squares = V::zero();
  int64_t i = 0;
  for (; i + W <= p.size; i += W) {
    const V d = V::load(x + i) - middle;
    squares = V::fma(d, d, squares);
  }
  float square = squares.sum();
  for (; i < p.size; ++i) square += (x[i] - mean) * (x[i] - mean);
  const V scale = V::set1(1.0f / std::sqrt(square / size + p.eps));
  for (i = 0; i < p.size; i += W) {
    const int64_t n = p.size - i;
    V y = (load_some<V>(x + i, n) - middle) * scale;
    if (p.weight != nullptr) y = y * load_some<V>(p.weight + i, n);
    if (p.bias != nullptr) y = y + load_some<V>(p.bias + i, n);
    store_some(y, out + i, n);
  }
}

template <class V, bool centred>
void norm(const void* params, Context& context) {
  const Norm& p = *static_cast<const Norm*>(params);
  int64_t begin, end;
  context.share(p.rows, 1, &begin, &end);
  for (int64_t row = begin; row < end; ++row) norm_row<V, centred>(p, row);
}

}  // namespace forgec
