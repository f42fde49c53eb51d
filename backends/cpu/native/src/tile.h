// The register tile: C[rows, N vectors] (+)= A[rows, k] B[k, N vectors], all of C in registers.
//
// One instance per number of rows, so that uneven row counts divide into nearly equal tiles and none is
// half empty. A is read by broadcasting single elements, B by whole vectors; an element is a word, a number or
// several that stand for as many k (`Words`). What bounds a tile besides its
// multiply-adds is its loads, R + N for R x N of them: hence tiles closer to square than two vectors wide
// where there are registers for it.
#pragma once

#include <type_traits>
#include <utility>

#include "params.h"

namespace forgec {

constexpr int64_t kFetchAhead = 16 * kPanel;    // of B

struct TileArgs {
  int64_t k;
  const float* a;
  int64_t a_row;      // elements between rows of A where that is not kLeftRow
  const float* b;
  int64_t b_row;      // elements between rows of B
  float* c;
  int64_t c_row;
  int64_t cols;       // columns of C, at most N vectors
  bool accumulate;    // add to C instead of replacing it
  const char* ahead;  // what to have in the second-level cache soon, `ahead_step` bytes for every two k
  int64_t ahead_step;
};

// How far apart rows of A are: `a_row`, or kLeftRow in a copied block.
enum class Left { rows, block };

// Words of a factor that are numbers of V.
template <class V>
struct Singles {
  static constexpr int per_word = 1;
  static V add_product(V sum, V x, V y) { return V::add_product(sum, x, y); }
};

template <class V, int R, int N, Left left, bool tail, class Words>
void tile(const TileArgs& t) {
  constexpr int W = V::width;
  // Few rows have few independent sums; several partial sums over k hide the latency of the multiply-add.
  constexpr int parts = R == 1 && N <= 4 ? 4 : R * N <= 6 ? 2 : 1;
  V sum[parts * R * N];
#pragma GCC unroll 64
  for (int i = 0; i < parts * R * N; ++i) sum[i] = V::zero();
  const float* a = t.a;
  const float* b = t.b;
#pragma GCC unroll 16
  for (int i = 0; i < R && R > 4; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < N; j += kLine / W) __builtin_prefetch(t.c + i * t.c_row + j * W, 1);
  }
  const int64_t last = t.cols - (N - 1) * W;  // columns of the last vector
  const auto load = [&](const float* from, int j) __attribute__((always_inline)) {
    return tail && j == N - 1 ? V::load_n(from + j * W, last) : V::load(from + j * W);
  };
  // One k, `u` after where a and b point.
  const auto step = [&](int part, int u) __attribute__((always_inline)) {
    const float* from = b + u * t.b_row;
    V y[N];
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) y[j] = load(from, j);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const V x = V::set1(a[i * (left == Left::block ? kLeftRow : t.a_row) + u]);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        V& s = sum[(part * R + i) * N + j];
        s = Words::add_product(s, x, y[j]);
      }
    }
    if constexpr (R <= 4 && !tail) {  // memory bound: stay ahead of the processor's own prefetcher
#pragma GCC unroll 8
      for (int j = 0; j < N; j += kLine / W) __builtin_prefetch(from + kFetchAhead + j * W);
    }
  };
  const auto advance = [&](int steps) __attribute__((always_inline)) {
    a += steps;
    b += steps * t.b_row;
  };
  int64_t k = t.k;
  if constexpr (parts > 1) {
    for (; k >= parts; k -= parts) {
#pragma GCC unroll 4
      for (int p = 0; p < parts; ++p) step(p, p);
      advance(parts);
    }
  }
  const char* ahead = t.ahead;
  constexpr int skip = Words::per_word == 1 ? 2 : 1;  // as many fetches for every two k
  // Rows of a copied block are too many streams for the processor's prefetcher; four rounds fetch a line of each: of this tile, or of
  // the next one where registers, and so tiles, are so small that both stay in the nearest cache.
  constexpr bool whole_tile = W <= 8;
  const float* soon = t.a + (whole_tile ? R * kLeftRow : 2 * kLine);
  int turn = 0;
  for (; k >= 4; k -= 4) {
    if constexpr (left == Left::block && R > 4) {
      if (!whole_tile && k == 2 * kLine) soon = t.a + R * kLeftRow - (t.k - 2 * kLine);  // the next tile's rows
      const float* at = soon + (a - t.a) + turn * kLeftRow;
#pragma GCC unroll 4
      for (int i = 0; i < R; i += 4) __builtin_prefetch(at + i * kLeftRow);
      turn = (turn + 1) & 3;
    }
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      step(0, u);
      if (u % skip == 0) __builtin_prefetch(ahead + u / skip * t.ahead_step, 0, 2);
    }
    advance(4);
    ahead += 4 / skip * t.ahead_step;
  }
  for (; k > 0; --k) {
    step(0, 0);
    advance(1);
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    float* c = t.c + i * t.c_row;
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {
      V y = sum[i * N + j];
#pragma GCC unroll 4
      for (int p = 1; p < parts; ++p) y = y + sum[(p * R + i) * N + j];
      if (t.accumulate) y = y + load(c, j);  // last, so that a block is summed at its own precision
      if (tail && j == N - 1) {
        y.store_n(c + j * W, last);
      } else {
        y.store(c + j * W);
      }
    }
  }
}

