// Few rows of floats times codes, in integers. A float is 8 + 8 + 8 bits of the largest of its row (or of its group,
// with codes of four bits): x = s0 d0 + s1 d1 + s2 d2, where every digit is what the one before left over, rounded to a
// byte. What is left after three is 2^-24 of the largest, as much as sums of floats lose. So a row of A is three rows
// of a tile of exact integer products, whose results are added; where there are instructions for these, that is several
// times the speed of decoding codes to floats, and memory is the limit.
#pragma once

#include "dynamic_gemm.h"

namespace forgec {

constexpr float kLeastScale = 0x1p-70f;  // of a first digit; with less, those that follow would count as zero

// Takes a digit off a row: `left` is what remains. True if the digits that follow can have the row's other bits.
template <class V>
bool take_digit(const float* x, int64_t k, float* left) {
  constexpr int W = V::width;
  const auto width = [k](int64_t i) { return k - i < W ? k - i : W; };
  const float scale = quantise<V>(x, k, [&](V y, int64_t i) { y.store_n(left + i, width(i)); });
  bool zero = true;
  for (int64_t i = 0; i < k; i += W) {
    const V value = V::load_n(x + i, width(i));
    if (!(scale > 0.0f)) zero = zero && V::abs(value).largest() == 0.0f;
    V::fma(V::load_n(left + i, width(i)), V::set1(-scale), value).store_n(left + i, width(i));
  }
  return scale >= kLeastScale || (scale == 0.0f && zero);
}

// Groups [first, last) of every row as three: the row, and twice what is left. False if there are values beyond the
// range of digits.
template <class V>
bool take_digits(const SplitGemm& s, int64_t first, int64_t last) {
  const Gemm& g = s.whole.gemm;
  const int64_t group = s.whole.group < g.k ? s.whole.group : g.k;
  bool fits = true;
  for (int64_t row = 0; row < g.m; ++row) {
    for (int64_t from = first * group; from < g.k && from < last * group; from += group) {
      const int64_t size = g.k - from < group ? g.k - from : group;
      float* to = s.digits + row * kDigits * g.k + from;
      std::memcpy(to, g.a + row * g.a_row + from, static_cast<size_t>(size) * sizeof(float));
      fits = take_digit<V>(to, size, to + g.k) && fits;
      take_digit<V>(to + g.k, size, to + 2 * g.k);
    }
  }
  return fits;
}

// The digits of all rows times one panel, added, to C.
template <class V, Code code>
void split_panel(const SplitGemm& s, int64_t panel) {
  const DynamicGemm& p = s.split;
  const Gemm& g = s.whole.gemm;
  const int64_t col = panel * kCodePanel;
  alignas(64) float sums[kMaxTile * kCodePanel];
  alignas(64) int32_t whole[kMaxTile * kCodePanel];
  if constexpr (code == Code::i4) {
    NibbleArgs args = nibble_args<V>(p, panel, p.quant.own);  // one panel at most is padded, and one thread has it
    args.a = p.rows;
    args.a_scales = p.row_scales;
    args.a_sums = p.row_sums;
    args.c = sums;
    p.nibble_dot->of_rows[p.quant.gemm.m](args);
  } else {
    DotArgs args = dot_args(p, panel);
    args.a = p.rows;
    args.c = whole;
    p.dot->of_rows[p.quant.gemm.m](args);
    for (int64_t i = 0; i < p.quant.gemm.m; ++i) {
      for (int v = 0; v < kCodePanel; v += V::width) {
        const V sum = Codes<V>::from_difference(whole + i * kCodePanel + v, offsets_of(args) + v);
        (sum * V::set1(p.row_scales[i])).store(sums + i * kCodePanel + v);
      }
    }
  }
  with_act(g.act, [&](auto act) {
    store_panel<V, decltype(act)::value>(g, 0, static_cast<int>(g.m), col, [&](int v) {
      const V scale = code == Code::i4 ? V::set1(1.0f) : scale_at<V>(p.quant, 0, col + v);
      return [=, &sums](int i, V bias) {
        const float* at = sums + i * kDigits * kCodePanel + v;
        const V sum = V::load(at) + (V::load(at + kCodePanel) + V::load(at + 2 * kCodePanel));
        return V::fma(sum, scale, bias);
      };
    });
  });
}

template <class V, Code code>
void linear_split(const void* params, Context& context) {
  const SplitGemm& s = *static_cast<const SplitGemm*>(params);
  const Gemm& g = s.whole.gemm;
  if (g.k == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const int64_t groups = (g.k + s.whole.group - 1) / s.whole.group, rows = s.split.quant.gemm.m;
  int64_t begin, end;
  context.share(groups, 1, &begin, &end);
  s.fits[context.thread] = take_digits<V>(s, begin, end);
  if constexpr (code == Code::i4) {
    quantise_groups<V>(s.split, 0, rows, begin, end, s.split.own + context.thread * s.split.own_bytes);
  } else if (begin < end) {
    Context alone;
    quantise_left<V>(s.split, Tiles(rows, rows), alone);
  }
  context.barrier();
  for (int i = 0; i < context.threads; ++i) {
    if (!s.fits[i]) return linear_compressed<V, code>(&s.whole, context);
  }
  run_in_order((g.n + kCodePanel - 1) / kCodePanel, context, [&](const Task& task) {
    for (int64_t panel = task.begin; panel < task.end; ++panel) split_panel<V, code>(s, panel);
  });
}

}  // namespace forgec
