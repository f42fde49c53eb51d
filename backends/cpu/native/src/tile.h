// The register tile: C[rows, 2 vectors] (+)= A[rows, k] B[k, 2 vectors], all of C in registers.
//
// One instance per number of rows, so that uneven row counts divide into nearly equal tiles and none is
// half empty. A is read by broadcasting single elements, B by whole vectors.
#pragma once

#include <type_traits>
#include <utility>

#include "params.h"

namespace forgec {

struct TileArgs {
  int64_t k;
  const float* a;
  int64_t a_row;      // elements between rows of A where it is not packed
  const float* b;
  int64_t b_row;      // elements between rows of B
  float* c;
  int64_t c_row;
  int64_t cols;       // columns of C, at most two vectors
  bool accumulate;    // add to C instead of replacing it
  const char* ahead;  // what to have in the second-level cache soon, `ahead_step` bytes for every two k
  int64_t ahead_step;
};

// How element (row, k) of A is found. Packed: [k][rows]. In rows: [rows][k], `a_row` apart.
enum class Left { packed, rows };

template <class V, int R, Left left, bool tail>
void tile(const TileArgs& t) {
  constexpr int W = V::width;
  // Few rows have few independent sums; several partial sums over k hide the latency of the multiply-add.
  constexpr int parts = R == 1 ? 4 : R <= 3 ? 2 : 1;
  V sum[parts][R][2];
#pragma GCC unroll 4
  for (int p = 0; p < parts; ++p) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) sum[p][i][0] = sum[p][i][1] = V::zero();
  }
  const float* a = t.a;
  const float* b = t.b;
  const int64_t n1 = t.cols - W;
  const auto step = [&](V(&s)[R][2]) __attribute__((always_inline)) {
    const V b0 = tail ? V::load_n(b, t.cols) : V::load(b);
    const V b1 = tail ? (n1 > 0 ? V::load_n(b + W, n1) : V::zero()) : V::load(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const V x = V::set1(left == Left::packed ? a[i] : a[i * t.a_row]);
      s[i][0] = V::fma(x, b0, s[i][0]);
      s[i][1] = V::fma(x, b1, s[i][1]);
    }
    if constexpr (R <= 4 && !tail) {  // memory bound: stay ahead of the processor's own prefetcher
      __builtin_prefetch(b + 24 * kPanel);
      if constexpr (W == 16) __builtin_prefetch(b + 24 * kPanel + W);
    }
    a += left == Left::packed ? R : 1;
    b += t.b_row;
  };
  int64_t k = t.k;
  if constexpr (parts > 1) {
    for (; k >= parts; k -= parts) {
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) step(sum[p]);
    }
  }
  const char* ahead = t.ahead;
  for (; k >= 2; k -= 2) {
    step(sum[0]);
    step(sum[0]);
    __builtin_prefetch(ahead, 0, 2);
    ahead += t.ahead_step;
  }
  if (k > 0) step(sum[0]);
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
    for (int p = 1; p < parts; ++p) {
      sum[0][i][0] = sum[0][i][0] + sum[p][i][0];
      sum[0][i][1] = sum[0][i][1] + sum[p][i][1];
    }
    float* c = t.c + i * t.c_row;
    if (t.accumulate) {  // last, so that a block is summed at its own precision
      sum[0][i][0] = sum[0][i][0] + (tail ? V::load_n(c, t.cols) : V::load(c));
      if (!tail || n1 > 0) sum[0][i][1] = sum[0][i][1] + (tail ? V::load_n(c + W, n1) : V::load(c + W));
    }
    if (tail) {
      sum[0][i][0].store_n(c, t.cols);
      if (n1 > 0) sum[0][i][1].store_n(c + W, n1);
    } else {
      sum[0][i][0].store(c);
      sum[0][i][1].store(c + W);
    }
  }
}

using TileFunction = void (*)(const TileArgs&);

template <class V>
struct TileTable {
  TileFunction of_rows[V::tile_rows + 1];
};

template <class V, Left left, bool tail, int... R>
constexpr TileTable<V> make_tile_table(std::integer_sequence<int, R...>) {
  return {{nullptr, &tile<V, R + 1, left, tail>...}};
}

template <class V, Left left>
void run_tile(int rows, const TileArgs& t) {
  static constexpr auto full = make_tile_table<V, left, false>(std::make_integer_sequence<int, V::tile_rows>());
  static constexpr auto partial = make_tile_table<V, left, true>(std::make_integer_sequence<int, V::tile_rows>());
  (t.cols == 2 * V::width ? full : partial).of_rows[rows](t);
}

// dst[j * dst_row + i] = src[i * src_row + j] for any size, block by block.
template <class V>
void transpose(const float* src, int64_t src_row, int64_t rows, int64_t cols, float* dst, int64_t dst_row) {
  constexpr int W = V::width;
  for (int64_t i = 0; i < rows; i += W) {
    const int count = static_cast<int>(rows - i < W ? rows - i : W);
    int64_t j = 0;
    for (; j + W <= cols; j += W) V::transpose(src + i * src_row + j, src_row, count, dst + j * dst_row + i, dst_row);
    for (; j < cols; ++j) {
      for (int64_t r = i; r < i + count; ++r) dst[j * dst_row + r] = src[r * src_row + j];
    }
  }
}

}  // namespace forgec
