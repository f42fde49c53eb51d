// Matrix products on packed panels.
//
// The left factor is copied by all threads into [k block][row][kLeftRow], then threads take tasks of a
// few panels times a block of rows. Within a task a block of one panel (192 x 48 floats) stays in the nearest
// caches while the tiles of the left factor pass over it; meanwhile every tile fetches a part of the next block.
// A block is summed in registers, from zero, and added to what is in C. Then comes the same block of k of the
// task's next panel, so that what is read of the left factor stays in the second-level cache.
// Bias, activation and residual are applied to a tile of C right after its last block.
#pragma once

#include <cstring>

#include "tasks.h"
#include "tile.h"
#include "vec_math.h"
#include "walk.h"

namespace forgec {

constexpr int64_t kThinDepth = 1024;  // k per block where the left factor is not packed

template <class V, Act act>
void finish_rows(const Gemm& g, int64_t row, int64_t rows, int64_t col, int64_t cols, bool add_residual) {
  constexpr int W = V::width;
  for (int64_t i = row; i < row + rows; ++i) {
    float* c = g.c + i * g.ldc + col;
    const float* residual = add_residual ? g.residual + i * g.ldr + col : nullptr;
    const V shift = V::set1(g.row_bias != nullptr ? g.row_bias[i] : 0.0f);
    for (int64_t j = 0; j < cols; j += W) {
      const int64_t n = cols - j;
      V y = n >= W ? V::load(c + j) : V::load_n(c + j, n);
      if (g.bias != nullptr) y = y + (n >= W ? V::load(g.bias + col + j) : V::load_n(g.bias + col + j, n));
      y = activate<V, act>(y + shift);
      if (residual != nullptr) y = y + (n >= W ? V::load(residual + j) : V::load_n(residual + j, n));
      if (n >= W) {
        y.store(c + j);
      } else {
        y.store_n(c + j, n);
      }
    }
  }
}

// f(integral_constant<int, 0>), f(integral_constant<int, 1>), ...
template <class F, int... j>
__attribute__((always_inline)) inline void each(std::integer_sequence<int, j...>, const F& f) {
  (f(std::integral_constant<int, j>()), ...);
}

// f(integral_constant<Act, act>)
template <class F>
void with_act(Act act, const F& f) {
  switch (act) {
    case Act::none: return f(std::integral_constant<Act, Act::none>());
    case Act::gelu: return f(std::integral_constant<Act, Act::gelu>());
    case Act::gelu_tanh: return f(std::integral_constant<Act, Act::gelu_tanh>());
    case Act::relu: return f(std::integral_constant<Act, Act::relu>());
    case Act::silu: return f(std::integral_constant<Act, Act::silu>());
    case Act::sigmoid: return f(std::integral_constant<Act, Act::sigmoid>());
    case Act::tanh: return f(std::integral_constant<Act, Act::tanh>());
  }
}

template <class V>
void finish(const Gemm& g, int64_t row, int64_t rows, int64_t col, int64_t cols, bool add_residual) {
  if (g.act == Act::none && g.bias == nullptr && g.row_bias == nullptr && !add_residual) return;
  with_act(g.act, [&](auto act) { finish_rows<V, decltype(act)::value>(g, row, rows, col, cols, add_residual); });
}

template <class V>
void pack_left(const Gemm& g, Context& context) {
  int64_t begin, end;
  context.share(g.m, 1, &begin, &end);
  const int64_t step = g.a_col == 1 ? 1 : end - begin;  // rows are read from end to end, columns transposed
  for (int64_t row = begin; row < end; row += step) {
    for (int64_t k = 0; k < g.k; k += kDepth) {
      const int64_t depth = g.k - k < kDepth ? g.k - k : kDepth;
      float* to = g.packed_a + (k / kDepth * g.m + row) * kLeftRow;
      copy_rows<V>(g.a + row * g.a_row + k * g.a_col, g.a_row, g.a_col, step, depth, to, kLeftRow);
    }
  }
}

inline const float* left_block(const Gemm& g, int64_t row, int64_t k) {
  return g.packed_a + (k / kDepth * g.m + row) * kLeftRow;
}

// Whether registers hold sums of a whole panel.
template <class V>
constexpr bool kWholePanel = kPanel / V::width <= 6;

// A single row is bound by memory: its tile is a whole panel, which is read as it lies there.
template <class V>
void single_row(const TileArgs& args) {
  if constexpr (kWholePanel<V>) tile<V, 1, kPanel / V::width, Left::rows, false, Singles<V>>(args);
}

// One block of a panel, [k, k + depth), times tiles [first, last); `next` is the block that comes after it.
template <class V>
void multiply_block(const Gemm& g, const Tiles& tiles, int64_t panel, int64_t k, int64_t depth, const float* next,
                    int64_t first, int64_t last) {
  const bool single = kWholePanel<V> && g.m == 1 && g.packed_a == nullptr && g.n - panel * kPanel >= kPanel;
  const int64_t width = single ? kPanel : V::tile_vectors * V::width;
  const bool in_place = g.residual == g.c && g.residual != nullptr;
  const int64_t col = panel * kPanel;
  const int64_t cols = g.n - col < kPanel ? g.n - col : kPanel;
  const float* block = g.b + panel * kPanel * g.k + k * kPanel;
  const int64_t part = depth * kPanel * 4 / (last - first);  // every tile fetches its part of the next block
  for (int64_t sub = 0; sub < cols; sub += width) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = tiles.start(t);
      const int rows = tiles.rows(t);
      TileArgs args;
      args.k = depth;
      args.b = block + sub;
      args.b_row = kPanel;
      args.c = g.c + row * g.ldc + col + sub;
      args.c_row = g.ldc;
      args.cols = cols - sub < width ? cols - sub : width;
      args.accumulate = k > 0 || in_place;
      args.ahead = reinterpret_cast<const char*>(next) + (t - first) * part;
      args.ahead_step = part * 2 / depth;
      if (g.packed_a != nullptr) {
        args.a = left_block(g, row, k);
        run_tile<V, Left::block>(rows, args);
      } else {
        args.a = g.a + row * g.a_row + k;
        args.a_row = g.a_row;
        single ? single_row<V>(args) : run_tile<V, Left::rows>(rows, args);
      }
      if (k + depth >= g.k) finish<V>(g, row, rows, col + sub, args.cols, g.residual != nullptr && !in_place);
    }
  }
}

