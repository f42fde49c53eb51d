// Matrix products with compressed weights.
//
// Few rows: memory is the limit, so each word of codes is decoded in registers and used once for every row; sums
// of a group are scaled at its end. Many rows: a block of a panel is decoded to floats that stay in the nearest
// cache, scales included, and the tiles of the left factor pass over it as in gemm.h. With `dynamic` activations
// every row is quantised first, and tiles of integer sums (quant.h, Dot) are scaled when they are stored.
#pragma once

#include "gelu_table.h"
#include "gemm.h"
#include "quant_codes.h"

namespace forgec {

static_assert(kDepth % 8 == 0, "a block of a panel has whole words");

template <class V>
V scale_at(const QuantGemm& q, int64_t group, int64_t col) {
  if (q.scales == nullptr) return V::set1(1.0f);
  const int64_t left = q.gemm.n - col;
  if (left <= 0) return V::zero();
  const float* scales = q.scales + group * q.gemm.n + col;
  return left >= V::width ? V::load(scales) : V::load_n(scales, left);
}

// f(integral_constant<int, 0>), f(integral_constant<int, 1>), ...
template <class F, int... j>
__attribute__((always_inline)) inline void each(std::integer_sequence<int, j...>, const F& f) {
  (f(std::integral_constant<int, j>()), ...);
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
      __builtin_prefetch(q.scales + (group + 1) * g.n + panel * kCodePanel);
      __builtin_prefetch(q.scales + (group + 1) * g.n + panel * kCodePanel + kCodePanel / 2);
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

// How panels and tiles are divided into tasks: a few panels times a block of rows each.
template <class V>
struct Tasks {
  int64_t panels, tiles, row_blocks, group, groups;

  Tasks(int64_t n, int64_t m, int64_t tile_count, int threads) : panels((n + kCodePanel - 1) / kCodePanel), tiles(tile_count) {
    const int64_t wanted = 6 * threads;
    row_blocks = (m + kRowBlock - 1) / kRowBlock;
    if (threads > 1 && panels * row_blocks < wanted) row_blocks = (wanted + panels - 1) / panels;
    if (row_blocks > tiles) row_blocks = tiles;
    group = panels * row_blocks / (wanted * 2);
    group = group < 1 ? 1 : group;
    groups = (panels + group - 1) / group;
  }
};

// work(panel, first tile, last tile, probably its next panel) for all panels and tiles, shared by the threads.
template <class V, class F>
void run_tasks(const Tasks<V>& tasks, Context& context, const F& work) {
  const int64_t count = tasks.groups * tasks.row_blocks;
  for (int64_t task = context.claim(); task < count; task = context.claim()) {
    const int64_t block = task / tasks.groups, begin = task % tasks.groups * tasks.group;
    const int64_t end = begin + tasks.group < tasks.panels ? begin + tasks.group : tasks.panels;
    const int64_t first = tasks.tiles * block / tasks.row_blocks;
    const int64_t last = tasks.tiles * (block + 1) / tasks.row_blocks;
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t next = panel + 1 < end ? panel + 1 : begin + context.threads * tasks.group;
      work(panel, first, last, next < tasks.panels ? next : panel);
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
  if (g.packed_a == nullptr) {
    int64_t begin, end;
    context.share((g.n + kCodePanel - 1) / kCodePanel, 1, &begin, &end);
    for (int64_t panel = begin; panel < end; ++panel) thin_rows<V, code, Codes<V>::thin_rows>(q, g.m, 0, panel);
    return;
  }
  const Tiles tiles(g.m, V::most_rows(2));
  pack_left<V>(g, context);
  context.barrier();
  float* block = q.own + context.thread * q.own_floats;
  run_tasks<V>(Tasks<V>(g.n, g.m, tiles.count, context.threads), context, [&](int64_t panel, int64_t first, int64_t last, int64_t) {
    decoded_panel<V, code>(q, tiles, panel, first, last, block);
  });
}

constexpr int64_t kRowGrain = 16;  // elements to which a quantised row is rounded up, all instruction sets

// Codes of k floats in [-127, 127], times the scale that is returned, go to `store(codes, place)`. A row with a value that is not finite
// has a scale of nan; one below 2^-100 counts as zero.
template <class V, class Store>
float quantise(const float* x, int64_t k, const Store& store) {
  constexpr int W = V::width;
  V largest = V::zero(), poison = V::zero();
  for (int64_t i = 0; i < k; i += W) {
    const V y = k - i >= W ? V::load(x + i) : V::load_n(x + i, k - i);
    largest = V::max(V::abs(y), largest);
    poison = V::fma(y, V::zero(), poison);
  }
  const float size = largest.largest();
  const bool finite = poison.sum() == 0.0f, some = finite && size >= 0x1p-100f;
  const V factor = V::set1(some ? 127.0f / size : 0.0f);
  for (int64_t i = 0; i < k; i += W) {
    V y = V::zero();
    if (some) y = V::round_small((k - i >= W ? V::load(x + i) : V::load_n(x + i, k - i)) * factor);
    store(y, i);
  }
  return finite ? (some ? size / 127.0f : 0.0f) : __builtin_nanf("");
}

template <class V>
float quantise_row(const float* x, int64_t k, bool bytes, char* to) {
  return quantise<V>(x, k, [&](V y, int64_t i) {
    if (bytes) {
      Codes<V>::store_bytes(y, to + i);
    } else {
      Codes<V>::store_shorts(y, to + 2 * i);
    }
  });
}

// The part of a row in a group; `to` is at a multiple of eight elements of the row, as is the end of all groups but
// the last. Of eight codes those of even k come first.
template <class V>
float quantise_group(const float* x, int64_t k, char* to, int32_t* sum) {
  V total = V::zero();
  const float scale = quantise<V>(x, k, [&](V y, int64_t i) {
    total = total + y;
    Codes<V>::store_split(y, to, i);
  });
  *sum = -8 * static_cast<int32_t>(total.sum());
  return scale;
}

// Rows of A quantised and packed as [tile][words][rows] quads.
template <class V>
void quantise_left(const DynamicGemm& p, const Tiles& tiles, Context& context) {
  const Gemm& g = p.quant.gemm;
  const int64_t words = words_of(Code::i8, g.k), quad = p.dot->quad_bytes();
  const int64_t step = (g.k + kRowGrain - 1) / kRowGrain * kRowGrain * (quad / 4);
  char* own = p.own + context.thread * p.own_bytes;
  int64_t begin, end;
  context.share(tiles.count, 1, &begin, &end);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = tiles.start(t), rows = tiles.rows(t);
    for (int64_t i = 0; i < rows; ++i) {
      p.row_scales[row + i] = quantise_row<V>(g.a + (row + i) * g.a_row, g.k, p.dot->bytes, own + i * step);
    }
    char* to = p.rows + row * words * quad;
    if (p.dot->bytes) {
      transpose<V>(reinterpret_cast<const float*>(own), step / 4, rows, words, reinterpret_cast<float*>(to), rows);
      continue;
    }
    for (int64_t w = 0; w < words; ++w) {
      for (int64_t i = 0; i < rows; ++i, to += 8) std::memcpy(to, own + i * step + w * 8, 8);
    }
  }
}

// Rows of a panel, finished, to C. `column(v)` is a function that adds products [i, v] to a bias.
// `rounded` if activations were, so that the activation may be as inexact.
template <class V, Act act, bool rounded = false, class Column>
void store_panel(const Gemm& g, int64_t row, int rows, int64_t col, const Column& column) {
  constexpr int W = V::width;
  for (int v = 0; v < kCodePanel && col + v < g.n; v += W) {
    const int64_t n = g.n - col - v;
    const auto add_to = column(v);
    const V bias = g.bias == nullptr ? V::zero() : n >= W ? V::load(g.bias + col + v) : V::load_n(g.bias + col + v, n);
    for (int i = 0; i < rows; ++i) {
      const V x = add_to(i, bias);
      V y = rounded ? activate_near<V, act>(x) : activate<V, act>(x);
      if (g.residual != nullptr) {
        const float* residual = g.residual + (row + i) * g.ldr + col + v;
        y = y + (n >= W ? V::load(residual) : V::load_n(residual, n));
      }
      float* c = g.c + (row + i) * g.ldc + col + v;
      if (n >= W) {
        y.store(c);
      } else {
        y.store_n(c, n);
      }
    }
  }
}

// Of a panel of i8; rows and sums are the tile's own.
inline DotArgs dot_args(const DynamicGemm& p, int64_t panel) {
  DotArgs args{};
  args.words = words_of(Code::i8, p.quant.gemm.k);
  args.b = p.quant.codes + panel * panel_bytes(Code::i8, p.quant.gemm.k);
  args.ahead = args.b;
  return args;
}

// What 128 added to every byte of A adds to the sums of a panel.
inline const int32_t* offsets_of(const DotArgs& args) {
  return reinterpret_cast<const int32_t*>(args.b + args.words * kCodePanel * 4);
}

// What a tile stores to and adds comes nearer while it is multiplied.
inline void fetch_results(const Gemm& g, int64_t row, int rows, int64_t col) {
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < kCodePanel; j += kLine) {
      __builtin_prefetch(g.c + (row + i) * g.ldc + col + j, 1);
      if (g.residual != nullptr) __builtin_prefetch(g.residual + (row + i) * g.ldr + col + j);
    }
  }
}

