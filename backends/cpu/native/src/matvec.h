// Matrices times vectors: every row of the left factors is read once, where it lies.
#pragma once

#include "params.h"
#include "walk.h"

namespace forgec {

// Sums of the products of four rows with a vector.
template <class V>
void four_dots(const float* a, int64_t a_row, const float* x, int64_t k, float* y) {
  V sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  int64_t i = 0;
  for (; i + V::width <= k; i += V::width) {
    const V v = V::load(x + i);
#pragma GCC unroll 4
    for (int row = 0; row < 4; ++row) sums[row] = V::add_product(sums[row], V::load(a + row * a_row + i), v);
  }
  if (i < k) {
    const V v = V::load_n(x + i, k - i);
#pragma GCC unroll 4
    for (int row = 0; row < 4; ++row) sums[row] = V::add_product(sums[row], V::load_n(a + row * a_row + i, k - i), v);
  }
  V::sums(sums, y);
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
    for (; rows >= 4; rows -= 4, a += 4 * g.a_row, y += 4) four_dots<V>(a, g.a_row, x, g.k, y);
    float rest[4];
    for (; rows > 0; --rows, a += g.a_row, ++y) {
      four_dots<V>(a, 0, x, g.k, rest);
      *y = rest[0];
    }
  }
}

}  // namespace forgec
