// Binders of linear, matmul, conv and attention.
#include <algorithm>
#include <utility>

#include "bind.h"

namespace forgec {
namespace {

constexpr int64_t kInPlaceRows = 8;        // up to so many rows of the left factor are read where they lie
constexpr int64_t kTasksPerThread = 4;    // attention tasks, if their rows suffice
constexpr int64_t kPositionsInPlace = 2;   // up to so many, and
constexpr int64_t kRowsInPlace = 8;        // up to so many rows of heads with the same keys do not pack these
constexpr int64_t kLeastPart = 28;        // rows of an attention task
constexpr int64_t kSliceFloats = 1 << 20;  // of a weight that is packed while it is used
constexpr double kParallelWork = 100e3;    // multiply-adds that are worth a second thread
constexpr double kMemberWork = 4e6;        // multiply-adds of a member of a batch that threads take whole, at most
constexpr int64_t kSharedWeights = 8192;   // elements of a depthwise convolution that are, for the memory

int64_t panel_floats(int64_t k, int64_t n) { return (n + kPanel - 1) / kPanel * kPanel * k; }

bool worth_sharing(int64_t m, int64_t n, int64_t k) {
  return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) > kParallelWork;
}

bool packs_left(const Gemm& g) { return g.m > kInPlaceRows || g.a_col != 1; }

float* packed_left(Binder& binder, const Gemm& g) {
  const int64_t floats = binder.kernels().product_floats(g.m, g.k, binder.threads());
  return packs_left(g) ? binder.floats(floats) : nullptr;
}

// The product with a weight [n, k] as it lies in memory, a slice of n at a time: packed, a slice stays in the cache.
void bind_unpacked(Binder& binder, const Gemm& whole, const Tensor& weight, bool parallel) {
  const int64_t most = std::max(kSliceFloats / std::max<int64_t>(whole.k, 1) / kPanel, int64_t{1}) * kPanel;
  float* room = binder.floats(panel_floats(whole.k, std::min(most, whole.n)));
  for (int64_t first = 0; first < whole.n; first += most) {
    Matmul p{};
    p.gemm = whole;
    p.gemm.n = std::min(most, whole.n - first);
    p.gemm.b = room;
    p.gemm.c += first;
    if (whole.bias != nullptr) p.gemm.bias += first;
    if (whole.residual != nullptr) p.gemm.residual += first;
    p.b = weight.as<const float>() + first * weight.strides[0];
    p.b_row = weight.strides[1];
    p.b_col = weight.strides[0];
    binder.emit(binder.kernels().matmul, p, parallel);
  }
}

void bind_linear(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &weight = call.input(1), &out = call.out();
  require_dtype(x, DType::f32, "linear");
  Gemm g{};
  const int last = x.rank - 1;
  const Tensor left = binder.rows(x, &g.m, &g.a_row, false);
  g.a = left.as<const float>();
  g.a_col = left.strides[last];
  g.k = x.shape[last];
  g.n = weight.shape[0];
  g.c = out.as<float>();
  g.ldc = g.n;
  g.act = parse_act(call.text("act"));
  if (call.has(2)) g.bias = binder.contiguous(call.input(2)).as<const float>();
  if (call.has(3)) {
    int64_t count;
    g.residual = binder.rows(call.input(3), &count, &g.ldr).as<const float>();
  }
  g.packed_a = packed_left(binder, g);
  const bool parallel = worth_sharing(g.m, g.n, g.k);
  g.b = call.packed_input<float>(1);
  if (g.b != nullptr) {
    binder.emit(binder.kernels().linear, g, parallel);
    return;
  }
  bind_unpacked(binder, g, weight, parallel);
}

}  // namespace

Experts make_experts(Binder& binder, const Call& call) {
  const Tensor &ids = call.input(2), &out = call.out();
  require_dtype(call.input(0), DType::f32, "products with experts");
  const Tensor x = binder.contiguous(call.input(0), 1);
  Experts p{};
  p.x = x.as<const float>();
  p.x_row = x.strides[0];
  p.k = x.shape[1];
  p.ids = ids.data;
  p.wide = ids.dtype == DType::i64;
  p.ids_step = ids.strides[0];
  p.rows = out.shape[0];
  p.n = out.shape[1];
  p.experts = call.integer("experts");
  p.y = out.as<float>();
  p.room = reinterpret_cast<int32_t*>(binder.take(binder.threads() * Experts::room_of(p.experts, p.rows) * 4));
  return p;
}

