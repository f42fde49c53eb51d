// Convolution, 1-d and 2-d, as a matrix product: weights [out, depth] times columns [depth, positions], of which a
// thread gathers one panel at a time, that then stays in its cache while all weights pass over it.
#pragma once

#include "gemm.h"

namespace forgec {

// Output positions [low, high) whose input position i * stride + offset is in [0, size).
template <class V>
void valid_range(int64_t offset, int64_t stride, int64_t size, int64_t count, int64_t* low, int64_t* high) {
  *low = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  if (offset + (count - 1) * stride < size) {  // for short rows the division would take longer than the rest
    *high = count;
  } else {
    *high = offset >= size ? 0 : (size - offset + stride - 1) / stride;
  }
  if (*low > count) *low = count;
  if (*high < *low) *high = *low;
}

// Columns [begin, end) of `rows` rows become zero.
inline void clear_columns(float* to, int64_t to_row, int64_t rows, int64_t begin, int64_t end) {
  for (int64_t i = 0; i < rows && begin < end; ++i) {
    for (int64_t j = begin; j < end; ++j) to[i * to_row + j] = 0.0f;
  }
}

// One panel [depth, 48]: row (channel, tap) holds what that tap sees at each output position.
template <class V>
void pack_columns(const Conv& p, const float* x, int64_t panel, float* to) {
  const int64_t taps = p.kernel[0] * p.kernel[1], to_row = taps * kPanel, step = p.stride[1] * p.x_col;
  const int64_t first = panel * kPanel, end = first + kPanel < p.gemm.n ? first + kPanel : p.gemm.n;
  clear_columns(to, kPanel, p.gemm.k, end - first, kPanel);
  for (int64_t at = first, count; at < end; at += count) {  // positions of one row of the result
    const int64_t row = at / p.out[1], col = at % p.out[1];
    count = p.out[1] - col < end - at ? p.out[1] - col : end - at;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t down = row * p.stride[0] - p.padding[0] + tap / p.kernel[1] * p.dilation[0];
      const int64_t right = col * p.stride[1] - p.padding[1] + tap % p.kernel[1] * p.dilation[1];
      float* out = to + tap * kPanel + at - first;
      int64_t low = 0, high = 0;
      if (down >= 0 && down < p.in[0]) valid_range<V>(right, p.stride[1], p.in[1], count, &low, &high);
      clear_columns(out, to_row, p.channels, 0, low);
      clear_columns(out, to_row, p.channels, high, count);
      if (low == high) continue;
      const float* from = x + down * p.x_row + right * p.x_col + low * step;
      copy_rows<V>(from, p.x_channel, step, p.channels, high - low, out + low, to_row);
    }
  }
}

template <class V>
void conv(const void* params, Context& context) {
  const Conv& p = *static_cast<const Conv*>(params);
  const int64_t m = p.gemm.m, n = p.gemm.n, k = p.gemm.k, members = p.batch * p.groups;
  const auto product_of = [&](int64_t member) {
    const int64_t group = member % p.groups;
    Gemm g = p.gemm;
    g.a += group * m * k;
    if (g.packed_a != nullptr) g.packed_a += group * left_floats(m, k);
    if (g.row_bias != nullptr) g.row_bias += group * m;
    g.c += member * m * n;
    return g;
  };
  if (k == 0) {
    for (int64_t member = context.thread; member < members; member += context.threads) {
      multiply_nothing<V>(product_of(member));
    }
    return;
  }
  if (p.gemm.packed_a != nullptr) {
    for (int64_t group = 0; group < p.groups; ++group) pack_left<V>(product_of(group), context);
    context.barrier();
  }
  // A task is a panel times all rows or, where panels are few, a part of them.
  const Tiles tiles(m, V::tile_rows);
  const int64_t panels = (n + kPanel - 1) / kPanel, count = members * panels, wanted = kTasks * context.threads;
  int64_t parts = context.threads == 1 || count >= wanted ? 1 : (wanted + count - 1) / (count > 0 ? count : 1);
  if (parts > tiles.count) parts = tiles.count;
  float* columns = p.room + context.thread * p.room_floats;
  for (int64_t number = context.claim(); number < count * parts; number = context.claim()) {
    const int64_t part = number % parts, panel = number / parts % panels, member = number / parts / panels;
    const int64_t batch = member / p.groups, group = member % p.groups;
    pack_columns<V>(p, p.x + batch * p.x_batch + group * p.channels * p.x_channel, panel, columns);
    Gemm g = product_of(member);
    g.b = columns;
    g.c += panel * kPanel;
    g.n = n - panel * kPanel < kPanel ? n - panel * kPanel : kPanel;
    multiply_panels<V>(g, tiles, 0, 1, tiles.count * part / parts, tiles.count * (part + 1) / parts);
  }
}

}  // namespace forgec
