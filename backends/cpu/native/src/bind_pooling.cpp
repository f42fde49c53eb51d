// Binder of pool.
#include <algorithm>

#include "bind.h"

namespace forgec {
namespace {

constexpr int64_t kParallelElements = 32768;

void bind_pool(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "pool");
  const Tensor& out = call.out();
  const int spatial = call.input(0).rank - 2, lead = 2 - spatial;  // a 1-d input is one row of a 2-d one
  const Tensor x = call.input(0).contiguous_from(1 + spatial) ? call.input(0) : binder.contiguous(call.input(0));
  Pool p{};
  p.x = x.as<const float>();
  p.x_batch = x.strides[0];
  p.x_channel = x.strides[1];
  p.x_row = x.strides[spatial];
  p.out_data = out.as<float>();
  p.channels = x.shape[1];
  p.planes = x.shape[0] * x.shape[1];
  p.include_padding = call.flag("include_padding");
  p.in[0] = p.out[0] = p.kernel[0] = p.stride[0] = p.dilation[0] = 1;
  for (int i = 0; i < spatial; ++i) {
    p.in[lead + i] = x.shape[2 + i];
    p.out[lead + i] = out.shape[2 + i];
    p.kernel[lead + i] = call.integers("kernel")[i];
    p.stride[lead + i] = call.integers("stride")[i];
    p.padding[lead + i] = call.integers("padding")[i];
    p.dilation[lead + i] = call.integers("dilation")[i];
  }
  const int64_t columns = (std::min(p.out[1], kPoolColumns) - 1) * p.stride[1];
  const int64_t seen = columns + (p.kernel[1] - 1) * p.dilation[1] + 1;
  p.line_floats = whole_lines(std::min(seen, p.in[1]));
  p.lines = binder.floats(p.line_floats * binder.threads());
  const Kernels& kernels = binder.kernels();
  const Run run = call.text("kind") == "max" ? kernels.max_pool : kernels.average_pool;
  binder.emit(run, p, x.numel() > kParallelElements);
}

}  // namespace

void add_pooling_binders(BindTable& table) { table["pool"] = bind_pool; }

}  // namespace forgec
