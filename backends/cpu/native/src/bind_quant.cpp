// Binders of what reads compressed weights: linear_q and embedding_q.
#include <algorithm>
#include <cstring>

#include "bind.h"
#include "half.h"
#include "quant.h"
#include "tasks.h"

namespace forgec {
namespace {

constexpr double kParallelWork = 100e3;      // multiply-adds that are worth a second thread
constexpr int64_t kParallelElements = 16384;
constexpr int64_t kDecodedFloats = 1024 * kCodePanel;  // room for a decoded block; gemm.h has shorter ones
constexpr int64_t kLongestSum = 65536;       // products of two bytes whose sum fits 32 bits
constexpr int64_t kLeastGroup = 32;          // k that share a scale, for blocks of rows

Code code_of(const Tensor& weight) {
  switch (weight.dtype) {
    case DType::i8:
      return Code::i8;
    case DType::i4:
      return Code::i4;
    case DType::bf16:
      return Code::bf16;
    case DType::f16:
      return Code::f16;
    default:
      throw Unsupported("compressed weights have no native kernel for this element type");
  }
}

int64_t columns_of(const Tensor& weight) { return weight.shape[1] * (weight.dtype == DType::i4 ? 2 : 1); }

// The panels of a weight: those packed before, or packed now at every run.
const char* codes_of(Binder& binder, const Call& call, const Tensor& weight, Code code, int64_t k) {
  if (const char* panels = call.packed_input<char>(1)) return panels;
  const Tensor rows = binder.contiguous(weight, 1);
  PackCodes p{};
  p.from = rows.data;
  p.n = rows.shape[0];
  p.k = k;
  p.row_bytes = rows.shape[1] * item_size(rows.dtype);
  p.row_step = rows.strides[0] * item_size(rows.dtype);
  p.code = code;
  p.to = binder.take((p.n + kCodePanel - 1) / kCodePanel * panel_bytes(code, k));
  binder.emit(binder.kernels().quant->pack, p, false);
  return p.to;
}

int64_t group_of(const Call& call, int64_t k) {
  const int64_t group = call.integer("group");
  return std::max<int64_t>(1, group == 0 ? k : group);
}

// The groups of a weight, and their scales, which are operand `place` if they are there.
void take_groups(Binder& binder, const Call& call, size_t place, Code code, QuantGemm* q) {
  const Gemm& g = q->gemm;
  q->group = group_of(call, g.k);
  if (q->group < g.k && q->group % per_word(code) != 0) throw Unsupported("groups do not divide into 32-bit words");
  if (!call.has(place)) return;
  require_dtype(call.input(place), DType::f32, "scales");
  q->scales = call.packed_input<float>(place);
  if (q->scales != nullptr) {
    q->scale_panel = (g.k + q->group - 1) / q->group * kCodePanel;
    q->scale_group = kCodePanel;
  } else {
    q->scales = binder.contiguous(call.input(place)).as<const float>();
    q->scale_panel = kCodePanel;
    q->scale_group = call.input(1).shape[0];
  }
}

// What products of floats need where codes are decoded to floats.
void room_for_decoding(Binder& binder, QuantGemm& q) {
  if (q.gemm.m <= binder.kernels().quant->thin_rows) return;
  q.gemm.packed_a = binder.floats(left_floats(q.gemm.m, q.gemm.k));
  q.own_floats = kDecodedFloats;
  q.own = binder.floats(q.own_floats * binder.threads());
}

// A product whose left factor's rows are quantised at run time, and the room for them.
DynamicGemm rows_in_bytes(Binder& binder, const QuantGemm& q, Code code, int64_t m) {
  const QuantKernels& kernels = *binder.kernels().quant;
  const int64_t k = q.gemm.k;
  DynamicGemm p{};
  p.quant = q;
  p.dot = kernels.dot;
  p.nibble_dot = kernels.nibble_dot;
  p.ahead = words_ahead();
  if (code == Code::i4) {
    const int64_t groups = (k + q.group - 1) / q.group;
    p.rows = binder.take(m * words_of(code, k) * 8);
    p.row_scales = binder.floats(m * groups);
    p.row_sums = reinterpret_cast<int32_t*>(binder.floats(m * groups));
    p.quant.own_floats = groups * kCodePanel;
    if (Tiles(m, p.nibble_dot->rows).count >= kWorthOpening) p.quant.own_floats += words_of(code, k) * (kOpenWord / 4);
    p.quant.own = binder.floats(p.quant.own_floats * binder.threads());
    p.own_bytes = kMaxTile * (k + 64) / 64 * 64;
    p.own = binder.take(p.own_bytes * binder.threads());
    return p;
  }
  p.rows = binder.take(m * words_of(code, k) * p.dot->quad_bytes());
  p.row_scales = binder.floats(m);
  p.own_bytes = kMaxTile * (k + 64) * (p.dot->quad_bytes() / 4);
  p.own_bytes = (p.own_bytes + 63) / 64 * 64;
  p.own = binder.take(p.own_bytes * binder.threads());
  if (p.dot->open != nullptr && Tiles(m, p.dot->rows).count >= kWorthOpening) {
    p.quant.own_floats = words_of(code, k) * (kOpenWord / 4);
    p.quant.own = binder.floats(p.quant.own_floats * binder.threads());
  }
  return p;
}

// Whether rows are worth splitting into digits: few, in one tile, with instructions for products of bytes.
bool splits(const QuantKernels& kernels, const QuantGemm& q, Code code) {
  const Gemm& g = q.gemm;
  if (is_half(code) || !kernels.dot->bytes || g.m > kernels.thin_rows) return false;
  const bool in_groups = q.group < g.k;
  if ((code == Code::i8 && in_groups) || std::min(q.group, g.k) > kLongestSum) return false;
  return kDigits * g.m <= (code == Code::i4 ? kernels.nibble_dot->rows : kernels.dot->rows);
}

// k of a pass at most, so that its codes stay in the nearest cache: 24 KB, or 16 KB beside sums that groups add to.
constexpr int64_t kPassDepth = 768, kGroupedDepth = 512;

// k of a step of blocks of rows.
int64_t grain_of(const QuantGemm& q) { return std::min(q.group, q.gemm.k) <= kLeastGroup ? kLeastGroup : 2 * kLeastGroup; }

// Whether a product goes by blocks of rows. Groups of codes that become bytes are filled up to whole steps, others not.
bool in_blocks(const QuantKernels& kernels, const QuantGemm& q, Code code, bool dynamic) {
  if (kernels.blocks == nullptr || q.gemm.m < kernels.block_rows || is_half(code)) return false;
  const bool in_groups = q.group < q.gemm.k;
  if (in_groups && (q.group < kLeastGroup || (code == Code::i8 && (dynamic || q.group % grain_of(q) != 0)))) return false;
  return std::min(q.group, q.gemm.k) <= kLongestSum;
}

constexpr int64_t kBeyondCaches = 32 << 20;  // bytes of a result that no cache has when it is read

void emit_blocks(Binder& binder, const QuantGemm& q, Code code, bool dynamic, bool parallel) {
  const int64_t m = q.gemm.m, k = q.gemm.k;
  const auto up = [](int64_t x, int64_t to) { return (x + to - 1) / to * to; };
  BlockGemm p{};
  p.quant = q;
  p.code = code;
  p.digits = dynamic ? 1 : kDigits;
  p.group = std::min(q.group, k);
  p.grain = grain_of(q);
  p.groups = p.group > 0 ? up(k, p.group) / p.group : 0;
  p.group_bytes = up(p.group, p.grain);
  // Groups are written in lines. From row to row it's an odd number of them: those of a block lie in different sets of a
  // cache.
  p.row_bytes = up(p.groups * p.group_bytes + 64 - p.grain, 64);
  if (p.row_bytes / 64 % 2 == 0) p.row_bytes += 64;
  p.rows = binder.take(p.digits * (m + 1) * p.row_bytes);
  p.row_scales = binder.floats(p.groups * p.digits * m);
  const int64_t of_thread = kBlockTiles * kBlockFloats;
  p.grouped = code == Code::i4 || p.groups > 1;
  if (p.grouped) {
    const int64_t groups = std::min(p.groups, std::max<int64_t>(1, kGroupedDepth / std::max<int64_t>(1, p.group_bytes)));
    p.depth = groups * p.group;
    if (code == Code::i4) {
      p.codes_bytes = groups * p.group_bytes * kCodePanel;
      p.codes = binder.take(p.codes_bytes * binder.threads());
    }
  } else {
    const int64_t passes = up(k, kPassDepth) / kPassDepth;
    p.depth = passes > 1 ? up(up(k, passes) / passes, p.grain) : k;
    if (passes > 1) p.whole = reinterpret_cast<int32_t*>(binder.floats(of_thread * p.digits * binder.threads()));
  }
  if (p.groups * p.digits > 1) p.sums = binder.floats(of_thread * binder.threads());
  p.streams = m * q.gemm.n * 4 >= kBeyondCaches && q.gemm.residual == nullptr && q.gemm.ldc % 16 == 0 &&
              reinterpret_cast<uintptr_t>(q.gemm.c) % 64 == 0;
  if (!dynamic) {
    p.fits = reinterpret_cast<bool*>(binder.take(sizeof(bool) * binder.threads()));
    room_for_decoding(binder, p.quant);
  }
  binder.emit(binder.kernels().quant->blocks, p, parallel);
}

constexpr int64_t kHalfRows = 5;  // from so many rows on a matrix unit multiplies weights of 16 bits

void emit_half(Binder& binder, const QuantGemm& q, Code code, bool packed, bool parallel) {
  HalfGemm p{};
  p.quant = q;
  room_for_decoding(binder, p.quant);
  p.rows = reinterpret_cast<uint16_t*>(binder.take(row_planes(q.gemm.m, q.gemm.k) * 2));
  if (code == Code::f16) p.opened = binder.take(binder.threads() * kHalfSteps * kHalfStepBytes);
  p.fits = reinterpret_cast<bool*>(binder.take(2 * binder.threads()));
  if (packed) p.columns = binder.keep(Columns::unknown);
  binder.emit(code == Code::f16 ? binder.kernels().quant->f16 : binder.kernels().quant->bf16, p, parallel);
}

void bind_linear_q(Binder& binder, const Call& call) {
  const Tensor &x = call.input(0), &weight = call.input(1), &out = call.out();
  require_dtype(x, DType::f32, "linear_q");
  const QuantKernels& kernels = *binder.kernels().quant;
  const Code code = code_of(weight);
  const bool dynamic = call.flag("dynamic");
  QuantGemm q{};
  Gemm& g = q.gemm;
  const Tensor left = binder.rows(x, &g.m, &g.a_row);
  g.a = left.as<const float>();
  g.a_col = 1;
  g.k = x.shape[x.rank - 1];
  g.n = weight.shape[0];
  g.c = out.as<float>();
  g.ldc = g.n;
  g.act = parse_act(call.text("act"));
  take_groups(binder, call, 2, code, &q);
  if (dynamic && std::min(q.group, g.k) > kLongestSum) throw Unsupported("rows are too long for sums of 32 bits");
  if (call.has(3)) g.bias = binder.contiguous(call.input(3)).as<const float>();
  if (call.has(4)) {
    int64_t count;
    g.residual = binder.rows(call.input(4), &count, &g.ldr).as<const float>();
  }
  q.codes = codes_of(binder, call, weight, code, g.k);
  const double work = static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k);
  const bool parallel = work > kParallelWork;
  if (is_half(code) && kernels.bf16 != nullptr && g.m >= kHalfRows) {
    return emit_half(binder, q, code, call.packed_input<char>(1) != nullptr, parallel);
  }
  if (in_blocks(kernels, q, code, dynamic)) return emit_blocks(binder, q, code, dynamic, parallel);
  if (dynamic) {
    const DynamicGemm p = rows_in_bytes(binder, q, code, g.m);
    binder.emit(code == Code::i4 ? kernels.dynamic_nibbles : kernels.dynamic, p, parallel);
    return;
  }
  if (splits(kernels, q, code)) {
    SplitGemm s{};
    s.whole = q;
    s.digits = binder.floats(kDigits * g.m * g.k);
    s.fits = reinterpret_cast<bool*>(binder.take(sizeof(bool) * binder.threads()));
    QuantGemm rows = q;
    rows.gemm.a = s.digits;
    rows.gemm.a_row = g.k;
    rows.gemm.m = kDigits * g.m;
    s.split = rows_in_bytes(binder, rows, code, rows.gemm.m);
    binder.emit(kernels.split[static_cast<int>(code)], s, parallel);
    return;
  }
  room_for_decoding(binder, q);
  binder.emit(kernels.weights[static_cast<int>(code)], q, parallel);
}

void bind_expert_linear_q(Binder& binder, const Call& call) {
  const Code code = code_of(call.input(1));
  QuantExperts p{};
  p.experts = make_experts(binder, call);
  const Experts& e = p.experts;
  if (e.n % kCodePanel != 0) throw Unsupported("the outputs of an expert are no whole panels");
  p.rows = binder.floats(e.rows * e.k);
  Gemm& g = p.quant.gemm;
  g.a = p.rows;
  g.a_row = g.k = e.k;
  g.a_col = 1;
  g.n = g.ldc = e.n;
  g.c = binder.floats(e.rows * e.n);
  take_groups(binder, call, 3, code, &p.quant);
  p.quant.codes = codes_of(binder, call, call.input(1), code, e.k);
  const double work = static_cast<double>(e.rows) * static_cast<double>(e.n) * static_cast<double>(e.k);
  binder.emit(binder.kernels().quant->experts[static_cast<int>(code)], p, work > kParallelWork);
}

struct EmbeddingQ {
  const char *codes, *ids;
  bool wide, packed;
  Code code;
  const float* scales;       // [groups, rows], or null
  int64_t group, rows, size, row_step, count;
  float* out;
};

float code_value(Code code, const char* word_or_row, int64_t i) {
  if (code == Code::i8) return static_cast<float>(static_cast<int8_t>(word_or_row[i]));
  if (code == Code::i4) {
    const int byte = static_cast<uint8_t>(word_or_row[i / 2]);
    return static_cast<float>(((i % 2 == 0 ? byte : byte >> 4) & 15) ^ 8) - 8.0f;
  }
  uint16_t bits;
  std::memcpy(&bits, word_or_row + 2 * i, 2);
  return code == Code::bf16 ? brain_to_float({bits}) : half_to_float({bits});
}

void run_embedding_q(const void* params, Context& context) {
  const EmbeddingQ& p = *static_cast<const EmbeddingQ*>(params);
  const int64_t per = per_word(p.code);
  int64_t begin, end;
  context.share(p.count, 1, &begin, &end);
  for (; begin < end; ++begin) {
    const int64_t id = p.wide ? reinterpret_cast<const int64_t*>(p.ids)[begin] : reinterpret_cast<const int32_t*>(p.ids)[begin];
    if (id < 0 || id >= p.rows) return context.fail(id, p.rows);
    float* out = p.out + begin * p.size;
    for (int64_t first = 0, group = 0; first < p.size; first += p.group, ++group) {
      const int64_t last = std::min(p.size, first + p.group);
      const float scale = p.scales != nullptr ? p.scales[group * p.rows + id] : 1.0f;
      if (p.packed) {
        const char* column = p.codes + id / kCodePanel * panel_bytes(p.code, p.size) + id % kCodePanel * 4;
        for (int64_t k = first; k < last; ++k) out[k] = code_value(p.code, column + k / per * kCodePanel * 4, k % per) * scale;
      } else {
        const char* row = p.codes + id * p.row_step;
        for (int64_t k = first; k < last; ++k) out[k] = code_value(p.code, row, k) * scale;
      }
    }
  }
}

void bind_embedding_q(Binder& binder, const Call& call) {
  const Tensor &table = call.input(0), &out = call.out();
  require_dtype(out, DType::f32, "embedding_q");
  const Tensor ids = binder.contiguous(call.input(1));
  EmbeddingQ p{};
  p.code = code_of(table);
  p.rows = table.shape[0];
  p.size = columns_of(table);
  p.group = group_of(call, p.size);
  p.codes = call.packed_input<char>(0);
  p.packed = p.codes != nullptr;
  if (!p.packed) {
    const Tensor rows = binder.contiguous(table, 1);
    p.codes = rows.data;
    p.row_step = rows.strides[0] * item_size(rows.dtype);
  }
  if (call.has(2)) {
    require_dtype(call.input(2), DType::f32, "embedding_q");
    p.scales = binder.contiguous(call.input(2)).as<const float>();
  }
  p.ids = ids.data;
  p.wide = ids.dtype == DType::i64;
  p.count = ids.numel();
  p.out = out.as<float>();
  binder.emit(run_embedding_q, p, out.numel() > kParallelElements);
}

}  // namespace

void add_quant_binders(BindTable& table) {
  table["expert_linear_q"] = bind_expert_linear_q;
  table["linear_q"] = bind_linear_q;
  table["embedding_q"] = bind_embedding_q;
}

}  // namespace forgec
