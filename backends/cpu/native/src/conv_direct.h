// Convolution where a group has so few channels that a product would have nothing to reuse (depthwise convolution):
// an image is copied with its padding, and sums of several places of the result stay in registers over all taps.
#pragma once

#include "conv.h"

namespace forgec {

constexpr int kPlaces = 8;  // vectors of the result that are summed together

// One channel with its padding. Columns that neighbours in the result see lie side by side: a row has, for each
// remainder of a column by the stride, a line of `pitch` floats.
template <class V>
void copy_image(const Conv& p, const float* x, float* to) {
  const int64_t stride = p.stride[1];
  const int64_t rows = (p.out[0] - 1) * p.stride[0] + (p.kernel[0] - 1) * p.dilation[0] + 1;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t from = row - p.padding[0];
    for (int64_t rest = 0; rest < stride; ++rest, to += p.pitch) {
      int64_t low = 0, high = 0;
      const int64_t right = rest - p.padding[1];
      if (from >= 0 && from < p.in[0]) valid_range<V>(right, stride, p.in[1], p.pitch, &low, &high);
      clear_columns(to, p.pitch, 1, 0, low);
      clear_columns(to, p.pitch, 1, high, p.pitch);
      if (low == high) continue;
      const float* source = x + from * p.x_row + (right + low * stride) * p.x_col;
      copy_rows<V>(source, 0, stride * p.x_col, 1, high - low, to + low, p.pitch);
    }
  }
}

// Where a vector of the result is, how many of its columns are, and what its first tap sees.
struct Place {
  float* to;
  int64_t count;
  const float* from;
};

template <class V, int P>
void sum_taps(const Place* places, const float* weights, const int64_t* offsets, int64_t taps, float bias, bool add) {
  V sum[P];
  const float* from[P];
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
    from[i] = places[i].from;
    sum[i] = add ? V::load_n(places[i].to, places[i].count) : V::set1(bias);
  }
  for (int64_t tap = 0; tap < taps; ++tap) {
    const V weight = V::set1(weights[tap]);
    const int64_t offset = offsets[tap];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) sum[i] = V::add_product(sum[i], weight, V::load(from[i] + offset));
  }
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) {
    if (places[i].count == V::width) {
      sum[i].store(places[i].to);
    } else {
      sum[i].store_n(places[i].to, places[i].count);
    }
  }
}

constexpr int64_t kFewColumns = 16, kFewSeen = 96;

// Whether a result is a row of few columns, as when a token is written, for which planning an image would be most of the work.
template <class V>
bool has_few(const Conv& p) {
  return p.out[0] == 1 && p.kernel[0] == 1 && p.padding[0] == 0 && p.stride[1] == 1 && p.out[1] <= kFewColumns &&
         p.padding[1] < kFewSeen && (p.kernel[1] - 1) * p.dilation[1] <= kFewSeen;
}

// The same for one channel. `line` has zeros before and behind what it sees of every channel.
template <class V>
void sum_few(const Conv& p, const float* x, const float* weights, float bias, bool add, float* line, float* y) {
  constexpr int W = V::width;
  const int64_t seen = p.out[1] + (p.kernel[1] - 1) * p.dilation[1] - p.padding[1];
  for (int64_t i = 0; i < p.in[1] && i < seen; ++i) line[p.padding[1] + i] = x[i * p.x_col];
  for (int64_t col = 0; col < p.out[1]; col += W) {
    const int64_t count = p.out[1] - col < W ? p.out[1] - col : W;
    V sum = add ? V::load_n(y + col, count) : V::set1(bias);
    for (int64_t tap = 0; tap < p.kernel[1]; ++tap) {
      sum = V::add_product(sum, V::set1(weights[tap]), V::load(line + col + tap * p.dilation[1]));
    }
    if (count == W) {
      sum.store(y + col);
    } else {
      sum.store_n(y + col, count);
    }
  }
}

