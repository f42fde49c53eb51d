// Matrix products of codes with rows that are quantised first, in integers: tiles of exact sums (quant.h, Dot and
// NibbleDot) are scaled when they are stored.
#pragma once

#include "gelu_near.h"
#include "quant_gemm.h"

namespace forgec {

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
  args.ahead = args.b + p.ahead;
  args.ahead_step = p.ahead > 0 ? kCodePanel * 4 : 0;
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

// One panel times tiles [first, last) in integers; each tile fetches its part of panel `next`. `open` has room for a panel that is
// opened.
template <class V>
void dynamic_panel(const DynamicGemm& p, const Tiles& tiles, int64_t panel, int64_t first, int64_t last, int64_t next, char* open) {
  const Gemm& g = p.quant.gemm;
  DotArgs args = dot_args(p, panel);
  alignas(64) int32_t sums[kMaxTile * kCodePanel];
  args.c = sums;
  if (g.m > kDigits) {
    args.ahead = p.quant.codes + next * panel_bytes(Code::i8, g.k);
    args.ahead_step = kCodePanel * 4 / (last - first) + 1;
  }
  const int32_t* offsets = offsets_of(args);
  const int64_t col = panel * kCodePanel;
  DotFinish finish{};
  if (p.dot->finishes && g.act == Act::none && p.quant.scales != nullptr && g.n - col >= kCodePanel) {
    finish.offsets = offsets;
    finish.scales = scales_of(p.quant, 0, panel);
    finish.bias = g.bias == nullptr ? nullptr : g.bias + col;
    finish.ldr = g.ldr;
    finish.ldc = g.ldc;
    args.finish = &finish;
  }
  const bool opened = p.dot->open != nullptr && last - first >= kWorthOpening;
  if (opened) {
    p.dot->open(args.b, args.words, open);
    args.b = open;
  }
  const DotFunction* const of_rows = opened ? p.dot->of_rows_opened : p.dot->of_rows;
  for (int64_t t = first; t < last; ++t) {
    const int64_t row = tiles.start(t);
    const int rows = tiles.rows(t);
    args.a = p.rows + row * args.words * p.dot->quad_bytes();
    finish.row_scales = p.row_scales + row;
    finish.residual = g.residual == nullptr ? nullptr : g.residual + row * g.ldr + col;
    finish.c = g.c + row * g.ldc + col;
    fetch_results(g, row, rows, col);
    of_rows[rows](args);
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
  char* open = reinterpret_cast<char*>(p.quant.own + context.thread * p.quant.own_floats);
  run_tasks((g.n + kCodePanel - 1) / kCodePanel, g.m, tiles.count, context, [&](const Task& task) {
    for (int64_t panel = task.begin; panel < task.end; ++panel) {
      dynamic_panel<V>(p, tiles, panel, task.first, task.last, panel + 1 < task.end ? panel + 1 : task.after, open);
    }
  });
}

// Groups [first, last) of a tile's rows quantised and packed as [words][even k, odd k][rows] quads, scales as
// [groups][rows].
template <class V>
void quantise_groups(const DynamicGemm& p, int64_t row, int64_t rows, int64_t first, int64_t last, char* own) {
  if (first == last) return;
  const Gemm& g = p.quant.gemm;
  const int64_t quads = 2 * words_of(Code::i4, g.k), groups = (g.k + p.quant.group - 1) / p.quant.group;
  const int64_t step = (g.k + kRowGrain - 1) / kRowGrain * kRowGrain;
  const int64_t begin = first * p.quant.group, end = last * p.quant.group < g.k ? last * p.quant.group : g.k;
  for (int64_t i = 0; i < rows; ++i) {
    const float* x = g.a + (row + i) * g.a_row;
    for (int64_t group = first; group < last; ++group) {
      const int64_t from = group * p.quant.group, rest = g.k - from;
      const int64_t place = row * groups + group * rows + i;
      p.row_scales[place] = quantise_group<V>(x + from, rest < p.quant.group ? rest : p.quant.group, own + i * step + from,
                                              p.row_sums + place);
    }
  }
  const int64_t quad = begin / 4, count = end < g.k ? (end - begin) / 4 : quads - quad;
  transpose<V>(reinterpret_cast<const float*>(own) + quad, step / 4, rows, count,
               reinterpret_cast<float*>(p.rows + (row * quads + quad * rows) * 4), rows);
}

// All rows of A. Threads take tiles, or if there are too few, groups of each.
template <class V>
void quantise_left_groups(const DynamicGemm& p, const Tiles& tiles, Context& context) {
  const int64_t groups = (p.quant.gemm.k + p.quant.group - 1) / p.quant.group;
  const int64_t parts = tiles.count < context.threads ? context.threads : 1;
  int64_t begin, end;
  context.share(tiles.count * parts, 1, &begin, &end);
  for (; begin < end; ++begin) {
    const int64_t t = begin / parts, part = begin % parts;
    quantise_groups<V>(p, tiles.start(t), tiles.rows(t), groups * part / parts, groups * (part + 1) / parts,
                       p.own + context.thread * p.own_bytes);
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
  args.ahead = p.ahead;
  args.scales = scales_of(p.quant, 0, panel);
  args.scale_group = p.quant.scale_group;
  args.scales_after = scales_of(p.quant, 0, panel + 1);
  if (g.n - col < kCodePanel) {
    for (int64_t i = 0; i < groups; ++i) {
      for (int v = 0; v < kCodePanel; v += V::width) scale_at<V>(p.quant, i, col + v).store(padded + i * kCodePanel + v);
    }
    args.scales = padded;
    args.scale_group = kCodePanel;
  }
  return args;
}

// One panel of codes of four bits times tiles [first, last); the tiles of an opened one fetch panel `next`.
template <class V>
void nibble_panel(const DynamicGemm& p, const Tiles& tiles, int64_t panel, int64_t first, int64_t last, int64_t next,
                  float* padded) {
  const Gemm& g = p.quant.gemm;
  const int64_t groups = (g.k + p.quant.group - 1) / p.quant.group, col = panel * kCodePanel;
  NibbleArgs args = nibble_args<V>(p, panel, padded);
  alignas(64) float sums[kMaxTile * kCodePanel];
  args.c = sums;
  const bool opened = last - first >= kWorthOpening;
  if (opened) {
    char* open = reinterpret_cast<char*>(padded + groups * kCodePanel);
    p.nibble_dot->open(args.b, args.words, open);
    args.b = open;
    args.next = p.quant.codes + next * panel_bytes(Code::i4, g.k);
    args.next_step = kCodePanel * 4 / (last - first) + 1;
  }
  const NibbleFunction* const of_rows = opened ? p.nibble_dot->of_rows_opened : p.nibble_dot->of_rows;
  for (int64_t t = first; t < last; ++t) {
    const int64_t row = tiles.start(t);
    const int rows = tiles.rows(t);
    args.a = p.rows + row * args.words * 8;
    args.a_scales = p.row_scales + row * groups;
    args.a_sums = p.row_sums + row * groups;
    of_rows[rows](args);
    args.next += args.words * args.next_step;
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
  run_tasks((g.n + kCodePanel - 1) / kCodePanel, g.m, tiles.count, context, [&](const Task& task) {
    for (int64_t panel = task.begin; panel < task.end; ++panel) {
      nibble_panel<V>(p, tiles, panel, task.first, task.last, panel + 1 < task.end ? panel + 1 : task.after, padded);
    }
  });
}

}  // namespace forgec