using TileFunction = void (*)(const TileArgs&);

template <class V, int N>
struct TileTable {
  TileFunction of_rows[V::most_rows(N) + 1];
};

template <class V, int N, Left left, bool tail, class Words, int... R>
constexpr TileTable<V, N> make_tile_table(std::integer_sequence<int, R...>) {
  return {{nullptr, &tile<V, R + 1, N, left, tail, Words>...}};
}

// `rows` is at most V::most_rows(N) and `t.cols` at most N vectors.
template <class V, Left left, int N = V::tile_vectors, class Words = Singles<V>>
void run_tile(int rows, const TileArgs& t) {
  static constexpr auto counts = std::make_integer_sequence<int, V::most_rows(N)>();
  static constexpr auto full = make_tile_table<V, N, left, false, Words>(counts);
  static constexpr auto partial = make_tile_table<V, N, left, true, Words>(counts);
  if constexpr (N > 1) {
    if (t.cols <= (N - 1) * V::width) return run_tile<V, left, N - 1, Words>(rows, t);
  }
  (t.cols == N * V::width ? full : partial).of_rows[rows](t);
}

// `transpose` of at most R rows, a column at a time: their columns in `dst` are shorter than what vectors would store.
template <class V, int R>
void transpose_few(const float* src, int64_t src_row, int64_t rows, int64_t cols, float* dst, int64_t dst_row) {
  if constexpr (R > 1) {
    if (rows < R) return transpose_few<V, R - 1>(src, src_row, rows, cols, dst, dst_row);
  }
  for (int64_t j = 0; j < cols; ++j) {
    for (int r = 0; r < R; ++r) dst[j * dst_row + r] = src[r * src_row + j];
  }
}

// dst[j * dst_row + i] = src[i * src_row + j] for any size, block by block.
template <class V>
void transpose(const float* src, int64_t src_row, int64_t rows, int64_t cols, float* dst, int64_t dst_row) {
  constexpr int W = V::width, few = W / 4;
  for (int64_t i = 0; i < rows; i += W) {
    if (rows - i <= few) return transpose_few<V, few>(src + i * src_row, src_row, rows - i, cols, dst + i, dst_row);
    const int count = static_cast<int>(rows - i < W ? rows - i : W);
    int64_t j = 0;
    for (; j + W <= cols; j += W) V::transpose(src + i * src_row + j, src_row, count, dst + j * dst_row + i, dst_row);
    for (; j < cols; ++j) {
      for (int64_t r = i; r < i + count; ++r) dst[j * dst_row + r] = src[r * src_row + j];
    }
  }
}

// dst[i * dst_row + j] = src[i * src_row + j * src_col] for any size.
template <class V>
void copy_rows(const float* src, int64_t src_row, int64_t src_col, int64_t rows, int64_t cols, float* dst,
               int64_t dst_row) {
  if (src_row == 1 && src_col != 1) return transpose<V>(src, src_col, cols, rows, dst, dst_row);
  for (int64_t i = 0; i < rows; ++i, src += src_row, dst += dst_row) {
    int64_t j = 0;
    for (; src_col == 1 && j + V::width <= cols; j += V::width) V::load(src + j).store(dst + j);
    if (src_col == 1 && j < cols) {
      V::load_n(src + j, cols - j).store_n(dst + j, cols - j);
    } else {
      for (; j < cols; ++j) dst[j] = src[j * src_col];
    }
  }
}

}  // namespace forgec
