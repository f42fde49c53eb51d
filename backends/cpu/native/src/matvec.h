// Matrices times vectors: every row of the left factors is read once, where it lies, along k.
#pragma once

#include "params.h"
#include "walk.h"

namespace forgec {

// Sums of the products of four rows with each of R vectors: y[r] has four.
template <class V, int R>
void four_dots(const float* a, int64_t a_row, const float* const* x, int64_t k, float* const* y) {
  V sums[R][4];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int row = 0; row < 4; ++row) sums[r][row] = V::zero();
  }
  const auto step = [&](const auto& load) __attribute__((always_inline)) {
    V rows[4];
#pragma GCC unroll 4
    for (int row = 0; row < 4; ++row) rows[row] = load(a + row * a_row);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const V v = load(x[r]);
#pragma GCC unroll 4
      for (int row = 0; row < 4; ++row) sums[r][row] = V::add_product(sums[r][row], rows[row], v);
    }
  };
  int64_t i = 0;
  for (; i + V::width <= k; i += V::width) step([&](const float* from) { return V::load(from + i); });
  if (i < k) step([&](const float* from) { return V::load_n(from + i, k - i); });
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) V::sums(sums[r], y[r]);
}

// Products of matrices [m, k], contiguous along k, with contiguous vectors [k, 1].
template <class V>
void matvec(const void* params, Context& context) {
  const Matmul& p = *static_cast<const Matmul*>(params);
  const Gemm& g = p.gemm;
  int64_t members = 1, begin, end;
  for (int i = 0; i < p.rank; ++i) members *= p.shape[i];
  context.share(members * g.m, 4, &begin, &end);
  while (begin < end) {
    const int64_t member = begin / g.m, row = begin % g.m;
    const Index index(p.rank, p.shape, member);
    const float* a = g.a + index.offset(p.a_step) + row * g.a_row;
    const float* x = p.b + index.offset(p.b_step);
    int64_t rows = g.m - row < end - begin ? g.m - row : end - begin;
    float* y = g.c + begin;
    begin += rows;
    for (; rows >= 4; rows -= 4, a += 4 * g.a_row, y += 4) four_dots<V, 1>(a, g.a_row, &x, g.k, &y);
    float rest[4];
    float* const to = rest;
    for (; rows > 0; --rows, a += g.a_row, ++y) {
      four_dots<V, 1>(a, 0, &x, g.k, &to);
      *y = rest[0];
    }
  }
}

}  // namespace forgec
