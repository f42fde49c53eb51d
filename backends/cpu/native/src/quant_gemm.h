// Matrix products with compressed weights.
//
// Few rows: memory is the limit, so each word of codes is decoded in registers and used once for every row; sums
// of a group are scaled at its end. Many rows: a block of a panel is decoded to floats that stay in the nearest
// cache, scales included, and the tiles of the left factor pass over it as in gemm.h.
#pragma once

#include "gemm.h"
#include "quant_codes.h"

namespace forgec {

static_assert(kDepth % 8 == 0, "a block of a panel has whole words");

inline const float* scales_of(const QuantGemm& q, int64_t group, int64_t panel) {
  return q.scales + panel * q.scale_panel + group * q.scale_group;
}

template <class V>
V scale_at(const QuantGemm& q, int64_t group, int64_t col) {
  if (q.scales == nullptr) return V::set1(1.0f);
  const int64_t left = q.gemm.n - col;
  if (left <= 0) return V::zero();
  const float* scales = scales_of(q, group, col / kCodePanel) + col % kCodePanel;
  return left >= V::width ? V::load(scales) : V::load_n(scales, left);
}

// Rows [row, row + R) times one panel.
template <class V, Code code, int R>
void thin_panel(const QuantGemm& q, int64_t row, int64_t panel) {
  constexpr int W = V::width, vectors = kCodePanel / W, per = per_word(code);
  constexpr int parts = R == 1 && vectors <= 4 ? 2 : 1;  // independent sums hide the latency of the multiply-add
  const Gemm& g = q.gemm;
  const char* words = q.codes + panel * panel_bytes(code, g.k);
  V total[R][vectors];
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < vectors; ++v) total[i][v] = V::zero();
  }
  for (int64_t first = 0, group = 0; first < g.k; first += q.group, ++group) {
    const int64_t depth = g.k - first < q.group ? g.k - first : q.group;
    const float* a = g.a + row * g.a_row + first;
    V part[parts][R][vectors];
    for (int p = 0; p < parts; ++p) {
      for (int i = 0; i < R; ++i) {
        for (int v = 0; v < vectors; ++v) part[p][i][v] = V::zero();
      }
    }
    if (q.scales != nullptr && first + q.group < g.k) {
      __builtin_prefetch(scales_of(q, group + 1, panel));
      __builtin_prefetch(scales_of(q, group + 1, panel) + kCodePanel / 2);
    }
    const auto step = [&](const float* x, int64_t x_row) __attribute__((always_inline)) {
      __builtin_prefetch(words + 2048);
      __builtin_prefetch(words + 2048 + 64);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) {
        const auto w = Codes<V>::load(words + v * W * 4);
        each(std::make_integer_sequence<int, per>(), [&](auto j) __attribute__((always_inline)) {
          constexpr int at = decltype(j)::value;
          const V value = Codes<V>::template value<code, at>(w);
#pragma GCC unroll 4
          for (int i = 0; i < R; ++i) {
            V& sum = part[at % parts][i][v];
            sum = V::fma(value, V::set1(x[i * x_row + at]), sum);
          }
        });
      }
      words += kCodePanel * 4;
    };
    int64_t k = 0;
    for (; k + per <= depth; k += per) step(a + k, g.a_row);
    if (k < depth) {
      float rest[R][per] = {};
      for (int i = 0; i < R; ++i) {
        for (int64_t j = k; j < depth; ++j) rest[i][j - k] = a[i * g.a_row + j];
      }
      step(rest[0], per);
    }
    for (int v = 0; v < vectors; ++v) {
      const V scale = scale_at<V>(q, group, panel * kCodePanel + v * W);
      for (int i = 0; i < R; ++i) {
        for (int p = 1; p < parts; ++p) part[0][i][v] = part[0][i][v] + part[p][i][v];
        total[i][v] = V::fma(part[0][i][v], scale, total[i][v]);
      }
    }
  }
  const bool in_place = g.residual == g.c && g.residual != nullptr;
  for (int v = 0; v < vectors; ++v) {
    const int64_t col = panel * kCodePanel + v * W;
    const int64_t cols = g.n - col < W ? g.n - col : W;
    for (int i = 0; i < R && cols > 0; ++i) {
      float* c = g.c + (row + i) * g.ldc + col;
      V y = total[i][v];
      if (in_place) y = y + V::load_n(c, cols);
      y.store_n(c, cols);
    }
    if (cols > 0) finish<V>(g, row, R, col, cols, g.residual != nullptr && !in_place);
  }
}

template <class V, Code code, int R>
void thin_rows(const QuantGemm& q, int64_t rows, int64_t row, int64_t panel) {
  if (rows == R) return thin_panel<V, code, R>(q, row, panel);
  if constexpr (R > 1) thin_rows<V, code, R - 1>(q, rows, row, panel);
}

// Block [first, first + depth) of a panel as floats [depth][32].
template <class V, Code code>
void decode(const QuantGemm& q, int64_t panel, int64_t first, int64_t depth, float* to) {
  constexpr int W = V::width, vectors = kCodePanel / W, per = per_word(code);
  const char* words = q.codes + panel * panel_bytes(code, q.gemm.k) + first / per * kCodePanel * 4;
  V scale[vectors] = {};
  for (int64_t k = 0; k < depth; k += per, words += kCodePanel * 4) {
    if (k == 0 || (first + k) % q.group == 0) {
      for (int v = 0; v < vectors; ++v) scale[v] = scale_at<V>(q, (first + k) / q.group, panel * kCodePanel + v * W);
    }
    const int64_t count = depth - k;
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      const auto w = Codes<V>::load(words + v * W * 4);
      each(std::make_integer_sequence<int, per>(), [&](auto j) __attribute__((always_inline)) {
        constexpr int at = decltype(j)::value;
        if (at < count) (Codes<V>::template value<code, at>(w) * scale[v]).store(to + (k + at) * kCodePanel + v * W);
      });
    }
  }
}

