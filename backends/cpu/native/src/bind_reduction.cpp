// Reductions over any axes, running sums, argmax and top-k. Sums of f32 are accumulated in double.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "bind.h"
#include "walk.h"

namespace forgec {
namespace {

constexpr int64_t kParallelElements = 32768;
constexpr int64_t kColumns = 64;

struct Reduction {
  const char* x;
  char* out;
  int kept_rank, reduced_rank;
  int64_t kept_shape[kMaxRank], kept_steps[kMaxRank];
  int64_t reduced_shape[kMaxRank], reduced_steps[kMaxRank];
  int64_t kept, reduced;
};

template <class T>
struct Sum {
  using Total = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;
  static Total start() { return 0; }
  static Total join(Total a, Total b) { return a + b; }
  static T finish(Total a, int64_t) { return static_cast<T>(a); }
};

template <class T>
struct Mean : Sum<T> {
  static T finish(typename Sum<T>::Total a, int64_t n) { return static_cast<T>(a / static_cast<double>(n)); }
};

template <class T>
struct Product {
  using Total = typename Sum<T>::Total;
  static Total start() { return 1; }
  static Total join(Total a, Total b) { return a * b; }
  static T finish(Total a, int64_t) { return static_cast<T>(a); }
};

// A nan is larger than anything, and smaller.
template <class T>
struct Largest {
  using Total = T;
  static Total start() {
    return std::is_floating_point_v<T> ? static_cast<T>(-__builtin_inff()) : std::numeric_limits<T>::min();
  }
  static Total join(Total a, Total b) { return a > b || a != a ? a : b; }
  static T finish(Total a, int64_t) { return a; }
};

template <class T>
struct Smallest {
  using Total = T;
  static Total start() {
    return std::is_floating_point_v<T> ? static_cast<T>(__builtin_inff()) : std::numeric_limits<T>::max();
  }
  static Total join(Total a, Total b) { return a < b || a != a ? a : b; }
  static T finish(Total a, int64_t) { return a; }
};

template <class T>
struct All : Smallest<T> {
  static T start() { return 1; }
};

template <class T, class R>
typename R::Total reduce_row(const T* x, int64_t step, int64_t n) {
  using Total = typename R::Total;
  constexpr int lanes = 8;
  Total lane[lanes];
  for (Total& total : lane) total = R::start();
  int64_t i = 0;
  if (step == 1) {
    for (; i + lanes <= n; i += lanes) {
      for (int j = 0; j < lanes; ++j) lane[j] = R::join(lane[j], static_cast<Total>(x[i + j]));
    }
  }
  for (; i < n; ++i) lane[0] = R::join(lane[0], static_cast<Total>(x[i * step]));
  for (int j = 1; j < lanes; ++j) lane[0] = R::join(lane[0], lane[j]);
  return lane[0];
}

template <class T, class R>
void run_reduce_rows(const void* params, Context& context) {
  const Reduction& p = *static_cast<const Reduction*>(params);
  const int last = p.reduced_rank - 1;
  const int64_t n = p.reduced_shape[last], rows = n > 0 ? p.reduced / n : 0;
  int64_t begin, end;
  context.share(p.kept, 16, &begin, &end);
  Index at(p.kept_rank, p.kept_shape, begin);
  for (; begin < end; ++begin, at.advance(1)) {
    const T* x = reinterpret_cast<const T*>(p.x) + at.offset(p.kept_steps);
    auto total = R::start();
    Index inner(p.reduced_rank, p.reduced_shape, 0);
    for (int64_t row = 0; row < rows; ++row, inner.advance(n)) {
      total = R::join(total, reduce_row<T, R>(x + inner.offset(p.reduced_steps), p.reduced_steps[last], n));
    }
    reinterpret_cast<T*>(p.out)[begin] = R::finish(total, p.reduced);
  }
}

// The last kept axis is contiguous: many results side by side.
template <class T, class R>
void run_reduce_columns(const void* params, Context& context) {
  const Reduction& p = *static_cast<const Reduction*>(params);
  const int last = p.kept_rank - 1;
  int64_t begin, end;
  context.share(p.kept, kColumns, &begin, &end);
  Index at(p.kept_rank, p.kept_shape, begin);
  while (begin < end) {
    int64_t n = p.kept_shape[last] - at.at[last];
    n = n < end - begin ? n : end - begin;
    n = n < kColumns ? n : kColumns;
    const T* x = reinterpret_cast<const T*>(p.x) + at.offset(p.kept_steps);
    typename R::Total totals[kColumns];
    for (int64_t j = 0; j < n; ++j) totals[j] = R::start();
    Index inner(p.reduced_rank, p.reduced_shape, 0);
    for (int64_t i = 0; i < p.reduced; ++i, inner.advance(1)) {
      const T* row = x + inner.offset(p.reduced_steps);
      for (int64_t j = 0; j < n; ++j) totals[j] = R::join(totals[j], static_cast<typename R::Total>(row[j]));
    }
    for (int64_t j = 0; j < n; ++j) reinterpret_cast<T*>(p.out)[begin + j] = R::finish(totals[j], p.reduced);
    at.advance(n);
    begin += n;
  }
}

template <class T, template <class> class R>
void emit_reduction(Binder& binder, const Call& call) {
  const Tensor& x = call.input(0);
  bool reduced[kMaxRank] = {};
  for (int64_t axis : call.integers("axes")) reduced[axis < 0 ? axis + x.rank : axis] = true;
  Reduction p{};
  p.x = x.data;
  p.out = call.out().data;
  p.kept = p.reduced = 1;
  for (int i = 0; i < x.rank; ++i) {
    if (reduced[i]) {
      p.reduced_shape[p.reduced_rank] = x.shape[i];
      p.reduced_steps[p.reduced_rank++] = x.strides[i];
      p.reduced *= x.shape[i];
    } else {
      p.kept_shape[p.kept_rank] = x.shape[i];
      p.kept_steps[p.kept_rank++] = x.strides[i];
      p.kept *= x.shape[i];
    }
  }
  p.reduced_rank = coalesce<1>(p.reduced_rank, p.reduced_shape, &p.reduced_steps);
  p.kept_rank = coalesce<1>(p.kept_rank, p.kept_shape, &p.kept_steps);
  const bool columns = p.kept_steps[p.kept_rank - 1] == 1 && p.kept_shape[p.kept_rank - 1] >= 4 &&
                       p.reduced_steps[p.reduced_rank - 1] != 1;
  binder.emit(columns ? run_reduce_columns<T, R<T>> : run_reduce_rows<T, R<T>>, p, x.numel() > kParallelElements);
}

template <template <class> class R>
void bind_reduction(Binder& binder, const Call& call) {
  switch (call.input(0).dtype) {
    case DType::f32:
      return emit_reduction<float, R>(binder, call);
    case DType::i64:
      return emit_reduction<int64_t, R>(binder, call);
    case DType::i32:
      return emit_reduction<int32_t, R>(binder, call);
    case DType::b8:
      return emit_reduction<uint8_t, R>(binder, call);
    default:
      throw Unsupported(call.op + " has no native kernel for this element type");
  }
}

void bind_mean(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "mean");
  emit_reduction<float, Mean>(binder, call);
}

// x as [outer, size, inner], contiguous.
struct AxisScan {
  const char* x;
  char* out;
  int64_t outer, size, inner;
};

AxisScan make_scan(Binder& binder, const Call& call) {
  const Tensor x = binder.contiguous(call.input(0));
  const int axis = call.axis("axis", x.rank);
  AxisScan p{x.data, call.out().data, 1, x.shape[axis], 1};
  for (int i = 0; i < axis; ++i) p.outer *= x.shape[i];
  for (int i = axis + 1; i < x.rank; ++i) p.inner *= x.shape[i];
  return p;
}

// Columns side by side at a time, so that rows are read as they lie.
template <class T>
void run_cumsum(const void* params, Context& context) {
  const AxisScan& p = *static_cast<const AxisScan*>(params);
  int64_t begin, end;
  context.share(p.outer * p.inner, 16, &begin, &end);
  while (begin < end) {
    const int64_t col = begin % p.inner;
    const int64_t n = std::min(std::min(p.inner - col, end - begin), kColumns);
    const int64_t start = begin / p.inner * p.size * p.inner + col;
    const T* x = reinterpret_cast<const T*>(p.x) + start;
    T* y = reinterpret_cast<T*>(p.out) + start;
    typename Sum<T>::Total totals[kColumns] = {};
    for (int64_t i = 0; i < p.size; ++i, x += p.inner, y += p.inner) {
      for (int64_t j = 0; j < n; ++j) {
        totals[j] += static_cast<typename Sum<T>::Total>(x[j]);
        y[j] = static_cast<T>(totals[j]);
      }
    }
    begin += n;
  }
}

template <class T>
void run_argmax(const void* params, Context& context) {
  const AxisScan& p = *static_cast<const AxisScan*>(params);
  int64_t begin, end;
  context.share(p.outer * p.inner, 16, &begin, &end);
  for (; begin < end; ++begin) {
    const T* x = reinterpret_cast<const T*>(p.x) + begin / p.inner * p.size * p.inner + begin % p.inner;
    int64_t best = 0;
    for (int64_t i = 1; i < p.size && x[best * p.inner] == x[best * p.inner]; ++i) {  // a first nan wins
      const T value = x[i * p.inner];
      if (value > x[best * p.inner] || value != value) best = i;
    }
    reinterpret_cast<int64_t*>(p.out)[begin] = best;
  }
}


void bind_cumsum(Binder& binder, const Call& call) {
  const AxisScan p = make_scan(binder, call);
  const bool parallel = call.out().numel() > kParallelElements;
  switch (call.out().dtype) {
    case DType::f32:
      return binder.emit(run_cumsum<float>, p, parallel);
    case DType::i64:
      return binder.emit(run_cumsum<int64_t>, p, parallel);
    case DType::i32:
      return binder.emit(run_cumsum<int32_t>, p, parallel);
    default:
      throw Unsupported("cumsum has no native kernel for this element type");
  }
}

void bind_argmax(Binder& binder, const Call& call) {
  const AxisScan p = make_scan(binder, call);
  const bool parallel = call.input(0).numel() > kParallelElements;
  switch (call.input(0).dtype) {
    case DType::f32:
      return binder.emit(run_argmax<float>, p, parallel);
    case DType::i64:
      return binder.emit(run_argmax<int64_t>, p, parallel);
    case DType::i32:
      return binder.emit(run_argmax<int32_t>, p, parallel);
    case DType::b8:
      return binder.emit(run_argmax<uint8_t>, p, parallel);
    default:
      throw Unsupported("argmax has no native kernel for this element type");
  }
}

struct TopK {
  const float* x;
  float* values;
  int64_t* indices;
  int64_t* order;  // room for `size` numbers per thread
  int64_t rows, size, k;
};

void run_top_k(const void* params, Context& context) {
  const TopK& p = *static_cast<const TopK*>(params);
  int64_t* order = p.order + context.thread * p.size;
  int64_t begin, end;
  context.share(p.rows, 1, &begin, &end);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = p.x + row * p.size;
    for (int64_t i = 0; i < p.size; ++i) order[i] = i;
    // Larger first, nan last, the lower index first among equals.
    std::partial_sort(order, order + p.k, order + p.size, [x](int64_t a, int64_t b) {
      const bool nan_a = x[a] != x[a], nan_b = x[b] != x[b];
      if (nan_a || nan_b) return nan_a == nan_b ? a < b : nan_b;
      return x[a] != x[b] ? x[a] > x[b] : a < b;
    });
    for (int64_t i = 0; i < p.k; ++i) {
      p.values[row * p.k + i] = x[order[i]];
      p.indices[row * p.k + i] = order[i];
    }
  }
}

void bind_top_k(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "top_k");
  const Tensor x = binder.contiguous(call.input(0));
  TopK p{};
  p.x = x.as<const float>();
  p.values = call.outputs.at(0).as<float>();
  p.indices = call.outputs.at(1).as<int64_t>();
  p.size = x.shape[x.rank - 1];
  p.rows = p.size > 0 ? x.numel() / p.size : 0;
  p.k = call.integer("k");
  p.order = reinterpret_cast<int64_t*>(binder.take(p.size * 8 * binder.threads()));
  binder.emit(run_top_k, p, p.rows > 1 && x.numel() > kParallelElements);
}

}  // namespace

void add_reduction_binders(BindTable& table) {
  table["sum"] = bind_reduction<Sum>;
  table["prod"] = bind_reduction<Product>;
  table["max"] = bind_reduction<Largest>;
  table["min"] = bind_reduction<Smallest>;
  table["any"] = bind_reduction<Largest>;
  table["all"] = bind_reduction<All>;
  table["mean"] = bind_mean;
  table["cumsum"] = bind_cumsum;
  table["argmax"] = bind_argmax;
  table["top_k"] = bind_top_k;
}

}  // namespace forgec