// One panel times tiles [first, last) in integers; each tile fetches its part of panel `next`.
template <class V>
void dynamic_panel(const DynamicGemm& p, const Tiles& tiles, int64_t panel, int64_t first, int64_t last, int64_t next) {
  const Gemm& g = p.quant.gemm;
  DotArgs args = dot_args(p, panel);
  alignas(64) int32_t sums[kMaxTile * kCodePanel];
  args.c = sums;
  args.ahead = p.quant.codes + next * panel_bytes(Code::i8, g.k);
  args.ahead_step = kCodePanel * 4 / (last - first) + 1;
  const int32_t* offsets = offsets_of(args);
  const int64_t col = panel * kCodePanel;
  DotFinish finish{};
  if (p.dot->finishes && g.act == Act::none && p.quant.scales != nullptr && g.n - col >= kCodePanel) {
    finish.offsets = offsets;
    finish.scales = p.quant.scales + col;
    finish.bias = g.bias == nullptr ? nullptr : g.bias + col;
    finish.ldr = g.ldr;
    finish.ldc = g.ldc;
    args.finish = &finish;
  }
  for (int64_t t = first; t < last; ++t) {
    const int64_t row = tiles.start(t);
    const int rows = tiles.rows(t);
    args.a = p.rows + row * args.words * p.dot->quad_bytes();
    finish.row_scales = p.row_scales + row;
    finish.residual = g.residual == nullptr ? nullptr : g.residual + row * g.ldr + col;
    finish.c = g.c + row * g.ldc + col;
    fetch_results(g, row, rows, col);
    p.dot->of_rows[rows](args);
    args.ahead += args.words * args.ahead_step;
    if (args.finish != nullptr) continue;
    with_act(g.act, [&](auto act) {
      store_panel<V, decltype(act)::value, true>(g, row, rows, col, [&](int v) {
        const V scale = scale_at<V>(p.quant, 0, col + v);
        return [=, &p](int i, V bias) {
          const int32_t* sum = args.c + i * kCodePanel + v;
          const V whole = p.dot->bytes ? Codes<V>::from_difference(sum, offsets + v) : Codes<V>::from_ints(sum);
          return V::fma(whole, V::set1(p.row_scales[row + i]) * scale, bias);
        };
      });
    });
  }
}

