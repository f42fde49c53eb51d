// Pooling, 1-d and 2-d: for each row of the result, the rows of the input that its windows see are joined first,
// side by side, into one line; then each tap joins its columns of that line into the result.
#pragma once

#include "conv.h"
#include "pointwise.h"

namespace forgec {

// A nan wins over everything; windows that see nothing of the input keep the start.
template <class V>
struct LargestOf {
  static constexpr bool averages = false;
  static constexpr float start = -__builtin_inff();
  static V join(V a, V b) { return Functions<V>::maximum(a, b); }
  static float join(float a, float b) { return a > b || a != a ? a : b; }
};

template <class V>
struct AverageOf {
  static constexpr bool averages = true;
  static constexpr float start = 0.0f;
  static V join(V a, V b) { return a + b; }
  static float join(float a, float b) { return a + b; }
};

// to[i] = join(a[i], b[i]); `to` may be `a`.
template <class V, class P>
void join_lines(const float* a, const float* b, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) P::join(V::load(a + i), V::load(b + i)).store(to + i);
  for (; i < n; ++i) to[i] = P::join(a[i], b[i]);
}

// y[i] = join(y[i], x[i * step]). The compiler makes vectors of the loop whose step it knows.
template <class V, class P>
void join_columns(float* __restrict y, const float* __restrict x, int64_t step, int64_t n) {
  if (step == 1) {
    join_lines<V, P>(y, x, y, n);
  } else if (step == 2) {
    for (int64_t i = 0; i < n; ++i) y[i] = P::join(y[i], x[2 * i]);
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = P::join(y[i], x[i * step]);
  }
}

// Columns [0, n) from `x` on of the input rows that row `row` of the result sees: in place if it is one, else joined
// in `line`; null if there is none.
template <class V, class P>
const float* joined_rows(const Pool& p, const float* x, int64_t row, int64_t n, float* line) {
  const float* joined = nullptr;
  for (int64_t r = 0; r < p.kernel[0]; ++r) {
    const int64_t at = row * p.stride[0] - p.padding[0] + r * p.dilation[0];
    if (at < 0 || at >= p.in[0]) continue;
    const float* next = x + at * p.x_row;
    if (joined != nullptr) join_lines<V, P>(joined, next, line, n);
    joined = joined == nullptr ? next : line;
  }
  return joined;
}

// How many of the `kernel` elements from `first` on an average counts along an axis.
template <class V>
int64_t counted(const Pool& p, int axis, int64_t first) {
  const int64_t border = p.include_padding ? p.padding[axis] : 0;
  const int64_t low = first > -border ? first : -border, end = first + p.kernel[axis], limit = p.in[axis] + border;
  return (end < limit ? end : limit) - low;
}

// Divides sums by what they count: `rows` times the columns, which are all of a window's but at the two ends.
template <class V>
void divide_sums(const Pool& p, float* y, int64_t start, int64_t n, int64_t rows) {
  int64_t low, high, any;
  const int64_t border = p.include_padding ? p.padding[1] : 0, size = p.in[1] + 2 * border;
  valid_range<V>(start + border, p.stride[1], size, n, &low, &any);
  valid_range<V>(start + border + p.kernel[1] - 1, p.stride[1], size, n, &any, &high);
  const float whole = static_cast<float>(rows * p.kernel[1]);
  for (int64_t i = 0; i < n; ++i) {
    if (i == low) {
      for (; i + V::width <= high; i += V::width) (V::load(y + i) / V::set1(whole)).store(y + i);
      if (i >= n) return;
    }
    y[i] /= i >= low && i < high ? whole : static_cast<float>(rows * counted<V>(p, 1, start + i * p.stride[1]));
  }
}

template <class V, class P>
void pool(const void* params, Context& context) {
  const Pool& p = *static_cast<const Pool*>(params);
  float* line = p.lines + context.thread * p.line_floats;
  const int64_t parts = (p.out[1] + kPoolColumns - 1) / kPoolColumns, stride = p.stride[1];
  int64_t begin, end;
  context.share(p.planes * p.out[0] * parts, 1, &begin, &end);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t part = item % parts, row = item / parts % p.out[0], plane = item / parts / p.out[0];
    const int64_t first = part * kPoolColumns, rest = p.out[1] - first, n = rest < kPoolColumns ? rest : kPoolColumns;
    const float* x = p.x + plane / p.channels * p.x_batch + plane % p.channels * p.x_channel;
    float* y = p.out_data + (plane * p.out[0] + row) * p.out[1] + first;
    for (int64_t i = 0; i < n; ++i) y[i] = P::start;
    // Columns [left, right) of the input are what these windows see.
    const int64_t start = first * stride - p.padding[1];
    const int64_t last = start + (n - 1) * stride + (p.kernel[1] - 1) * p.dilation[1] + 1;
    const int64_t left = start > 0 ? start : 0, right = last < p.in[1] ? last : p.in[1];
    const float* joined = joined_rows<V, P>(p, x + left, row, right - left, line);
    for (int64_t tap = 0; joined != nullptr && tap < p.kernel[1]; ++tap) {
      const int64_t offset = start + tap * p.dilation[1];
      int64_t low, high;
      valid_range<V>(offset, stride, p.in[1], n, &low, &high);
      if (low < high) join_columns<V, P>(y + low, joined + low * stride + offset - left, stride, high - low);
    }
    if (P::averages) divide_sums<V>(p, y, start, n, counted<V>(p, 0, row * p.stride[0] - p.padding[0]));
  }
}

}  // namespace forgec
