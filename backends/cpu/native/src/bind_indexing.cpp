// Look-ups and scatters by index. An index out of range stops the run; below zero counts from the end, except
// in an embedding.
#include <algorithm>
#include <cstring>

#include "bind.h"
#include "walk.h"

namespace forgec {
namespace {

constexpr int64_t kParallelBytes = 64 * 1024;

int64_t read_index(const char* data, bool wide, int64_t i) {
  return wide ? reinterpret_cast<const int64_t*>(data)[i] : reinterpret_cast<const int32_t*>(data)[i];
}

// Index tensors that broadcast against each other, one per indexed axis.
struct Indices {
  int count, rank;
  int64_t shape[kMaxRank];
  const char* data[kMaxRank];
  bool wide[kMaxRank];
  int64_t steps[kMaxRank][kMaxRank];
  int64_t limit[kMaxRank], stride[kMaxRank];  // size of the axis, and elements between its entries
  bool from_end;

  int64_t total() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  // Elements from the start to the entry that position `at` names; false after reporting one out of range.
  bool offset(const Index& at, Context& context, int64_t* sum) const {
    *sum = 0;
    for (int k = 0; k < count; ++k) {
      const int64_t given = read_index(data[k], wide[k], at.offset(steps[k]));
      const int64_t i = given < 0 && from_end ? given + limit[k] : given;
      if (i < 0 || i >= limit[k]) {
        context.fail(given, limit[k]);
        return false;
      }
      *sum += i * stride[k];
    }
    return true;
  }
};

// Indices in operands [first, ...) of a call, on the axes of x from `axis` on.
Indices make_indices(const Call& call, size_t first, const Tensor& x, int axis) {
  Indices p{};
  p.count = static_cast<int>(call.inputs.size() - first);
  p.from_end = true;
  for (int k = 0; k < p.count; ++k) {
    const Tensor& index = call.input(first + k);
    if (index.rank > p.rank) p.rank = index.rank;
  }
  for (int i = 0; i < p.rank; ++i) p.shape[i] = 1;
  for (int k = 0; k < p.count; ++k) {
    const Tensor& index = call.input(first + k);
    const int shift = p.rank - index.rank;
    for (int i = 0; i < index.rank; ++i) {
      if (index.shape[i] == 1) continue;
      p.shape[shift + i] = index.shape[i];
      p.steps[k][shift + i] = index.strides[i];
    }
    p.data[k] = index.data;
    p.wide[k] = index.dtype == DType::i64;
    p.limit[k] = x.shape[axis + k];
    p.stride[k] = x.strides[axis + k];
  }
  return p;
}

struct Gather {
  Indices indices;
  const char* x;
  char* out;
  int64_t item, outer, outer_step, block;  // elements
};

void run_gather(const void* params, Context& context) {
  const Gather& p = *static_cast<const Gather*>(params);
  const int64_t total = p.indices.total(), bytes = p.block * p.item;
  int64_t begin, end;
  context.share(p.outer * total, 1, &begin, &end);
  Index at(p.indices.rank, p.indices.shape, total > 0 ? begin % total : 0);
  for (; begin < end; ++begin) {
    int64_t offset;
    if (!p.indices.offset(at, context, &offset)) return;
    const int64_t outer = begin / total;
    std::memcpy(p.out + begin * bytes, p.x + (outer * p.outer_step + offset) * p.item, static_cast<size_t>(bytes));
    at.advance(1);
    if ((begin + 1) % total == 0) at = Index(p.indices.rank, p.indices.shape, 0);
  }
}

void emit_gather(Binder& binder, const Call& call, int axis, bool from_end) {
  const Tensor x = binder.contiguous(call.input(0));
  Gather p{};
  p.indices = make_indices(call, 1, x, axis);
  p.indices.from_end = from_end;
  p.x = x.data;
  p.out = call.out().data;
  p.item = item_size(x.dtype);
  p.outer = p.block = 1;
  for (int i = 0; i < axis; ++i) p.outer *= x.shape[i];
  for (int i = axis + p.indices.count; i < x.rank; ++i) p.block *= x.shape[i];
  p.outer_step = axis > 0 ? x.shape[axis] * x.strides[axis] : 0;
  binder.emit(run_gather, p, call.out().numel() * p.item > kParallelBytes);
}

// Rows of a table in the layout of the products' kernels.
struct PanelRows {
  const float* panels;
  const char* ids;
  bool wide;
  int64_t count, rows, size;
  float* out;
};

void run_panel_rows(const void* params, Context& context) {
  constexpr int64_t kAhead = 16;  // every element of a row is in a cache line of its own
  const PanelRows& p = *static_cast<const PanelRows*>(params);
  int64_t begin, end;
  context.share(p.count, 1, &begin, &end);
  for (; begin < end; ++begin) {
    const int64_t id = read_index(p.ids, p.wide, begin);
    if (id < 0 || id >= p.rows) return context.fail(id, p.rows);
    const float* column = p.panels + id / kPanel * p.size * kPanel + id % kPanel;
    float* out = p.out + begin * p.size;
    for (int64_t k = 0; k < p.size; ++k) {
      __builtin_prefetch(column + std::min(k + kAhead, p.size - 1) * kPanel);
      out[k] = column[k * kPanel];
    }
  }
}

void bind_embedding(Binder& binder, const Call& call) {
  const float* panels = call.packed_input<float>(0);
  if (panels == nullptr) return emit_gather(binder, call, 0, false);
  const Tensor& table = call.input(0);
  const Tensor ids = binder.contiguous(call.input(1));
  const PanelRows p{panels,         ids.data,       ids.dtype == DType::i64, ids.numel(),
                    table.shape[0], table.shape[1], call.out().as<float>()};
  binder.emit(run_panel_rows, p, call.out().numel() * item_size(DType::f32) > kParallelBytes);
}

void bind_gather(Binder& binder, const Call& call) {
  emit_gather(binder, call, call.axis("axis", call.input(0).rank), true);
}

struct TakeAlong {
  const char *x, *index;
  char* out;
  bool wide;
  int64_t item, limit, stride, total;
  int rank;
  int64_t shape[kMaxRank], x_steps[kMaxRank], index_steps[kMaxRank];
};

void run_take_along(const void* params, Context& context) {
  const TakeAlong& p = *static_cast<const TakeAlong*>(params);
  int64_t begin, end;
  context.share(p.total, 64, &begin, &end);
  Index at(p.rank, p.shape, begin);
  for (; begin < end; ++begin, at.advance(1)) {
    const int64_t given = read_index(p.index, p.wide, at.offset(p.index_steps));
    const int64_t i = given < 0 ? given + p.limit : given;
    if (i < 0 || i >= p.limit) return context.fail(given, p.limit);
    const char* from = p.x + (at.offset(p.x_steps) + i * p.stride) * p.item;
    std::memcpy(p.out + begin * p.item, from, static_cast<size_t>(p.item));
  }
}

void bind_take_along(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &index = call.input(1);
  const int axis = call.axis("axis", x.rank);
  TakeAlong p{};
  p.x = x.data;
  p.index = index.data;
  p.out = call.out().data;
  p.wide = index.dtype == DType::i64;
  p.item = item_size(x.dtype);
  p.limit = x.shape[axis];
  p.stride = x.strides[axis];
  p.total = index.numel();
  p.rank = index.rank;
  for (int i = 0; i < index.rank; ++i) {
    p.shape[i] = index.shape[i];
    p.index_steps[i] = index.strides[i];
    p.x_steps[i] = i == axis ? 0 : x.strides[i];
  }
  binder.emit(run_take_along, p, p.total * p.item > kParallelBytes);
}

// Updates in the order of their positions, by one thread: of several for one place, the last one stays.
struct Scatter {
  Indices indices;
  const char* updates;
  char* out;
  DType dtype;
  bool accumulate;
  int64_t block;
  int rank;  // of one update's block
  int64_t shape[kMaxRank], steps[kMaxRank], outer_steps[kMaxRank];
};

template <class T>
void add_item(char* to, const char* from) {
  T a, b;
  std::memcpy(&a, to, sizeof(T));
  std::memcpy(&b, from, sizeof(T));
  a = static_cast<T>(a + b);
  std::memcpy(to, &a, sizeof(T));
}

void run_scatter(const void* params, Context& context) {
  const Scatter& p = *static_cast<const Scatter*>(params);
  const int64_t total = p.indices.total(), item = item_size(p.dtype);
  Index at(p.indices.rank, p.indices.shape, 0);
  for (int64_t i = 0; i < total; ++i, at.advance(1)) {
    int64_t offset;
    if (!p.indices.offset(at, context, &offset)) return;
    const char* from = p.updates + at.offset(p.outer_steps) * item;
    Index inner(p.rank, p.shape, 0);
    for (int64_t j = 0; j < p.block; ++j, inner.advance(1)) {
      char* to = p.out + (offset + j) * item;
      const char* update = from + inner.offset(p.steps) * item;
      if (!p.accumulate) {
        std::memcpy(to, update, static_cast<size_t>(item));
      } else if (p.dtype == DType::f32) {
        add_item<float>(to, update);
      } else if (p.dtype == DType::i64) {
        add_item<uint64_t>(to, update);
      } else {
        add_item<uint32_t>(to, update);
      }
    }
  }
}

void bind_scatter(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &updates = call.input(1), &out = call.out();
  Scatter p{};
  p.accumulate = call.flag("accumulate");
  p.dtype = x.dtype;
  if (p.accumulate && p.dtype != DType::f32 && p.dtype != DType::i64 && p.dtype != DType::i32) {
    throw Unsupported("scatter that adds has no native kernel for this element type");
  }
  if (x.data != out.data) bind_copy(binder, x, out);
  p.indices = make_indices(call, 2, out, 0);
  p.updates = updates.data;
  p.out = out.data;
  p.rank = out.rank - p.indices.count;
  p.block = 1;
  const int full = p.indices.rank + p.rank;  // rank that the updates broadcast to
  for (int i = 0; i < p.rank; ++i) {
    p.shape[i] = out.shape[p.indices.count + i];
    p.block *= p.shape[i];
  }
  for (int i = 0; i < updates.rank; ++i) {
    const int axis = full - updates.rank + i;
    const int64_t step = updates.shape[i] == 1 ? 0 : updates.strides[i];
    (axis < p.indices.rank ? p.outer_steps[axis] : p.steps[axis - p.indices.rank]) = step;
  }
  binder.emit(run_scatter, p, false);
}

}  // namespace

void add_indexing_binders(BindTable& table) {
  table["embedding"] = bind_embedding;
  table["gather"] = bind_gather;
  table["take_along"] = bind_take_along;
  table["scatter"] = bind_scatter;
}

}  // namespace forgec
