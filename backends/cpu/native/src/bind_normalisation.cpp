// Binders of layer_norm, rms_norm, their fusions with a residual, softmax and rope.
#include "bind.h"

namespace forgec {
namespace {

constexpr int64_t kParallelElements = 16384;

const float* optional_scale(Binder& binder, const Call& call, size_t i) {
  return call.has(i) ? binder.contiguous(call.input(i)).as<const float>() : nullptr;
}

template <bool centred, bool add>
void bind_norm(Binder& binder, const Call& call) {
  const Tensor& x = call.input(0);
  require_dtype(x, DType::f32, "normalisation");
  Norm p{};
  p.size = x.shape[x.rank - 1];
  p.x = binder.rows(x, &p.rows, &p.x_row).as<const float>();
  constexpr size_t weight = add ? 2 : 1;
  if (add) {
    p.residual = binder.rows(call.input(1), &p.rows, &p.residual_row).as<const float>();
    p.total = call.outputs.at(0).as<float>();
  }
  p.out = call.outputs.at(add ? 1 : 0).as<float>();
  p.weight = optional_scale(binder, call, weight);
  if (centred) p.bias = optional_scale(binder, call, weight + 1);
  p.eps = static_cast<float>(call.number("eps"));
  binder.emit(centred ? binder.kernels().layer_norm : binder.kernels().rms_norm, p, x.numel() > kParallelElements);
}

template <bool logarithm>
void bind_softmax(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "softmax");
  const Tensor x = binder.contiguous(call.input(0));
  const int axis = call.axis("axis", x.rank);
  Softmax p{};
  p.x = x.as<const float>();
  p.out = call.out().as<float>();
  p.log = logarithm;
  p.outer = p.inner = 1;
  p.size = x.shape[axis];
  for (int i = 0; i < axis; ++i) p.outer *= x.shape[i];
  for (int i = axis + 1; i < x.rank; ++i) p.inner *= x.shape[i];
  const Run run = p.inner == 1 ? binder.kernels().softmax : binder.kernels().softmax_axis;
  binder.emit(run, p, x.numel() > kParallelElements);
}

void bind_rope(Binder& binder, const Call& call) {
  const Tensor& x = call.input(0);
  require_dtype(x, DType::f32, "rope");
  Tensor cos = call.input(1), sin = call.input(2);
  bool alike = true;
  for (int i = 0; i < cos.rank; ++i) alike = alike && (cos.shape[i] == 1 || sin.strides[i] == cos.strides[i]);
  if (!alike) {  // both are walked with the strides of one
    cos = binder.contiguous(cos);
    sin = binder.contiguous(sin);
  }
  Rope p{};
  p.x = x.as<const float>();
  p.cos = cos.as<const float>();
  p.sin = sin.as<const float>();
  p.out = call.out().as<float>();
  const int last = x.rank - 1, shift = x.rank - cos.rank;
  p.rank = last;
  p.rows = 1;
  for (int i = 0; i < last; ++i) {
    p.shape[i] = x.shape[i];
    p.rows *= x.shape[i];
    p.x_step[i] = x.strides[i];
    p.cos_step[i] = i >= shift && cos.shape[i - shift] != 1 ? cos.strides[i - shift] : 0;
  }
  p.x_last = x.strides[last];
  p.cos_last = cos.strides[cos.rank - 1];
  p.size = x.shape[last];
  p.rotary = cos.shape[cos.rank - 1];
  p.interleaved = call.flag("interleaved");
  binder.emit(binder.kernels().rope, p, x.numel() > kParallelElements);
}

}  // namespace

void add_normalisation_binders(BindTable& table) {
  table["layer_norm"] = bind_norm<true, false>;
  table["rms_norm"] = bind_norm<false, false>;
  table["add_layer_norm"] = bind_norm<true, true>;
  table["add_rms_norm"] = bind_norm<false, true>;
  table["softmax"] = bind_softmax<false>;
  table["log_softmax"] = bind_softmax<true>;
  table["rope"] = bind_rope;
}

}  // namespace forgec
