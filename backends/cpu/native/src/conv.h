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

// The input of a member, a group of channels of one of the batch.
inline const float* input_of(const Conv& p, int64_t member) {
  return p.x + member / p.groups * p.x_batch + member % p.groups * p.channels * p.x_channel;
}

// The product of a member and panels [begin, end), whose columns are or will be at `columns`.
inline Gemm product_of(const Conv& p, int64_t member, int64_t begin, int64_t end, float* columns) {
  const int64_t group = member % p.groups;
  Gemm g = p.gemm;
  g.a += group * g.m * g.k;
  if (g.row_bias != nullptr) g.row_bias += group * g.m;
  g.b = columns;
  g.c += member * g.m * g.n + begin * kPanel;
  g.n = g.n - begin * kPanel < (end - begin) * kPanel ? g.n - begin * kPanel : (end - begin) * kPanel;
  return g;
}

template <class V>
void conv(const void* params, Context& context) {
  const Conv& p = *static_cast<const Conv*>(params);
  const int64_t m = p.gemm.m, k = p.gemm.k, members = p.batch * p.groups, panels = (p.gemm.n + kPanel - 1) / kPanel;
  if (k == 0) {
    for (int64_t member = context.thread; member < members; member += context.threads) {
      multiply_nothing<V>(product_of(p, member, 0, panels, nullptr));
    }
    return;
  }
  const auto packed = [&](Gemm g, int64_t group) {
    if (g.packed_a != nullptr) g.packed_a += group * left_floats(m, k);
    return g;
  };
  if (p.gemm.packed_a != nullptr) {
    for (int64_t group = 0; group < p.groups; ++group) {
      pack_left<V>(packed(product_of(p, group, 0, panels, nullptr), group), context);
    }
    context.barrier();
  }
  // A task is a panel times all rows or, where panels are few, a part of them.
  const Tiles tiles(m, V::tile_rows);
  const int64_t count = members * panels, wanted = kTasks * context.threads;
  int64_t parts = context.threads == 1 || count >= wanted ? 1 : (wanted + count - 1) / (count > 0 ? count : 1);
  if (parts > tiles.count) parts = tiles.count;
  float* columns = p.room + context.thread * kPanel * k;
  for (int64_t number = context.claim(); number < count * parts; number = context.claim()) {
    const int64_t part = number % parts, panel = number / parts % panels, member = number / parts / panels;
    pack_columns<V>(p, input_of(p, member), panel, columns);
    const Gemm g = packed(product_of(p, member, panel, panel + 1, columns), member % p.groups);
    multiply_panels<V>(g, tiles, 0, 1, tiles.count * part / parts, tiles.count * (part + 1) / parts);
  }
}

// The same by a product of all threads, of as many panels at a time as there is room for.
template <class V, Product product>
void conv_together(const Conv& p, Context& context) {
  const int64_t panels = (p.gemm.n + kPanel - 1) / kPanel, floats = kPanel * p.gemm.k, most = p.room_floats / floats;
  for (int64_t member = 0; member < p.batch * p.groups; ++member) {
    for (int64_t first = 0; first < panels; first += most) {
      const int64_t end = first + most < panels ? first + most : panels;
      if (member + first > 0) context.barrier();  // the room is free again
      int64_t mine, others;
      context.share(end - first, 1, &mine, &others);
      for (; mine < others; ++mine) pack_columns<V>(p, input_of(p, member), first + mine, p.room + mine * floats);
      product(product_of(p, member, first, end, p.room), context);  // which has a barrier after packing the left
    }
  }
}

}  // namespace forgec