// One panel times tiles [first, last) of the packed left factor, through a decoded block at a time.
template <class V, Code code>
void decoded_panel(const QuantGemm& q, const Tiles& tiles, int64_t panel, int64_t first, int64_t last, float* block) {
  constexpr int64_t pair = 2 * V::width;
  const Gemm& g = q.gemm;
  const bool in_place = g.residual == g.c && g.residual != nullptr;
  const int64_t col = panel * kCodePanel;
  const int64_t cols = g.n - col < kCodePanel ? g.n - col : kCodePanel;
  for (int64_t k = 0; k < g.k; k += kDepth) {
    const int64_t depth = g.k - k < kDepth ? g.k - k : kDepth;
    decode<V, code>(q, panel, k, depth, block);
    const char* next = q.codes + panel * panel_bytes(code, g.k) + (k + depth) / per_word(code) * kCodePanel * 4;
    for (int64_t sub = 0; sub < cols; sub += pair) {
      for (int64_t t = first; t < last; ++t) {
        const int64_t row = tiles.start(t);
        TileArgs args;
        args.k = depth;
        args.a = left_block(g, row, k);
        args.b = block + sub;
        args.b_row = kCodePanel;
        args.c = g.c + row * g.ldc + col + sub;
        args.c_row = g.ldc;
        args.cols = cols - sub < pair ? cols - sub : pair;
        args.accumulate = k > 0 || in_place;
        const int64_t part = depth / per_word(code) * kCodePanel * 4 / (last - first);
        args.ahead = next + (t - first) * part;
        args.ahead_step = part * 2 / depth;
        run_tile<V, Left::block, 2>(tiles.rows(t), args);
        if (k + depth >= g.k) {
          finish<V>(g, row, tiles.rows(t), col + sub, args.cols, g.residual != nullptr && !in_place);
        }
      }
    }
  }
}

template <class V, Code code>
void linear_compressed(const void* params, Context& context) {
  const QuantGemm& q = *static_cast<const QuantGemm*>(params);
  const Gemm& g = q.gemm;
  if (g.k == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const int64_t panels = (g.n + kCodePanel - 1) / kCodePanel;
  if (g.packed_a == nullptr) {
    run_in_order(panels, context, [&](const Task& task) {
      for (int64_t panel = task.begin; panel < task.end; ++panel) thin_rows<V, code, Codes<V>::thin_rows>(q, g.m, 0, panel);
    });
    return;
  }
  const Tiles tiles(g.m, V::most_rows(2));
  pack_left<V>(g, context);
  context.barrier();
  float* block = q.own + context.thread * q.own_floats;
  run_tasks(panels, g.m, tiles.count, context, [&](const Task& task) {
    for (int64_t panel = task.begin; panel < task.end; ++panel) {
      decoded_panel<V, code>(q, tiles, panel, task.first, task.last, block);
    }
  });
}

template <class V>
void pack_codes(const void* params, Context& context) {
  const PackCodes& p = *static_cast<const PackCodes*>(params);
  const int64_t words = words_of(p.code, p.k), whole = p.row_bytes / 4;
  const bool aligned = (reinterpret_cast<uintptr_t>(p.from) | static_cast<uintptr_t>(p.row_step)) % 4 == 0;
  int64_t begin, end;
  context.share((p.n + kCodePanel - 1) / kCodePanel, 1, &begin, &end);
  for (int64_t panel = begin; panel < end; ++panel) {
    char* to = p.to + panel * panel_bytes(p.code, p.k);
    const char* from = p.from + panel * kCodePanel * p.row_step;
    const int64_t count = p.n - panel * kCodePanel < kCodePanel ? p.n - panel * kCodePanel : kCodePanel;
    if (count < kCodePanel || whole < words) std::memset(to, 0, static_cast<size_t>(words * kCodePanel * 4));
    if (aligned) {
      transpose<V>(reinterpret_cast<const float*>(from), p.row_step / 4, count, whole, reinterpret_cast<float*>(to), kCodePanel);
    }
    for (int64_t w = aligned ? whole : 0; w < words; ++w) {
      const int64_t bytes = p.row_bytes - w * 4 < 4 ? p.row_bytes - w * 4 : 4;
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(to + (w * kCodePanel + i) * 4, from + i * p.row_step + w * 4, static_cast<size_t>(bytes));
      }
    }
    if (p.code != Code::i8) continue;
    int32_t sums[kCodePanel] = {};
    const auto* codes = reinterpret_cast<const int8_t*>(to);
    for (int64_t w = 0; w < words; ++w, codes += kCodePanel * 4) {
      for (int i = 0; i < kCodePanel; ++i) sums[i] += codes[4 * i] + codes[4 * i + 1] + codes[4 * i + 2] + codes[4 * i + 3];
    }
    for (int i = 0; i < kCodePanel; ++i) sums[i] *= 128;
    std::memcpy(to + words * kCodePanel * 4, sums, sizeof(sums));
  }
}

}  // namespace forgec
