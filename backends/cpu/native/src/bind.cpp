#include "bind.h"

#include <cstring>

namespace forgec {
namespace {

const BindTable& binders() {
  static const BindTable table = [] {
    BindTable t;
    add_matrix_binders(t);
    add_quant_binders(t);
    add_normalisation_binders(t);
    add_pointwise_binders(t);
    add_movement_binders(t);
    add_indexing_binders(t);
    add_reduction_binders(t);
    add_pooling_binders(t);
    return t;
  }();
  return table;
}

template <class T>
const T& attr(const Call& call, const char* name) {
  const auto found = call.attrs.find(name);
  const T* value = found == call.attrs.end() ? nullptr : std::get_if<T>(&found->second);
  if (value == nullptr) throw std::invalid_argument(call.op + " lacks attribute " + name);
  return *value;
}

}  // namespace

const Tensor& Call::input(size_t i) const {
  if (!has(i)) throw std::invalid_argument(op + " lacks operand " + std::to_string(i));
  return *inputs[i];
}

int64_t Call::integer(const char* name) const { return attr<int64_t>(*this, name); }
bool Call::flag(const char* name) const { return attr<bool>(*this, name); }
const std::string& Call::text(const char* name) const { return attr<std::string>(*this, name); }
const std::vector<int64_t>& Call::integers(const char* name) const { return attr<std::vector<int64_t>>(*this, name); }

double Call::number(const char* name) const {
  const auto found = attrs.find(name);
  if (found != attrs.end()) {
    if (const auto* value = std::get_if<int64_t>(&found->second)) return static_cast<double>(*value);
  }
  return attr<double>(*this, name);
}

bool Call::is_none(const char* name) const {
  const auto found = attrs.find(name);
  return found == attrs.end() || std::holds_alternative<std::monostate>(found->second);
}

int Call::axis(const char* name, int rank) const {
  const int64_t axis = integer(name);
  return static_cast<int>(axis < 0 ? axis + rank : axis);
}

void Binder::bind(const Call& call) {
  const auto found = binders().find(call.op);
  if (found == binders().end()) throw Unsupported("there is no native kernel for " + call.op);
  used_ = 0;
  instr_ = call.instr;
  bool empty = !call.outputs.empty();
  for (const Tensor& out : call.outputs) {
    if (!out.contiguous()) throw std::invalid_argument("a result of " + call.op + " is not contiguous");
    empty = empty && out.numel() == 0;
  }
  const size_t before = program_.size();
  found->second(*this, call);
  if (empty) program_.truncate(before);
}

char* Binder::take(int64_t bytes) {
  const size_t start = used_;
  used_ += (static_cast<size_t>(bytes) + 63) / 64 * 64;
  most_ = used_ > most_ ? used_ : most_;
  // While measuring, addresses only have to be aligned and different from null.
  return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(base_) + start + (base_ == nullptr ? 64 : 0));
}

Tensor Binder::scalar(double value, DType dtype) {
  Tensor t;
  t.dtype = dtype;
  const float f32 = static_cast<float>(value);
  const auto i64 = static_cast<int64_t>(value);
  // Little-endian integers: the first bytes of a wide one are the narrow one.
  t.data = dtype == DType::f32 ? program_.keep(&f32, 4) : program_.keep(&i64, 8);
  return t;
}

Tensor Binder::contiguous(const Tensor& t, int first_axis) {
  if (t.contiguous_from(first_axis)) return t;
  const Tensor copy = t.packed_at(take(t.numel() * item_size(t.dtype)));
  bind_copy(*this, t, copy);
  return copy;
}

Tensor Binder::rows(const Tensor& t, int64_t* count, int64_t* step, bool unit_columns) {
  const int last = t.rank - 1;
  Tensor from = t;
  if (unit_columns && t.shape[last] != 1 && t.strides[last] != 1) from = contiguous(t);
  *count = 1;
  *step = 0;
  for (int i = last - 1; i >= 0; --i) {
    const int64_t n = from.shape[i];
    if (n != 1) {
      if (*count > 1 && from.strides[i] != *count * *step) {
        from = from.packed_at(take(t.numel() * item_size(t.dtype)));
        bind_copy(*this, t, from);
        *count = 1;
        for (int j = 0; j < last; ++j) *count *= t.shape[j];
        *step = t.shape[last];
        return from;
      }
      if (*count == 1) *step = from.strides[i];
    }
    *count *= n;
  }
  return from;
}

void require_dtype(const Tensor& t, DType dtype, const char* what) {
  if (t.dtype != dtype) throw Unsupported(std::string(what) + " has no native kernel for this element type");
}

Act parse_act(const std::string& name) {
  static const std::map<std::string, Act> acts = {
      {"", Act::none},     {"gelu", Act::gelu},       {"gelu_tanh", Act::gelu_tanh}, {"relu", Act::relu},
      {"silu", Act::silu}, {"sigmoid", Act::sigmoid}, {"tanh", Act::tanh},
  };
  const auto found = acts.find(name);
  if (found == acts.end()) throw Unsupported("there is no native activation " + name);
  return found->second;
}

}  // namespace forgec
