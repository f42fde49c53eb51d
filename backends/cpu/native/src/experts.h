// Rows times the weights of their experts, where these lie: every weight that is used is read once, for all of its rows.
#pragma once

#include "matvec.h"

namespace forgec {

// Rows that are multiplied at a time, beside four of the weight.
template <class V>
constexpr int kExpertRows = V::width >= 16 ? 4 : 2;

// At most R rows.
template <class V, int R>
void some_dots(int rows, const float* w, int64_t w_row, int64_t k, const float* const* x, float* const* y) {
  if constexpr (R > 1) {
    if (rows < R) return some_dots<V, R - 1>(rows, w, w_row, k, x, y);
  }
  four_dots<V, R>(w, w_row, x, k, y);
}

// Outputs [begin, end) of an expert for its rows, which `order` lists.
template <class V>
void expert_outputs(const Experts& p, int64_t expert, int64_t begin, int64_t end, const int32_t* order, int64_t count) {
  constexpr int R = kExpertRows<V>;
  const float* w = p.weight + (expert * p.n + begin) * p.k;
  for (int64_t col = begin, cols; col < end; col += cols, w += cols * p.k) {
    cols = end - col < 4 ? 1 : 4;
    for (int64_t first = 0; first < count; first += R) {
      const int rows = static_cast<int>(count - first < R ? count - first : R);
      const float* x[R];
      float* y[R];
      float one[R][4];  // output, four times
      for (int r = 0; r < rows; ++r) {
        const int64_t row = order[first + r];
        x[r] = p.x + row * p.x_row;
        y[r] = cols == 4 ? p.y + row * p.n + col : one[r];
      }
      some_dots<V, R>(rows, w, cols == 4 ? p.k : 0, p.k, x, y);
      for (int r = 0; cols == 1 && r < rows; ++r) p.y[order[first + r] * p.n + col] = one[r][0];
    }
  }
}

// Sorts rows by expert: `starts` has room for experts + 1, `order` for rows. False after reporting an id out of range.
inline bool sort_rows(const Experts& p, Context& context, int32_t* starts, int32_t* order) {
  for (int64_t e = 0; e <= p.experts; ++e) starts[e] = 0;
  const auto expert_of = [&p](int64_t row) {
    const int64_t id = p.wide ? reinterpret_cast<const int64_t*>(p.ids)[row * p.ids_step]
                              : reinterpret_cast<const int32_t*>(p.ids)[row * p.ids_step];
    return id < 0 ? id + p.experts : id;
  };
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t expert = expert_of(row);
    if (expert < 0 || expert >= p.experts) {
      context.fail(expert < 0 ? expert - p.experts : expert, p.experts);
      return false;
    }
    ++starts[expert];
  }
  int32_t before = 0;
  for (int64_t e = 0; e <= p.experts; ++e) {
    const int32_t count = starts[e];
    starts[e] = before;
    before += count;
  }
  for (int64_t row = 0; row < p.rows; ++row) order[starts[expert_of(row)]++] = static_cast<int32_t>(row);
  for (int64_t e = p.experts; e > 0; --e) starts[e] = starts[e - 1];
  starts[0] = 0;
  return true;
}

// A thread's parts, of which every expert with rows has so many: visit(expert, first, last). Threads get as many rows
// times parts each, whatever experts have them.
template <class Visit>
void share_parts(const Experts& p, Context& context, const int32_t* starts, int64_t parts, const Visit& visit) {
  int64_t begin, end;
  context.share(p.rows * parts, 1, &begin, &end);
  for (int64_t e = 0; e < p.experts; ++e) {
    const int64_t count = starts[e + 1] - starts[e], before = starts[e] * parts;
    if (count == 0 || before >= end || before + count * parts <= begin) continue;
    // Of this expert the parts whose first row is in this thread's share: each is done once.
    const int64_t first = begin > before ? (begin - before + count - 1) / count : 0;
    const int64_t last = end - before >= count * parts ? parts : (end - before + count - 1) / count;
    if (first < last) visit(e, first, last);
  }
}

template <class V>
void expert_linear(const void* params, Context& context) {
  const Experts& p = *static_cast<const Experts*>(params);
  int32_t* starts = p.starts(context.thread);
  int32_t* order = p.order(context.thread);
  if (!sort_rows(p, context, starts, order)) return;
  const int64_t parts = (p.n + kExpertOutputs - 1) / kExpertOutputs;
  share_parts(p, context, starts, parts, [&](int64_t expert, int64_t first, int64_t last) {
    const int64_t begin = first * kExpertOutputs, end = last * kExpertOutputs < p.n ? last * kExpertOutputs : p.n;
    expert_outputs<V>(p, expert, begin, end, order + starts[expert], starts[expert + 1] - starts[expert]);
  });
}

}  // namespace forgec