template <class V>
void linear_dynamic(const void* params, Context& context) {
  const DynamicGemm& p = *static_cast<const DynamicGemm*>(params);
  const Gemm& g = p.quant.gemm;
  if (g.k == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const Tiles tiles(g.m, p.dot->rows);
  quantise_left<V>(p, tiles, context);
  context.barrier();
  run_tasks<V>(Tasks<V>(g.n, g.m, tiles.count, context.threads), context, [&](int64_t panel, int64_t first, int64_t last, int64_t next) {
    dynamic_panel<V>(p, tiles, panel, first, last, next);
  });
}

// Rows of A quantised by group and packed as [tile][words][even k, odd k][rows] quads, scales as [tile][groups][rows].
template <class V>
void quantise_left_groups(const DynamicGemm& p, const Tiles& tiles, Context& context) {
  const Gemm& g = p.quant.gemm;
  const int64_t quads = 2 * words_of(Code::i4, g.k), groups = (g.k + p.quant.group - 1) / p.quant.group;
  const int64_t step = (g.k + kRowGrain - 1) / kRowGrain * kRowGrain;
  char* own = p.own + context.thread * p.own_bytes;
  int64_t begin, end;
  context.share(tiles.count, 1, &begin, &end);
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = tiles.start(t), rows = tiles.rows(t);
    for (int64_t i = 0; i < rows; ++i) {
      const float* x = g.a + (row + i) * g.a_row;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t first = group * p.quant.group, rest = g.k - first;
        const int64_t place = (row * groups) + group * rows + i;
        p.row_scales[place] = quantise_group<V>(x + first, rest < p.quant.group ? rest : p.quant.group, own + i * step + first,
                                                p.row_sums + place);
      }
    }
    transpose<V>(reinterpret_cast<const float*>(own), step / 4, rows, quads,
                 reinterpret_cast<float*>(p.rows + row * quads * 4), rows);
  }
}

