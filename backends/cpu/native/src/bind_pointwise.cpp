// Point-wise ops: a function on contiguous runs, and a walk that feeds it runs of strided, broadcast operands.
//
// The result is walked in row-major order in runs of at most 512 elements. An operand that is contiguous along
// the last axis is read in place, if that has some length, and so is one number for all of a run where the function has
// a form for that; any other is first gathered into a buffer that stays in the first-level cache.
// Result and operand may be the same memory if they are the same elements.
//
// Successive ops on as many elements become one step: each thread takes its part tile by tile through all of them,
// so that what one writes is in the cache when the next reads it. That is right where they meet in memory only at
// the same elements.
#include <cmath>
#include <cstring>

#include "bind.h"
#include "integers.h"
#include "walk.h"

namespace forgec {
namespace {

constexpr int64_t kRun = 512;
constexpr int64_t kTile = 4 * kRun;  // elements that go through all ops of a step
constexpr int64_t kShortRow = 32;  // elements: shorter rows are gathered, several to a run
constexpr int kMembers = 16;  // ops of a step at most: their tiles stay in the second-level cache
constexpr int64_t kParallelElements = 16384;
constexpr int64_t kBlockSide = 8;  // elements of an axis that are worth a block
constexpr int64_t kLeastAcross = 1 << 16, kMostAcross = 1 << 24;  // bytes of an operand that is turned first

// One op; the next one of the same step, or null.
struct Chain {
  Pointwise function;
  int operands;
  int number;  // the operand that is one number for all of a run, or -1
  const char* in[3];
  int64_t item[3];
  int64_t steps[3][kMaxRank];
  int rank;
  int64_t shape[kMaxRank];
  char* out;
  int64_t out_item, total;
  Chain* next;
};

struct RunBuffer {
  alignas(64) char bytes[kRun * 8];
  const char* filled_from = nullptr;  // with a broadcast operand, what the first `filled` elements are
  int64_t filled = 0;
};

bool has_short_rows(const Chain& p) { return p.rank > 1 && p.shape[p.rank - 1] < kShortRow; }

// Operand k's next n elements, in place or gathered.
const char* fetch(const Chain& p, int k, const Index& index, int64_t n, RunBuffer& buffer) {
  const int64_t step = p.steps[k][p.rank - 1];
  const char* from = p.in[k] + index.offset(p.steps[k]) * p.item[k];
  if (step == 1) return from;
  if (step == 0 && buffer.filled_from == from && buffer.filled >= n) return buffer.bytes;
  with_item(p.item[k], [&](auto zero) {
    using T = decltype(zero);
    T* to = reinterpret_cast<T*>(buffer.bytes);
    const T* source = reinterpret_cast<const T*>(from);
    if (step == 0) {
      for (int64_t i = 0; i < n; ++i) to[i] = *source;
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = source[i * step];
    }
  });
  buffer.filled_from = step == 0 ? from : nullptr;
  buffer.filled = n;
  return buffer.bytes;
}

// Operand k's next n elements of rows that are too short for a run each, gathered.
const char* fetch_rows(const Chain& p, int k, Index index, int64_t n, RunBuffer& buffer) {
  const int last = p.rank - 1;
  const int64_t step = p.steps[k][last];
  with_item(p.item[k], [&](auto zero) {
    using T = decltype(zero);
    T* to = reinterpret_cast<T*>(buffer.bytes);
    for (int64_t left = n; left > 0;) {
      const T* from = reinterpret_cast<const T*>(p.in[k]) + index.offset(p.steps[k]);
      const int64_t rest = p.shape[last] - index.at[last], count = rest < left ? rest : left;
      for (int64_t i = 0; i < count; ++i) *to++ = from[i * step];
      index.advance(count);
      left -= count;
    }
  });
  return buffer.bytes;
}

void run_part(const Chain& p, int64_t begin, int64_t end) {
  RunBuffer buffers[3];
  Index index(p.rank, p.shape, begin);
  const int last = p.rank - 1;
  const bool in_rows = has_short_rows(p);
  while (begin < end) {
    int64_t n = in_rows ? end - begin : p.shape[last] - index.at[last];
    n = n < end - begin ? n : end - begin;
    n = n < kRun ? n : kRun;
    const char* in[3] = {};
    for (int k = 0; k < p.operands; ++k) {
      if (k == p.number) {
        in[k] = p.in[k] + index.offset(p.steps[k]) * p.item[k];
      } else {
        in[k] = in_rows ? fetch_rows(p, k, index, n, buffers[k]) : fetch(p, k, index, n, buffers[k]);
      }
    }
    p.function(in[0], in[1], in[2], p.out + begin * p.out_item, n);
    begin += n;
    if (in_rows) {
      index = Index(p.rank, p.shape, begin);
    } else {
      index.advance(n);
    }
  }
}

void run_chain(const void* params, Context& context) {
  const Chain& first = *static_cast<const Chain*>(params);
  int64_t begin, end;
  context.share(first.total, 64, &begin, &end);
  const int64_t tile = first.next == nullptr ? end - begin : kTile;
  for (; begin < end; begin += tile) {
    const int64_t stop = begin + tile < end ? begin + tile : end;
    for (const Chain* p = &first; p != nullptr; p = p->next) run_part(*p, begin, stop);
  }
}

// The bytes that an op reads or writes through one operand, and whether element i of the result lies at place i.
struct Extent {
  const char *low, *high;
  int64_t item;
  bool in_order;
};

Extent extent(const char* base, int64_t item, const int64_t* steps, int rank, const int64_t* shape) {
  Extent found{base, base + item, item, true};
  int64_t next = 1;
  for (int i = rank - 1; i >= 0; --i) {
    const int64_t reach = steps[i] * (shape[i] - 1) * item;
    (reach < 0 ? found.low : found.high) += reach;
    found.in_order = found.in_order && (shape[i] == 1 || steps[i] == next);
    next *= shape[i];
  }
  return found;
}

bool apart(const Extent& a, const Extent& b) {
  return a.high <= b.low || b.high <= a.low || (a.in_order && b.in_order && a.low == b.low && a.item == b.item);
}

Extent operand(const Chain& p, int k) { return extent(p.in[k], p.item[k], p.steps[k], p.rank, p.shape); }

Extent result(const Chain& p) { return {p.out, p.out + p.total * p.out_item, p.out_item, true}; }

// Whether `later` may run on a tile before `earlier` has run on the next.
bool may_share_tiles(const Chain& earlier, const Chain& later) {
  if (!apart(result(earlier), result(later))) return false;
  for (int k = 0; k < later.operands; ++k) {
    if (!apart(result(earlier), operand(later, k))) return false;
  }
  for (int k = 0; k < earlier.operands; ++k) {
    if (!apart(operand(earlier, k), result(later))) return false;
  }
  return true;
}

// Adds an op to the step before; false if that is none of point-wise ops on as many elements, or not right.
bool joined(Binder& binder, const Chain& p) {
  Chain* member = binder.last<Chain>(run_chain);
  if (member == nullptr || member->total != p.total || p.total == 0) return false;
  for (int count = 1;; ++count, member = member->next) {
    if (count == kMembers || !may_share_tiles(*member, p)) return false;
    if (member->next == nullptr) break;
  }
  member->next = binder.keep(p);
  return true;
}

// A function and its forms for one number, for all of a run, as operand 0 or 1; null where it has none.
struct Forms {
  Pointwise function;
  Pointwise with_number[2] = {};
};

Chain chain_of(const Forms& forms, const std::vector<Tensor>& in, const Tensor& out) {
  Chain p{};
  p.function = forms.function;
  p.operands = static_cast<int>(in.size());
  p.rank = out.rank;
  for (int i = 0; i < out.rank; ++i) p.shape[i] = out.shape[i];
  int64_t steps[4][kMaxRank] = {};
  for (size_t k = 0; k < in.size(); ++k) {
    p.in[k] = in[k].data;
    p.item[k] = item_size(in[k].dtype);
    const int shift = out.rank - in[k].rank;
    for (int i = 0; i < in[k].rank; ++i) steps[k][shift + i] = in[k].shape[i] == 1 ? 0 : in[k].strides[i];
  }
  for (int i = 0; i < out.rank; ++i) steps[3][i] = out.strides[i];
  p.rank = coalesce<4>(p.rank, p.shape, steps);
  for (int k = 0; k < 3; ++k) {
    for (int i = 0; i < p.rank; ++i) p.steps[k][i] = steps[k][i];
  }
  p.number = -1;
  for (int k = 0; k < 2 && !has_short_rows(p); ++k) {
    if (forms.with_number[k] == nullptr || p.steps[k][p.rank - 1] != 0 || p.number >= 0) continue;
    p.function = forms.with_number[k];
    p.number = k;
  }
  p.out = out.data;
  p.out_item = item_size(out.dtype);
  p.total = out.numel();
  return p;
}

// Whether a large operand lies along another axis than the result: element by element every cache line would be read
// for one of its elements, and blocks are not.
bool lies_across(const Tensor& t, const Tensor& out) {
  const int64_t bytes = t.numel() * item_size(t.dtype), last = t.rank - 1;
  if (t.numel() != out.numel() || bytes < kLeastAcross || bytes > kMostAcross) return false;
  bool another = false;
  for (int i = 0; i < last; ++i) another = another || (t.shape[i] >= kBlockSide && t.strides[i] == 1);
  return another && t.strides[last] != 1 && t.shape[last] >= kBlockSide;
}

void emit_chain(Binder& binder, const Forms& forms, std::vector<Tensor> in, const Tensor& out) {
  for (Tensor& t : in) {
    if (lies_across(t, out)) t = binder.contiguous(t);
  }
  const Chain p = chain_of(forms, in, out);
  if (!joined(binder, p)) binder.emit(run_chain, p, p.total > kParallelElements);
}

// Of item sizes 1, 2, 4 and 8 the number.
int which_size(DType dtype) {
  const int64_t size = item_size(dtype);
  return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

template <class T>
void copy_items(const void* from, const void*, const void*, void* to, int64_t n) {
  if (from != to) std::memcpy(to, from, static_cast<size_t>(n) * sizeof(T));
}

template <Unary op>
void bind_unary(Binder& binder, const Call& call) {
  const Tensor& x = call.input(0);
  const Pointwise f = x.dtype == DType::f32 ? binder.kernels().unary[static_cast<int>(op)] : integer_unary(op, x.dtype);
  if (f == nullptr) throw Unsupported(call.op + " has no native kernel for this element type");
  emit_chain(binder, {f}, {x}, call.out());
}

Pointwise binary_function(Binder& binder, Binary op, DType dtype) {
  return dtype == DType::f32 ? binder.kernels().binary[static_cast<int>(op)] : integer_binary(op, dtype);
}

template <Binary op>
void bind_binary(Binder& binder, const Call& call) {
  const Tensor &a = call.input(0), &b = call.input(1);
  if (op == Binary::pow && a.dtype == DType::f32 && call.literal[1] && *b.as<const float>() == 2.0f) {
    return emit_chain(binder, {binder.kernels().unary[static_cast<int>(Unary::square)]}, {a}, call.out());
  }
  Forms forms{binary_function(binder, op, a.dtype)};
  if (forms.function == nullptr) throw Unsupported(call.op + " has no native kernel for this element type");
  constexpr int which = static_cast<int>(op);
  if constexpr (which < 4) {
    for (int k = 0; k < 2 && a.dtype == DType::f32; ++k) forms.with_number[k] = binder.kernels().with_number[k][which];
  }
  emit_chain(binder, forms, {a, b}, call.out());
}

void bind_clamp(Binder& binder, const Call& call) {
  Tensor x = call.input(0);
  const bool low = !call.is_none("low"), high = !call.is_none("high");
  const Pointwise up = binary_function(binder, Binary::maximum, x.dtype);
  const Pointwise down = binary_function(binder, Binary::minimum, x.dtype);
  if (up == nullptr || down == nullptr) throw Unsupported("clamp has no native kernel for this element type");
  if (low) emit_chain(binder, {up}, {x, binder.scalar(call.number("low"), x.dtype)}, call.out());
  if (low) x = call.out();
  if (high) emit_chain(binder, {down}, {x, binder.scalar(call.number("high"), x.dtype)}, call.out());
  if (!low && !high) bind_copy(binder, x, call.out());
}

void bind_where(Binder& binder, const Call& call) {
  static const Forms by_size[] = {{select_items<uint8_t>, {select_run<uint8_t>}},
                                  {select_items<uint16_t>, {select_run<uint16_t>}},
                                  {select_items<uint32_t>, {select_run<uint32_t>}},
                                  {select_items<uint64_t>, {select_run<uint64_t>}}};
  emit_chain(binder, by_size[which_size(call.out().dtype)], {call.input(0), call.input(1), call.input(2)}, call.out());
}

void bind_gated(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "gated");
  const Pointwise f = binder.kernels().gated[static_cast<int>(parse_act(call.text("act")))];
  emit_chain(binder, {f}, {call.input(0), call.input(1)}, call.out());
}

void bind_cast(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &out = call.out();
  if (x.dtype == out.dtype) return bind_copy(binder, x, out);
  emit_chain(binder, {cast_function(x.dtype, out.dtype)}, {x}, out);
}

template <Logic op>
void bind_logic(Binder& binder, const Call& call) {
  std::vector<Tensor> in = {call.input(0)};
  if (op != Logic::negate) in.push_back(call.input(1));
  emit_chain(binder, {logic_function(op)}, in, call.out());
}

}  // namespace

bool join_copy(Binder& binder, const Tensor& from, const Tensor& to) {
  if (!from.contiguous() || !to.contiguous()) return false;
  static const Forms by_size[] = {{copy_items<uint8_t>}, {copy_items<uint16_t>}, {copy_items<uint32_t>},
                                  {copy_items<uint64_t>}};
  return joined(binder, chain_of(by_size[which_size(from.dtype)], {from}, to));
}

void add_pointwise_binders(BindTable& table) {
  table["neg"] = bind_unary<Unary::neg>;
  table["abs"] = bind_unary<Unary::abs>;
  table["exp"] = bind_unary<Unary::exp>;
  table["log"] = bind_unary<Unary::log>;
  table["sqrt"] = bind_unary<Unary::sqrt>;
  table["rsqrt"] = bind_unary<Unary::rsqrt>;
  table["reciprocal"] = bind_unary<Unary::reciprocal>;
  table["sin"] = bind_unary<Unary::sin>;
  table["cos"] = bind_unary<Unary::cos>;
  table["tanh"] = bind_unary<Unary::tanh>;
  table["erf"] = bind_unary<Unary::erf>;
  table["sigmoid"] = bind_unary<Unary::sigmoid>;
  table["silu"] = bind_unary<Unary::silu>;
  table["gelu"] = bind_unary<Unary::gelu>;
  table["gelu_tanh"] = bind_unary<Unary::gelu_tanh>;
  table["relu"] = bind_unary<Unary::relu>;
  table["softplus"] = bind_unary<Unary::softplus>;
  table["floor"] = bind_unary<Unary::floor>;
  table["ceil"] = bind_unary<Unary::ceil>;
  table["round"] = bind_unary<Unary::round>;
  table["sign"] = bind_unary<Unary::sign>;
  table["add"] = bind_binary<Binary::add>;
  table["sub"] = bind_binary<Binary::sub>;
  table["mul"] = bind_binary<Binary::mul>;
  table["div"] = bind_binary<Binary::div>;
  table["floor_div"] = bind_binary<Binary::floor_div>;
  table["mod"] = bind_binary<Binary::mod>;
  table["pow"] = bind_binary<Binary::pow>;
  table["maximum"] = bind_binary<Binary::maximum>;
  table["minimum"] = bind_binary<Binary::minimum>;
  table["eq"] = bind_binary<Binary::eq>;
  table["ne"] = bind_binary<Binary::ne>;
  table["lt"] = bind_binary<Binary::lt>;
  table["le"] = bind_binary<Binary::le>;
  table["gt"] = bind_binary<Binary::gt>;
  table["ge"] = bind_binary<Binary::ge>;
  table["and"] = bind_logic<Logic::both>;
  table["or"] = bind_logic<Logic::either>;
  table["xor"] = bind_logic<Logic::one>;
  table["not"] = bind_logic<Logic::negate>;
  table["where"] = bind_where;
  table["clamp"] = bind_clamp;
  table["gated"] = bind_gated;
  table["cast"] = bind_cast;
}

}  // namespace forgec
