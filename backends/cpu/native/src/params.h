// Parameters of the vectorised kernels and the table of their implementations, one table per instruction set.
//
// Only plain data and function pointers cross between the files that are compiled for one instruction set
// (kernels_*.cpp) and the rest: no standard container is instantiated there, so the linker can never pick, for
// the rest, code that the machine may lack.
#pragma once

#include <cstdint>

#include "program.h"
#include "tensor.h"

namespace forgec {

constexpr int kPanel = 48;     // columns of a packed weight panel, the same for all instruction sets
constexpr int kCodePanel = 32;  // columns of a panel of codes (compressed weights), the same for all
constexpr int kKeyPanel = 32;   // keys of a panel that attention packs
constexpr int kMaxTile = 16;   // at least the rows of any register tile
constexpr int kDepth = 192;    // k of a block of a product: short enough that sums over k stay accurate
// Floats between the rows of a copied left factor, of kDepth each: known when a tile is compiled, so that it needs
// no registers for addresses, and such that the rows of a tile lie in different sets of a cache.
constexpr int kLeftRow = kDepth + 16;
constexpr int kAttentionRows = 288;  // query rows of an attention task at most
constexpr int kMostAttentionRows = 2 * kAttentionRows;  // where products cost so little that packing keys again counts
constexpr int64_t kPoolColumns = 2048;  // of a row of results that pooling does together at most

constexpr int kLine = 16;       // floats of a cache line
constexpr int64_t whole_lines(int64_t floats) { return (floats + kLine - 1) / kLine * kLine; }

constexpr int64_t left_floats(int64_t rows, int64_t k) { return (k + kDepth - 1) / kDepth * rows * kLeftRow; }

enum class Act : int32_t { none, gelu, gelu_tanh, relu, silu, sigmoid, tanh };
constexpr int kActs = 7;

// C[m, n] = act(A[m, k] B[k, n] + bias) + residual, with B in panels [n / 48][k][48], the last one padded.
struct Gemm {
  const float* a;
  int64_t a_row, a_col;
  const float* b;
  float* c;
  int64_t ldc;
  int64_t m, n, k;
  const float* bias;         // [n], or null
  const float* row_bias;     // [m], or null
  const float* residual;     // [m, n], or null; may be C itself
  int64_t ldr;
  Act act;
  float* packed_a;           // room for product_floats(m, k, threads), or null to read A in place
};

// A batch of Gemm whose right factors are packed at run time.
struct Matmul {
  Gemm gemm;                 // a, c of the first member; b is the room for a packed right factor
  const float* b;
  int64_t b_row, b_col;
  int rank;                  // batch axes
  int64_t shape[kMaxRank], a_step[kMaxRank], b_step[kMaxRank];
  bool alone;                // each thread does whole members, in rooms of its own that lie so many floats apart
  int64_t room_floats, left_floats;
};

// Rows [rows, k] times the weights of their experts, [experts][n][k].
struct Experts {
  const float* x;
  int64_t x_row;
  const float* weight;
  const char* ids;
  bool wide;                 // ids are of 64 bits
  int64_t ids_step;
  int64_t rows, experts, n, k;
  float* y;                  // [rows][n]
  int32_t* room;             // per thread for room_of() numbers

  static int64_t room_of(int64_t experts, int64_t rows) { return experts + 1 + rows; }
  // Of a thread: where the rows of each expert start in the order of experts, and the rows in that order.
  int32_t* starts(int thread) const { return room + thread * room_of(experts, rows); }
  int32_t* order(int thread) const { return starts(thread) + experts + 1; }
};
constexpr int64_t kExpertOutputs = 16;  // of a part of an expert's work

// Convolution as a product weight [out, depth] x columns [depth, positions] per batch member and group.
struct Conv {
  Gemm gemm;                 // of the first member and group; packed_a has room for those of all groups
  const float* x;
  int64_t batch, groups, channels;  // channels of one group
  int64_t x_batch, x_channel, x_row, x_col;
  int64_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];
  float* room;               // for panels of columns, one per thread at least, or for an image per thread
  int64_t room_floats;       // of all panels, or of one image
  int64_t pitch;             // of conv_direct: floats of a line of the image
  int64_t* offsets;          // of conv_direct: room per thread for what taps see, from the first one on
};

// Windows of each of `planes` images; a 1-d one is a row.
struct Pool {
  const float* x;
  float* out_data;
  int64_t planes, channels;  // batch * channels, channels
  int64_t x_batch, x_channel, x_row;  // columns lie side by side
  int64_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];
  bool include_padding;      // in what an average divides by
  float* lines;              // room per thread
  int64_t line_floats;
};