// Of a panel of i4; rows and sums are the tile's own. `padded` has room for the scales of a panel.
template <class V>
NibbleArgs nibble_args(const DynamicGemm& p, int64_t panel, float* padded) {
  const Gemm& g = p.quant.gemm;
  const int64_t groups = (g.k + p.quant.group - 1) / p.quant.group, col = panel * kCodePanel;
  NibbleArgs args{};
  args.words = words_of(Code::i4, g.k);
  args.group_words = p.quant.group < g.k ? p.quant.group / per_word(Code::i4) : args.words;
  args.b = p.quant.codes + panel * panel_bytes(Code::i4, g.k);
  args.scales = p.quant.scales + col;
  args.scale_row = g.n;
  if (g.n - col < kCodePanel) {
    for (int64_t i = 0; i < groups; ++i) {
      for (int v = 0; v < kCodePanel; v += V::width) scale_at<V>(p.quant, i, col + v).store(padded + i * kCodePanel + v);
    }
    args.scales = padded;
    args.scale_row = kCodePanel;
  }
  return args;
}

// One panel of codes of four bits times tiles [first, last).
template <class V>
void nibble_panel(const DynamicGemm& p, const Tiles& tiles, int64_t panel, int64_t first, int64_t last, float* padded) {
  const Gemm& g = p.quant.gemm;
  const int64_t groups = (g.k + p.quant.group - 1) / p.quant.group, col = panel * kCodePanel;
  NibbleArgs args = nibble_args<V>(p, panel, padded);
  alignas(64) float sums[kMaxTile * kCodePanel];
  args.c = sums;
  for (int64_t t = first; t < last; ++t) {
    const int64_t row = tiles.start(t);
    const int rows = tiles.rows(t);
    args.a = p.rows + row * args.words * 8;
    args.a_scales = p.row_scales + row * groups;
    args.a_sums = p.row_sums + row * groups;
    p.nibble_dot->of_rows[rows](args);
    with_act(g.act, [&](auto act) {
      store_panel<V, decltype(act)::value, true>(g, row, rows, col, [&](int v) {
        return [=](int i, V bias) { return V::load(args.c + i * kCodePanel + v) + bias; };
      });
    });
  }
}

template <class V>
void linear_nibbles(const void* params, Context& context) {
  const DynamicGemm& p = *static_cast<const DynamicGemm*>(params);
  const Gemm& g = p.quant.gemm;
  if (g.k == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const Tiles tiles(g.m, p.nibble_dot->rows);
  quantise_left_groups<V>(p, tiles, context);
  context.barrier();
  float* padded = p.quant.own + context.thread * p.quant.own_floats;
  run_tasks<V>(Tasks<V>(g.n, g.m, tiles.count, context.threads), context, [&](int64_t panel, int64_t first, int64_t last, int64_t) {
    nibble_panel<V>(p, tiles, panel, first, last, padded);
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