namespace {

void bind_matmul(Binder& binder, const Call& call) {
  const Tensor &a = call.input(0), &b = call.input(1), &out = call.out();
  require_dtype(a, DType::f32, "matmul");
  Matmul p{};
  Gemm& g = p.gemm;
  g.m = a.shape[a.rank - 2];
  g.k = a.shape[a.rank - 1];
  g.n = b.shape[b.rank - 1];
  g.a = a.as<const float>();
  g.a_row = a.strides[a.rank - 2];
  g.a_col = a.strides[a.rank - 1];
  g.c = out.as<float>();
  g.ldc = g.n;
  p.b = b.as<const float>();
  p.b_row = b.strides[b.rank - 2];
  p.b_col = b.strides[b.rank - 1];
  p.rank = out.rank - 2;
  for (int i = 0; i < p.rank; ++i) {
    p.shape[i] = out.shape[i];
    const int in_a = i - (out.rank - a.rank), in_b = i - (out.rank - b.rank);
    p.a_step[i] = in_a >= 0 && a.shape[in_a] != 1 ? a.strides[in_a] : 0;
    p.b_step[i] = in_b >= 0 && b.shape[in_b] != 1 ? b.strides[in_b] : 0;
  }
  int64_t members = 1;
  for (int i = 0; i < p.rank; ++i) members *= p.shape[i];
  if (g.n == 1 && g.a_col == 1 && p.b_row == 1) {
    return binder.emit(binder.kernels().matvec, p, worth_sharing(members * g.m, 1, g.k));
  }
  const int64_t threads = binder.threads();
  p.room_floats = panel_floats(g.k, g.n);
  p.alone = threads > 1 && members >= 2 * threads && worth_sharing(members * g.m, g.n, g.k) &&
            static_cast<double>(g.m) * g.n * g.k < kMemberWork && p.room_floats * threads <= kSliceFloats;
  g.b = binder.floats(p.room_floats * (p.alone ? threads : 1));
  if (p.alone) {
    p.left_floats = whole_lines(binder.kernels().product_floats(g.m, g.k, 1));
    if (packs_left(g)) g.packed_a = binder.floats(p.left_floats * threads);
  } else {
    g.packed_a = packed_left(binder, g);
  }
  binder.emit(binder.kernels().matmul, p, p.alone || worth_sharing(g.m, g.n, g.k));
}

void bind_conv(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &out = call.out();
  require_dtype(x, DType::f32, "conv");
  const Tensor weight = binder.contiguous(call.input(1));
  const int spatial = x.rank - 2, lead = 2 - spatial;  // a 1-d convolution is one row of a 2-d one
  Conv p{};
  p.batch = x.shape[0];
  p.groups = call.integer("groups");
  p.channels = weight.shape[1];
  p.x = x.as<const float>();
  p.x_batch = x.strides[0];
  p.x_channel = x.strides[1];
  p.in[0] = p.out[0] = p.kernel[0] = p.stride[0] = p.dilation[0] = 1;
  int64_t* const steps[2] = {&p.x_row, &p.x_col};
  for (int i = 0; i < spatial; ++i) {
    p.in[lead + i] = x.shape[2 + i];
    p.out[lead + i] = out.shape[2 + i];
    p.kernel[lead + i] = weight.shape[2 + i];
    p.stride[lead + i] = call.integers("stride")[i];
    p.padding[lead + i] = call.integers("padding")[i];
    p.dilation[lead + i] = call.integers("dilation")[i];
    *steps[lead + i] = x.strides[2 + i];
  }
  Gemm& g = p.gemm;
  g.m = weight.shape[0] / p.groups;
  g.n = p.out[0] * p.out[1];
  g.k = p.channels * p.kernel[0] * p.kernel[1];
  g.a = weight.as<const float>();
  g.a_row = g.k;
  g.a_col = 1;
  g.c = out.as<float>();
  g.ldc = g.n;
  if (call.has(2)) g.row_bias = binder.contiguous(call.input(2)).as<const float>();
  const bool parallel = worth_sharing(p.batch * p.groups * g.m, g.n, g.k);
  if (g.m < 4) {
    const int64_t last = std::max<int64_t>(p.out[0] - 1, 0) * p.stride[0] + (p.kernel[0] - 1) * p.dilation[0];
    const int64_t seen = (p.kernel[1] - 1) * p.dilation[1] / p.stride[1];
    p.pitch = whole_lines(whole_lines(p.out[1]) + seen);
    p.room_floats = (last + 1) * p.stride[1] * p.pitch;
    p.room = binder.floats(binder.threads() * p.room_floats);
    p.offsets = reinterpret_cast<int64_t*>(binder.take(binder.threads() * p.kernel[0] * p.kernel[1] * 8));
    binder.emit(binder.kernels().conv_direct, p, parallel || weight.numel() > kSharedWeights);
    return;
  }
  const bool pointwise = g.k == p.channels && p.padding[0] + p.padding[1] == 0 && p.stride[0] * p.stride[1] == 1;
  if (pointwise && p.x_row == p.in[1] * p.x_col) {  // one row then
    p.in[1] = p.out[1] = g.n;
    p.in[0] = p.out[0] = 1;
  }
  const int64_t floats = panel_floats(std::max<int64_t>(g.k, 1), 1), most = panel_floats(g.k, g.n) / floats;
  p.room_floats = floats * std::max<int64_t>(binder.threads(), std::min(most, kSliceFloats / floats));
  p.room = binder.floats(p.room_floats);
  const int64_t left = std::max(p.groups * left_floats(g.m, g.k), binder.kernels().product_floats(g.m, g.k, binder.threads()));
  if (g.m > kInPlaceRows) g.packed_a = binder.floats(left);
  binder.emit(binder.kernels().conv, p, parallel);
}

void bind_expert_linear(Binder& binder, const Call& call) {
  Experts p = make_experts(binder, call);
  p.weight = binder.contiguous(call.input(1)).as<const float>();
  binder.emit(binder.kernels().experts, p, worth_sharing(p.rows, p.n, p.k));
}

// Heads that share keys are walked together, so that these are read and packed once.
void put_abreast(Attention* p, int64_t heads, int64_t kv_heads) {
  p->heads = kv_heads;
  p->abreast = kv_heads > 0 ? heads / kv_heads : 1;
  for (auto [step, beside] : {std::pair{&p->q_step[1], &p->q_beside}, {&p->mask_step[1], &p->mask_beside},
                              {&p->out_head, &p->out_beside}}) {
    *beside = *step;
    *step *= p->abreast;
  }
}

// Rows of a task: as many as there may be, since each task reads the keys that it sees, but enough tasks for all.
int64_t attention_part(const Attention& p, int threads, int64_t most) {
  const int64_t heads = p.batch * p.heads > 0 ? p.batch * p.heads : 1;
  if (p.positions == 1 || !p.packs) {
    const int64_t parts = (threads + heads - 1) / heads;
    return std::clamp<int64_t>((p.rows() + parts - 1) / parts, 1, most);
  }
  const int64_t wanted = threads > 1 ? (kTasksPerThread * threads + heads - 1) / heads : 1;
  const int64_t rows = (p.rows() + wanted - 1) / wanted;
  return std::clamp(rows, kLeastPart, most);
}

void bind_attention(Binder& binder, const Call& call) {
  require_dtype(call.input(0), DType::f32, "attention");
  const Tensor &q = call.input(0), &out = call.out();
  Attention p{};
  p.half = call.input(1).dtype == DType::f16;
  for (const int n : {1, 2}) require_dtype(call.input(n), p.half ? DType::f16 : DType::f32, "attention");
  const Tensor k = p.half ? binder.contiguous(call.input(1), 3) : call.input(1);
  const Tensor v = binder.contiguous(call.input(2), 3);
  p.q = q.as<const float>();
  p.k = k.data;
  p.v = v.data;
  std::copy_n(q.strides, 4, p.q_step);
  std::copy_n(k.strides, 4, p.k_step);
  std::copy_n(v.strides, 4, p.v_step);
  p.batch = q.shape[0];
  p.positions = q.shape[2];
  p.size = q.shape[3];
  p.length = k.shape[2];
  p.value_size = v.shape[3];
  if (call.has(3)) {
    const Tensor& mask = call.input(3);
    p.mask = mask.data;
    p.mask_is_bool = mask.dtype == DType::b8;
    for (int i = 0; i < mask.rank; ++i) {
      p.mask_step[4 - mask.rank + i] = mask.shape[i] == 1 ? 0 : mask.strides[i];
    }
  }
  if (call.has(4)) p.filled = call.input(4).as<const int64_t>();
  p.scale = static_cast<float>(call.number("scale"));
  p.softcap = static_cast<float>(call.number("softcap"));
  p.causal = call.flag("causal");
  p.window = call.integer("window");
  const bool seq_major = call.flag("seq_major");
  p.out = out.as<float>();
  p.out_batch = out.strides[0];
  p.out_head = out.strides[seq_major ? 2 : 1];
  p.out_row = out.strides[seq_major ? 1 : 2];
  put_abreast(&p, q.shape[1], k.shape[1]);
  const bool many = p.positions > kPositionsInPlace || (p.size > 1 && k.strides[3] != 1);
  const bool rounds = many && call.flag("bf16");
  p.packs = many || p.rows() > kRowsInPlace;
  p.part_rows = attention_part(p, binder.threads(), rounds ? binder.kernels().bf16_rows : kAttentionRows);
  p.own_floats = AttentionRoom(p).total();
  p.own = binder.floats(p.own_floats * binder.threads());
  binder.emit(rounds ? binder.kernels().attention_bf16 : binder.kernels().attention, p, worth_sharing(p.batch * p.heads * p.rows(), p.length, p.size));
}

}  // namespace

void add_matrix_binders(BindTable& table) {
  table["linear"] = bind_linear;
  table["matmul"] = bind_matmul;
  table["expert_linear"] = bind_expert_linear;
  table["conv"] = bind_conv;
  table["attention"] = bind_attention;
}

}  // namespace forgec