// Panels [begin, end) times tiles [first, last), block of k by block of k; with few rows, where nothing is reused,
// panel by panel as they lie in memory.
template <class V>
void multiply_panels(const Gemm& g, const Tiles& tiles, int64_t begin, int64_t end, int64_t first, int64_t last) {
  const bool by_depth = g.packed_a != nullptr;
  const int64_t step = by_depth ? kDepth : kThinDepth;
  const int64_t steps = (g.k + step - 1) / step, count = end - begin;
  for (int64_t i = 0; i < steps * count; ++i) {
    const auto place = [&](int64_t number, int64_t* panel, int64_t* k) {
      *panel = begin + (by_depth ? number % count : number / steps);
      *k = (by_depth ? number / count : number % steps) * step;
    };
    int64_t panel, k, next_panel, next_k;
    place(i, &panel, &k);
    place(i + 1 < steps * count ? i + 1 : i, &next_panel, &next_k);
    const int64_t depth = g.k - k < step ? g.k - k : step;
    multiply_block<V>(g, tiles, panel, k, depth, g.b + (next_panel * g.k + next_k) * kPanel, first, last);
  }
}

// The product without dimension k: only bias, activation and residual are left.
template <class V>
void multiply_nothing(const Gemm& g) {
  for (int64_t i = 0; i < g.m; ++i) {
    for (int64_t j = 0; j < g.n && g.residual != g.c; ++j) g.c[i * g.ldc + j] = 0.0f;
  }
  finish<V>(g, 0, g.m, 0, g.n, g.residual != nullptr && g.residual != g.c);
}

// All threads; the left factor is not yet packed. Ends without a barrier.
template <class V>
void gemm(const Gemm& g, Context& context) {
  if (g.k == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const Tiles tiles(g.m, V::tile_rows);
  if (g.packed_a != nullptr) {
    pack_left<V>(g, context);
    context.barrier();
  }
  run_tasks((g.n + kPanel - 1) / kPanel, g.m, tiles.count, context, [&](const Task& task) {
    multiply_panels<V>(g, tiles, task.begin, task.end, task.first, task.last);
  });
}

// Floats of working memory that gemm() wants.
template <class V>
int64_t product_floats(int64_t m, int64_t k, int) {
  return left_floats(m, k);
}

// What does a product as gemm() does.
using Product = void (*)(const Gemm&, Context&);

template <class V, Product product = gemm<V>>
void linear(const void* params, Context& context) {
  product(*static_cast<const Gemm*>(params), context);
}

// Panels [begin, end) of a right factor [k, n] that lies anywhere in memory, to where panel 0 would be at `to`.
template <class V>
void pack_panels(const float* b, int64_t b_row, int64_t b_col, int64_t k, int64_t n, int64_t begin, int64_t end,
                 float* to) {
  for (int64_t panel = begin; panel < end; ++panel) {
    const int64_t col = panel * kPanel, cols = n - col < kPanel ? n - col : kPanel;
    float* out = to + panel * kPanel * k;
    const float* from = b + col * b_col;
    if (b_row == 1) {
      transpose<V>(from, b_col, cols, k, out, kPanel);
    } else if (b_col == 1) {
      for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * kPanel, from + i * b_row, cols * sizeof(float));
    } else {
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = 0; j < cols; ++j) out[i * kPanel + j] = from[i * b_row + j * b_col];
      }
    }
    for (int64_t i = 0; cols < kPanel && i < k; ++i) {
      for (int64_t j = cols; j < kPanel; ++j) out[i * kPanel + j] = 0.0f;
    }
  }
}

template <class V, Product product = gemm<V>>
void matmul(const void* params, Context& whole) {
  const Matmul& p = *static_cast<const Matmul*>(params);
  int64_t first = 0, last = 1;
  for (int i = 0; i < p.rank; ++i) last *= p.shape[i];
  Context alone;
  if (p.alone) whole.share(last, 1, &first, &last);
  Context& context = p.alone ? alone : whole;
  Gemm g = p.gemm;
  if (p.alone) {
    g.b += whole.thread * p.room_floats;
    if (g.packed_a != nullptr) g.packed_a += whole.thread * p.left_floats;
  }
  Index index(p.rank, p.shape, first);
  for (int64_t member = first; member < last; ++member, index.advance(1)) {
    const float* b = p.b + index.offset(p.b_step);
    g.a = p.gemm.a + index.offset(p.a_step);
    g.c = p.gemm.c + member * g.m * g.ldc;
    if (member > first) context.barrier();  // the room for packed factors is free again
    int64_t begin, end;
    context.share((g.n + kPanel - 1) / kPanel, 1, &begin, &end);
    pack_panels<V>(b, p.b_row, p.b_col, g.k, g.n, begin, end, const_cast<float*>(g.b));
    if (g.packed_a == nullptr || g.k == 0) context.barrier();  // else a product has one after packing the left
    product(g, context);
  }
}

}  // namespace forgec