// A row is a head of those that are walked together, as they have the same keys, at a position of the queries: row r is
// head r % abreast at position r / abreast. `heads` counts such groups, of which each has keys and values. Steps are from
// batch to batch, group to group, position to position and number to number; those from head to head of a group have
// names of their own.
struct Attention {
  const float* q;
  const void *k, *v;         // numbers like those of q, or f16
  bool half;                 // they are f16, and numbers of a row lie side by side
  int64_t q_step[4], k_step[4], v_step[4];
  int64_t q_beside;
  const char* mask;          // bool or float, or null
  bool mask_is_bool;
  int64_t mask_step[4];      // elements; 0 where it broadcasts
  int64_t mask_beside;
  const int64_t* filled;     // how many of the keys count, known when it runs; null for all
  float* out;
  int64_t out_batch, out_head, out_row, out_beside;
  int64_t batch, heads, abreast, positions, length, size, value_size;
  float scale, softcap;
  bool causal;
  int64_t window;
  bool packs;                // keys are packed; or read in place, for few rows
  int64_t part_rows;         // rows of a task, at most kMostAttentionRows
  float* own;                // room per thread, see AttentionRoom
  int64_t own_floats;

  int64_t rows() const { return positions * abreast; }
};

// Floats of each part of a thread's room, in this order. Where rows are packed there is room for whole tiles of 16 rows.
struct AttentionRoom {
  int64_t query, sums, keys, values, wide;

  explicit AttentionRoom(const Attention& p)
      : query(p.packs ? left_floats(whole_lines(p.part_rows), p.size) : whole_lines(p.part_rows * p.size)),
        sums(whole_lines(p.part_rows) * whole_lines(p.value_size)),
        keys(p.packs ? (kDepth + kKeyPanel) * whole_lines(p.size) : 0),  // of pairs, also the rows of a panel
        values(p.packs ? kDepth * whole_lines(p.value_size) : 0),
        wide(p.packs && p.half ? kDepth * (whole_lines(p.size) + whole_lines(p.value_size)) : 0) {}
  int64_t total() const { return query + sums + keys + values + wide; }
};

// Normalisation of rows; residual and total are null when there is nothing to add first.
struct Norm {
  const float *x, *residual;
  int64_t x_row, residual_row;
  const float *weight, *bias;
  float *total, *out;
  int64_t rows, size;
  float eps;
};

struct Softmax {
  const float* x;
  float* out;
  int64_t outer, size, inner;  // x and out are [outer, size, inner]
  bool log;
};

struct Rope {
  const float *x, *cos, *sin;
  float* out;
  int rank;                    // of the axes before the last
  int64_t shape[kMaxRank], x_step[kMaxRank], cos_step[kMaxRank];
  int64_t x_last, cos_last;
  int64_t rows, size, rotary;
  bool interleaved;
};

// out[i] = f(a[i], b[i], c[i]) for contiguous runs; unused operands are null.
using Pointwise = void (*)(const void* a, const void* b, const void* c, void* out, int64_t n);

enum class Unary : int32_t {
  neg, abs, exp, log, sqrt, rsqrt, reciprocal, sin, cos, tanh, erf, sigmoid, silu, gelu, gelu_tanh, relu,
  softplus, floor, ceil, round, sign, square, count
};
enum class Binary : int32_t {
  add, sub, mul, div, floor_div, mod, pow, maximum, minimum, eq, ne, lt, le, gt, ge, count
};

struct QuantKernels;  // quant.h

struct Kernels {
  const char* name;
  int tile_rows;               // rows of the register tile
  Run linear, matmul, matvec, experts, conv, conv_direct, max_pool, average_pool, attention;
  Run attention_bf16;          // the same, its factors rounded to bf16 where that is faster
  Run layer_norm, rms_norm, softmax, softmax_axis, rope;
  Pointwise unary[static_cast<int>(Unary::count)];
  Pointwise binary[static_cast<int>(Binary::count)];
  // Of add, sub, mul and div: operand 0, or 1, is one number for the whole run.
  Pointwise with_number[2][4];
  Pointwise gated[kActs];
  // dst[j * dst_row + i] = src[i * src_row + j]
  void (*transpose)(const float* src, int64_t src_row, int64_t rows, int64_t cols, float* dst, int64_t dst_row);
  // Panels [begin, end) of a right factor [k, n], each [k][48].
  void (*pack_panels)(const float* b, int64_t b_row, int64_t b_col, int64_t k, int64_t n, int64_t begin, int64_t end,
                      float* to);
  int64_t (*product_floats)(int64_t m, int64_t k, int threads);  // of working memory that a product wants
  double (*multiply_adds)(int64_t rounds);  // floating-point operations done by a loop in registers
  const QuantKernels* quant = nullptr;
  int bf16_rows = kAttentionRows;  // query rows of a task of attention_bf16 at most
};

extern const Kernels kPortable;
#if defined(__x86_64__)
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Run kAttentionAvx512Bf16;
extern const Run kAttentionAmx;

// Kernels of products in f32 by AMX; others are those of AVX-512.
struct ProductKernels {
  Run linear, matmul, conv;
  int64_t (*product_floats)(int64_t m, int64_t k, int threads);
};
extern const ProductKernels kProductsAmx;
#endif

}  // namespace forgec