// Results [begin, end) where each image has but one, which sees no padding.
template <class V>
void sum_single(const Conv& p, int64_t begin, int64_t end) {
  const int64_t outs = p.gemm.m, taps = p.kernel[0] * p.kernel[1];
  const int64_t down = p.dilation[0] * p.x_row, right = p.dilation[1] * p.x_col;
  int64_t batch = begin / (p.groups * outs), group = begin / outs % p.groups, out = begin % outs;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t filter = group * outs + out;
    const float* x = p.x + batch * p.x_batch + group * p.channels * p.x_channel;
    const float* weights = p.gemm.a + filter * p.channels * taps;
    float sum = p.gemm.row_bias != nullptr ? p.gemm.row_bias[filter] : 0.0f;
    for (int64_t c = 0; c < p.channels; ++c, x += p.x_channel) {
      for (int64_t row = 0; row < p.kernel[0]; ++row, weights += p.kernel[1]) {
        const float* from = x + row * down;
        for (int64_t tap = 0; tap < p.kernel[1]; ++tap, from += right) sum += weights[tap] * *from;
      }
    }
    p.gemm.c[item] = sum;
    if (++out == outs) out = 0, ++group;
    if (group == p.groups) group = 0, ++batch;
  }
}

template <class V>
void conv_direct(const void* params, Context& context) {
  constexpr int W = V::width;
  const Conv& p = *static_cast<const Conv*>(params);
  if (p.out[0] * p.out[1] == 1 && p.padding[0] + p.padding[1] == 0) {
    int64_t begin, end;
    context.share(p.batch * p.groups * p.gemm.m, 64, &begin, &end);
    return sum_single<V>(p, begin, end);
  }
  const int64_t outs = p.gemm.m, positions = p.gemm.n, taps = p.kernel[0] * p.kernel[1], stride = p.stride[1];
  const int64_t vectors = (p.out[1] + W - 1) / W, count = p.out[0] * vectors, image_row = stride * p.pitch;
  const bool few = has_few<V>(p);
  alignas(64) float line[kFewColumns + kFewSeen + W] = {};
  float* image = p.room + context.thread * p.room_floats;
  int64_t* offsets = p.offsets + context.thread * taps;
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t right = tap % p.kernel[1] * p.dilation[1];
    offsets[tap] = tap / p.kernel[1] * p.dilation[0] * image_row + right % stride * p.pitch + right / stride;
  }
  int64_t begin, end;
  context.share(p.batch * p.groups * outs, 1, &begin, &end);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t out = item % (p.groups * outs), batch = item / (p.groups * outs);
    float* y = p.gemm.c + item * positions;
    const float bias = p.gemm.row_bias != nullptr ? p.gemm.row_bias[out] : 0.0f;
    for (int64_t i = 0; i < positions && p.channels == 0; ++i) y[i] = bias;
    for (int64_t c = 0; c < p.channels && count > 0; ++c) {
      const float* x = p.x + batch * p.x_batch + (out / outs * p.channels + c) * p.x_channel;
      const float* weights = p.gemm.a + (out * p.channels + c) * taps;
      if (few) {
        sum_few<V>(p, x, weights, bias, c > 0, line, y);
        continue;
      }
      copy_image<V>(p, x, image);
      for (int64_t first = 0; first < count; first += kPlaces) {
        Place places[kPlaces];
        for (int64_t i = 0; i < kPlaces; ++i) {  // the last one again where there are no more
          const int64_t place = first + i < count ? first + i : count - 1, row = place / vectors;
          const int64_t col = place % vectors * W, left = p.out[1] - col;
          places[i] = {y + row * p.out[1] + col, left < W ? left : W, image + row * p.stride[0] * image_row + col};
        }
        if (count - first > kPlaces / 2) {
          sum_taps<V, kPlaces>(places, weights, offsets, taps, bias, c > 0);
        } else {
          sum_taps<V, kPlaces / 2>(places, weights, offsets, taps, bias, c > 0);
        }
      }
    }
  }
}

}  // namespace forgec
