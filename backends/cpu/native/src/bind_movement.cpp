// Ops that move elements: copies between any strides, concatenation, padding, reversal, states.
#include <algorithm>
#include <cstring>

#include "bind.h"
#include "walk.h"

namespace forgec {
namespace {

constexpr int64_t kParallelBytes = 64 * 1024;
constexpr int64_t kShortRow = 16;  // elements: shorter rows are copied in one loop
constexpr int64_t kBlock = 32;  // side of a block in a transposing copy

struct Copy {
  const char* from;
  char* to;
  int64_t item;
  int rank;
  int64_t shape[kMaxRank];
  int64_t steps[2][kMaxRank];  // of source and destination, elements
  int64_t total;
  int across;  // with a source that is contiguous along another axis than the last: that axis, else -1
  decltype(Kernels::transpose) transpose;  // of floats; null if the items or strides are others
};

void copy_run(const char* from, char* to, int64_t item, int64_t from_step, int64_t to_step, int64_t n) {
  if (from_step == 1 && to_step == 1) {
    std::memcpy(to, from, static_cast<size_t>(n * item));
    return;
  }
  with_item(item, [&](auto zero) {
    using T = decltype(zero);
    const T* x = reinterpret_cast<const T*>(from);
    T* y = reinterpret_cast<T*>(to);
    for (int64_t i = 0; i < n; ++i) y[i * to_step] = x[i * from_step];
  });
}

// Whole rows, `steps[k][last - 1]` elements apart, that are too short for a call each.
void copy_short_rows(const Copy& p, const char* from, char* to, int64_t rows) {
  const int last = p.rank - 1;
  const int64_t n = p.shape[last], from_step = p.steps[0][last], to_step = p.steps[1][last];
  const int64_t from_row = p.steps[0][last - 1], to_row = p.steps[1][last - 1];
  with_item(p.item, [&](auto zero) {
    using T = decltype(zero);
    const T* x = reinterpret_cast<const T*>(from);
    T* y = reinterpret_cast<T*>(to);
    for (int64_t row = 0; row < rows; ++row, x += from_row, y += to_row) {
      for (int64_t i = 0; i < n; ++i) y[i * to_step] = x[i * from_step];
    }
  });
}

void run_copy(const void* params, Context& context) {
  const Copy& p = *static_cast<const Copy*>(params);
  int64_t begin, end;
  context.share(p.total, 64, &begin, &end);
  Index index(p.rank, p.shape, begin);
  const int last = p.rank - 1;
  const bool in_rows = p.rank > 1 && p.shape[last] <= kShortRow;
  while (begin < end) {
    const char* from = p.from + index.offset(p.steps[0]) * p.item;
    char* to = p.to + index.offset(p.steps[1]) * p.item;
    if (in_rows && index.at[last] == 0 && end - begin >= p.shape[last]) {
      const int64_t rows = std::min(p.shape[last - 1] - index.at[last - 1], (end - begin) / p.shape[last]);
      copy_short_rows(p, from, to, rows);
      index.advance_rows(rows);
      begin += rows * p.shape[last];
      continue;
    }
    const int64_t n = std::min(p.shape[last] - index.at[last], end - begin);
    copy_run(from, to, p.item, p.steps[0][last], p.steps[1][last], n);
    index.advance(n);
    begin += n;
  }
}

// Rows along `across` are contiguous in the source, rows along the last axis in the destination: square blocks
// use every cache line of both while it is there.
void run_transposing_copy(const void* params, Context& context) {
  const Copy& p = *static_cast<const Copy*>(params);
  const int last = p.rank - 1;
  int64_t shape[kMaxRank];
  for (int i = 0; i < p.rank; ++i) {
    const bool blocked = i == last || i == p.across;
    shape[i] = blocked ? (p.shape[i] + kBlock - 1) / kBlock : p.shape[i];
  }
  int64_t blocks = 1;
  for (int i = 0; i < p.rank; ++i) blocks *= shape[i];
  int64_t begin, end;
  context.share(blocks, 1, &begin, &end);
  Index index(p.rank, shape, begin);
  for (; begin < end; ++begin, index.advance(1)) {
    int64_t at[kMaxRank], from = 0, to = 0;
    for (int i = 0; i < p.rank; ++i) {
      at[i] = index.at[i] * (i == last || i == p.across ? kBlock : 1);
      from += at[i] * p.steps[0][i];
      to += at[i] * p.steps[1][i];
    }
    const int64_t rows = p.shape[p.across] - at[p.across], cols = p.shape[last] - at[last];
    const int64_t row_end = rows < kBlock ? rows : kBlock, col_end = cols < kBlock ? cols : kBlock;
    if (p.transpose != nullptr) {
      const float* x = reinterpret_cast<const float*>(p.from) + from;
      p.transpose(x, p.steps[0][last], col_end, row_end, reinterpret_cast<float*>(p.to) + to, p.steps[1][p.across]);
      continue;
    }
    with_item(p.item, [&](auto zero) {
      using T = decltype(zero);
      const T* x = reinterpret_cast<const T*>(p.from) + from;
      T* y = reinterpret_cast<T*>(p.to) + to;
      for (int64_t r = 0; r < row_end; ++r) {
        for (int64_t c = 0; c < col_end; ++c) {
          y[r * p.steps[1][p.across] + c * p.steps[1][last]] = x[r * p.steps[0][p.across] + c * p.steps[0][last]];
        }
      }
    });
  }
}

struct Fill {
  char* to;
  int64_t item, count;
  char value[8];
};

void run_fill(const void* params, Context& context) {
  const Fill& p = *static_cast<const Fill*>(params);
  int64_t begin, end;
  context.share(p.count, 64, &begin, &end);
  with_item(p.item, [&](auto zero) {
    using T = decltype(zero);
    T value, *to = reinterpret_cast<T*>(p.to);
    std::memcpy(&value, p.value, sizeof(T));
    for (int64_t i = begin; i < end; ++i) to[i] = value;
  });
}

void join_or_copy(Binder& binder, const Tensor& from, const Tensor& to) {
  if (!join_copy(binder, from, to)) bind_copy(binder, from, to);
}

void bind_plain_copy(Binder& binder, const Call& call) { join_or_copy(binder, call.input(0), call.out()); }

void bind_write_state(Binder& binder, const Call& call) { join_or_copy(binder, call.input(1), call.input(0)); }

// Rows of a cache [..., C, D] replaced by [..., T, D], from a row on that is known when it runs.
struct Rows {
  const char* from;
  char* to;
  const int64_t* position;
  int64_t item, places, row_step;  // first rows at which they fit; elements from row to row of the cache
  int rank;
  int64_t shape[kMaxRank], from_steps[kMaxRank], to_steps[kMaxRank];
  int64_t total;
};

void run_rows(const void* params, Context& context) {
  const Rows& p = *static_cast<const Rows*>(params);
  const int64_t first = *p.position;
  if (first < 0 || first >= p.places) return context.fail(first, p.places);
  char* to = p.to + first * p.row_step * p.item;
  const int last = p.rank - 1;
  int64_t begin, end;
  context.share(p.total, 64, &begin, &end);
  Index index(p.rank, p.shape, begin);
  while (begin < end) {
    int64_t n = p.shape[last] - index.at[last];
    n = n < end - begin ? n : end - begin;
    copy_run(p.from + index.offset(p.from_steps) * p.item, to + index.offset(p.to_steps) * p.item, p.item,
             p.from_steps[last], p.to_steps[last], n);
    index.advance(n);
    begin += n;
  }
}

void emit_rows(Binder& binder, const Tensor& cache, const Tensor& rows, const Tensor& position) {
  Rows p{};
  p.from = rows.data;
  p.to = cache.data;
  p.position = position.as<const int64_t>();
  p.item = item_size(cache.dtype);
  p.rank = rows.rank;
  std::copy_n(rows.shape, rows.rank, p.shape);
  std::copy_n(rows.strides, rows.rank, p.from_steps);
  std::copy_n(cache.strides, rows.rank, p.to_steps);
  p.row_step = cache.strides[rows.rank - 2];
  p.places = cache.shape[rows.rank - 2] - rows.shape[rows.rank - 2] + 1;
  p.total = rows.numel();
  binder.emit(run_rows, p, p.total * p.item > kParallelBytes);
}

void bind_update_rows(Binder& binder, const Call& call) {
  if (call.input(0).data != call.out().data) bind_copy(binder, call.input(0), call.out());
  emit_rows(binder, call.out(), call.input(1), call.input(2));
}

void bind_write_rows(Binder& binder, const Call& call) {
  emit_rows(binder, call.input(0), call.input(1), call.input(2));
}

void bind_flip(Binder& binder, const Call& call) {
  Tensor x = call.input(0);
  for (int64_t axis : call.integers("axes")) {
    const int i = static_cast<int>(axis < 0 ? axis + x.rank : axis);
    if (x.shape[i] == 0) continue;
    x.data += (x.shape[i] - 1) * x.strides[i] * item_size(x.dtype);
    x.strides[i] = -x.strides[i];
  }
  bind_copy(binder, x, call.out());
}

void bind_concat(Binder& binder, const Call& call) {
  const Tensor& out = call.out();
  const int axis = call.axis("axis", out.rank);
  Tensor part = out;
  for (size_t i = 0; i < call.inputs.size(); ++i) {
    part.shape[axis] = call.input(i).shape[axis];
    bind_copy(binder, call.input(i), part, true);
    part.data += part.shape[axis] * part.strides[axis] * item_size(part.dtype);
  }
}

void bind_pad(Binder& binder, const Call& call) {
  const Tensor& x = call.input(0);
  Tensor inner = call.out();
  if (inner.dtype == DType::f64 || inner.dtype == DType::f16 || inner.dtype == DType::bf16) {
    throw Unsupported("pad has no native kernel for this element type");
  }
  Fill fill{};
  fill.to = inner.data;
  fill.item = item_size(inner.dtype);
  fill.count = inner.numel();
  std::memcpy(fill.value, binder.scalar(call.number("value"), inner.dtype).data, fill.item);
  binder.emit(run_fill, fill, fill.count * fill.item > kParallelBytes);
  for (int i = 0; i < x.rank; ++i) {
    inner.data += call.integers("before")[i] * inner.strides[i] * fill.item;
    inner.shape[i] = x.shape[i];
  }
  bind_copy(binder, x, inner);
}

}  // namespace

void bind_copy(Binder& binder, const Tensor& from, const Tensor& to, bool independent) {
  Copy p{};
  p.total = from.numel();
  if (p.total == 0) return;
  p.from = from.data;
  p.to = to.data;
  p.item = item_size(from.dtype);
  for (int i = 0; i < from.rank; ++i) {
    p.shape[i] = from.shape[i];
    p.steps[0][i] = from.strides[i];
    p.steps[1][i] = to.strides[i];
  }
  p.rank = coalesce<2>(from.rank, p.shape, p.steps);
  p.across = -1;
  const int last = p.rank - 1;
  for (int i = 0; i < last; ++i) {
    if (p.steps[0][i] == 1 && p.steps[0][last] != 1 && p.shape[i] >= 4 && p.shape[last] >= 4) p.across = i;
  }
  const bool parallel = p.total * p.item > kParallelBytes;
  if (p.item == 4 && p.steps[1][last] == 1) p.transpose = binder.kernels().transpose;
  binder.emit(p.across >= 0 ? run_transposing_copy : run_copy, p, parallel, independent);
}

void add_movement_binders(BindTable& table) {
  table["copy"] = bind_plain_copy;
  table["read_state"] = bind_plain_copy;
  table["write_state"] = bind_write_state;
  table["update_rows"] = bind_update_rows;
  table["write_rows"] = bind_write_rows;
  table["flip"] = bind_flip;
  table["concat"] = bind_concat;
  table["pad"] = bind_pad;
}

}  // namespace forgec
