// Convolution, 1-d and 2-d: as a matrix product on columns gathered panel by panel, or directly, tap by tap,
// where a group has so few channels that a product would have nothing to reuse (depthwise convolution).
#pragma once

#include "gemm.h"

namespace forgec {

// Panels of [depth, positions]: row (channel, tap) holds what that tap sees at each output position.
template <class V>
void pack_columns(const Conv& p, const float* x, float* to, Context& context) {
  const int64_t positions = p.out[0] * p.out[1], depth = p.channels * p.kernel[0] * p.kernel[1];
  int64_t begin, end;
  context.share((positions + kPanel - 1) / kPanel, 1, &begin, &end);
  for (int64_t panel = begin; panel < end; ++panel) {
    int64_t top[kPanel], left[kPanel];
    for (int64_t j = 0; j < kPanel; ++j) {
      const int64_t position = panel * kPanel + j;
      top[j] = position / p.out[1] * p.stride[0] - p.padding[0];
      left[j] = position % p.out[1] * p.stride[1] - p.padding[1];
      if (position >= positions) top[j] = INT64_MIN / 2;  // outside the input for every tap
    }
    float* out = to + panel * kPanel * depth;
    for (int64_t c = 0; c < p.channels; ++c) {
      for (int64_t r = 0; r < p.kernel[0]; ++r) {
        for (int64_t s = 0; s < p.kernel[1]; ++s, out += kPanel) {
          for (int64_t j = 0; j < kPanel; ++j) {
            const int64_t row = top[j] + r * p.dilation[0], col = left[j] + s * p.dilation[1];
            const bool inside = row >= 0 && row < p.in[0] && col >= 0 && col < p.in[1];
            out[j] = inside ? x[c * p.x_channel + row * p.x_row + col * p.x_col] : 0.0f;
          }
        }
      }
    }
  }
}

template <class V, Product product = gemm<V>>
void conv(const void* params, Context& context) {
  const Conv& p = *static_cast<const Conv*>(params);
  for (int64_t member = 0; member < p.batch * p.groups; ++member) {
    const int64_t batch = member / p.groups, group = member % p.groups;
    Gemm g = p.gemm;
    g.a += group * g.m * g.k;
    g.c += member * g.m * g.n;
    if (g.row_bias != nullptr) g.row_bias += group * g.m;
    if (member > 0) context.barrier();
    pack_columns<V>(p, p.x + batch * p.x_batch + group * p.channels * p.x_channel, const_cast<float*>(g.b), context);
    if (g.packed_a == nullptr || g.k == 0) context.barrier();
    product(g, context);
  }
}

// Output positions [low, high) whose input position i * stride + offset is in [0, size).
template <class V>
void valid_range(int64_t offset, int64_t stride, int64_t size, int64_t count, int64_t* low, int64_t* high) {
  *low = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  if (offset + (count - 1) * stride < size) {  // for short rows the division would take longer than the rest
    *high = count;
  } else {
    *high = offset >= size ? 0 : (size - offset + stride - 1) / stride;
  }
}

template <class V>
void add_tap(float* y, const float* x, int64_t step, float weight, int64_t n) {
  int64_t i = 0;
  if (step == 1) {
    const V w = V::set1(weight);
    for (; i + V::width <= n; i += V::width) V::fma(w, V::load(x + i), V::load(y + i)).store(y + i);
  }
  for (; i < n; ++i) y[i] += weight * x[i * step];
}

template <class V>
void conv_direct(const void* params, Context& context) {
  const Conv& p = *static_cast<const Conv*>(params);
  const int64_t outs = p.gemm.m, positions = p.out[0] * p.out[1], taps = p.kernel[0] * p.kernel[1];
  int64_t begin, end;
  context.share(p.batch * p.groups * outs, 1, &begin, &end);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t out = item % (p.groups * outs), batch = item / (p.groups * outs);
    float* y = p.gemm.c + item * positions;
    for (int64_t i = 0; i < positions; ++i) y[i] = p.gemm.row_bias != nullptr ? p.gemm.row_bias[out] : 0.0f;
    for (int64_t c = 0; c < p.channels; ++c) {
      const float* x = p.x + batch * p.x_batch + (out / outs * p.channels + c) * p.x_channel;
      const float* weight = p.gemm.a + (out * p.channels + c) * taps;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t down = tap / p.kernel[1] * p.dilation[0] - p.padding[0];
        const int64_t right = tap % p.kernel[1] * p.dilation[1] - p.padding[1];
        int64_t top, bottom, low, high;
        valid_range<V>(down, p.stride[0], p.in[0], p.out[0], &top, &bottom);
        valid_range<V>(right, p.stride[1], p.in[1], p.out[1], &low, &high);
        for (int64_t row = top; row < bottom && low < high; ++row) {
          const float* from = x + (row * p.stride[0] + down) * p.x_row + (low * p.stride[1] + right) * p.x_col;
          add_tap<V>(y + row * p.out[1] + low, from, p.stride[1] * p.x_col, weight[tap], high - low);
        }
      }
    }
  }
}

}  // namespace forgec
