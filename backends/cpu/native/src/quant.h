// Matrix products with compressed weights: parameters, layout of the codes, and the table of their kernels.
//
// Codes lie in panels [n / 32][words][32 columns] of 32-bit words, the last panel padded with zeros. A word has
// the codes of one column for `per_word` successive k, the first in its lowest bits: 4 of i8, 8 of i4, 2 of bf16 or f16.
// These are the bytes that the row-major weight has at that place too, so that one transposition of words packs
// all formats. A panel of i8 is followed by 128 times the sums of its columns over k, as int32.
#pragma once

#include "params.h"

namespace forgec {

enum class Code : int32_t { i8, i4, bf16, f16 };
constexpr int kCodes = 4;

// Floats that are stored in 16 bits: they have no scales.
constexpr bool is_half(Code code) { return code == Code::bf16 || code == Code::f16; }

constexpr int per_word(Code code) { return code == Code::i8 ? 4 : code == Code::i4 ? 8 : 2; }

constexpr int64_t words_of(Code code, int64_t k) { return (k + per_word(code) - 1) / per_word(code); }

constexpr int64_t panel_bytes(Code code, int64_t k) {
  return (words_of(code, k) + (code == Code::i8 ? 1 : 0)) * kCodePanel * 4;
}

// C[m, n] = act(A[m, k] W[k, n] + bias) + residual with W[k, n] = code * scales[k / group, n].
struct QuantGemm {
  Gemm gemm;             // its right factor is not used
  const char* codes;
  const float* scales;   // [groups, n], or panels [n / 32][groups][32] with zeros after n; null for halves
  int64_t scale_panel;   // from a panel's scales to the next one's
  int64_t scale_group;   // from a group's scales to the next one's
  int64_t group;         // k that share a scale
  float* own;            // room per thread for a decoded block of a panel
  int64_t own_floats;
};

// What becomes of the sums of a tile: C = s[rows] scales[32] (sums - offsets) + bias + residual; offsets of bytes only.
struct DotFinish {
  const int32_t* offsets;
  const float *row_scales, *scales;
  const float* bias;       // or null
  const float* residual;   // or null
  int64_t ldr;
  float* c;
  int64_t ldc;
};

constexpr int64_t kOpenWord = 2 * kCodePanel * 4;  // bytes of a word of a panel that is opened
constexpr int64_t kWorthOpening = 3;               // tiles of rows

// Tiles of exact integer products: C[rows, 32] = A[rows, words * 4] B[words, 32] with sums in int32.
struct DotArgs {
  int64_t words;
  const char* a;         // [words][rows] groups of four numbers
  const char* b;         // words of a panel of i8
  int32_t* c;            // [rows][32]
  const char* ahead;     // what to have in the second-level cache soon, `ahead_step` bytes for every word: of few rows
  int64_t ahead_step;    // a whole word of the panel or nothing
  const DotFinish* finish;  // instead of storing sums, if the tile finishes
};
using DotFunction = void (*)(const DotArgs&);

struct Dot {
  int rows;              // of the largest tile
  bool finishes;         // takes DotFinish
  bool bytes;            // A has bytes with 128 added, else 16-bit integers
  DotFunction of_rows[kMaxTile + 1];
  DotFunction of_rows_opened[kMaxTile + 1] = {};  // where `b` has kOpenWord bytes a word, as `open` writes it
  void (*open)(const char* b, int64_t words, char* to) = nullptr;  // null if that is not worth it

  int64_t quad_bytes() const { return bytes ? 4 : 8; }
};

// Tiles of products of bytes with codes of four bits, exact in a group, whose sums are scaled and added in f32:
// C[rows, 32] = sum over groups of s[group, rows] scales[group, 32] (A[rows, k of the group] B[k, 32]).
struct NibbleArgs {
  int64_t words, group_words;
  const char* a;         // [words][even k, odd k][rows] groups of four bytes
  const float* a_scales;  // [groups][rows]
  const int32_t* a_sums;  // [groups][rows]: -8 times the sums of A, since codes are multiplied with 8 added
  const char* b;         // words of a panel of i4
  int64_t ahead;         // bytes: so far ahead few rows have words in the second-level cache, or 0
  const float* scales;
  int64_t scale_group;   // from a group's scales to the next one's
  const float* scales_after;  // those of the panel that follows
  float* c;              // [rows][32]
  const char* next;      // where `b` is opened: what to have in the second-level cache soon, `next_step` bytes for every word
  int64_t next_step;
};
using NibbleFunction = void (*)(const NibbleArgs&);

struct NibbleDot {
  int rows;              // of the largest tile
  NibbleFunction of_rows[kMaxTile + 1];
  NibbleFunction of_rows_opened[kMaxTile + 1];  // where `b` has [words][even k, odd k][32] groups of four codes as bytes
  void (*open)(const char* b, int64_t words, char* to);
};

// The same with A quantised row by row at run time: C = act(s[m] scales[n] (Q W) + bias) + residual. With codes of
// i4, by row and group.
struct DynamicGemm {
  QuantGemm quant;
  const Dot* dot;
  const NibbleDot* nibble_dot;
  char* rows;            // room for m * words quads of A
  float* row_scales;     // [m], or [groups][rows] of each tile
  int32_t* row_sums;     // the same of NibbleArgs
  int64_t ahead;         // of NibbleArgs
  char* own;             // room per thread: rows of a tile before they are packed
  int64_t own_bytes;
};

// Floats times codes of i8 or i4, each row as three of 8 bits; see split.h.
constexpr int kDigits = 3;
struct SplitGemm {
  QuantGemm whole;
  DynamicGemm split;     // of kDigits * m rows, all in one tile
  float* digits;         // room for these rows
  bool* fits;            // [threads]: whether what each split in this run has digits; else codes are decoded
};

// Products of blocks of rows in bytes, for a matrix unit. A row of A is one of bytes, or of floats kDigits of them, one
// after the other the rest of the row in finer steps: what is left is about 2^-24 of the row's (or group's) largest, as in
// split.h. Its groups begin at multiples of `grain` bytes and are filled up with zeros.
struct BlockGemm {
  QuantGemm quant;       // what is done instead if rows have no digits
  Code code;             // i8 or i4
  bool grouped;          // each group has sums of its own, though there be one only; codes of i4 always
  int digits;            // 1 or kDigits
  int64_t grain;         // k of a step
  int64_t group, groups;
  int64_t group_bytes, row_bytes;  // from one group or row to the next
  char* rows;            // [digits][m + 1][row_bytes]; a block may read a row more than it has
  float* row_scales;     // [groups][digits][m]
  bool* fits;            // [threads]: whether the rows that each quantised have digits
  int64_t depth;         // k of a panel that all blocks of a task pass over before the next: whole groups
  char* codes;           // room per thread for so many codes of i4 as bytes
  int64_t codes_bytes;
  int32_t* whole;        // room per thread for sums between passes, [kBlockTiles][digits][kBlockRows][32], or null
  float* sums;           // room per thread for scaled sums, [kBlockTiles][kBlockRows][32], or null with one sum only
  bool streams;          // C is larger than caches, and is written in whole lines that are not read before
};
constexpr int kBlockRows = 32;
constexpr int64_t kBlockTiles = 9;  // blocks of a task that make a pass together, at most
constexpr int64_t kBlockFloats = kBlockRows * kCodePanel;

// Products with a weight of bf16 or f16 on a matrix unit, each row as planes of bf16; see halves_amx.cpp.
enum class Columns : int32_t { unknown, fit, beyond };  // whether the weight's columns are in range
struct HalfGemm {
  QuantGemm quant;       // what is done instead if rows or columns are not in range
  uint16_t* rows;        // room for row_planes() of the left factor
  char* opened;          // room per thread for kHalfSteps of a panel of f16
  bool* fits;            // [2][threads]: whether rows and columns that each looked at are in range
  Columns* columns;      // what is known of a weight that does not change, or null
};
constexpr int kRowPlanes = 3;
constexpr int64_t kHalfSteps = 32, kHalfStepBytes = 2 * 16 * 128;
constexpr int64_t row_planes(int64_t m, int64_t k) { return (m + 15) / 16 * ((k + 31) / 32) * kRowPlanes * 16 * 32; }

// Rows times the compressed weights of their experts, whose outputs are whole panels each.
struct QuantExperts {
  Experts experts;
  QuantGemm quant;       // of one expert, whose left factor is `rows` and whose result is room for [rows][n]
  float* rows;           // room for the rows in the order of their experts
};

// Packs a weight of `row_bytes` per row; `from` may be unaligned.
struct PackCodes {
  const char* from;
  int64_t n, k, row_bytes, row_step;
  Code code;
  char* to;
};

// Makes scales of a weight, or codes by them.
struct Quantise {
  const float* weight;
  int64_t n, k, row_step;
  int64_t group;         // k that share a scale
  int bits;              // of a code: 8, or 4, two in a byte
  float* scales;         // [groups][n]
  int8_t* codes;         // [n][bytes of a row]
  const float* offsets;  // [groups][n], taken off the weight before it is divided; null for zeros
};

// Floats to numbers of f16.
struct Narrow {
  const float* from;
  int64_t count;
  char* to;
};

struct QuantKernels {
  int thin_rows;         // up to so many rows are multiplied while decoding, without room for a packed A
  const Dot* dot;
  const NibbleDot* nibble_dot;
  Run weights[kCodes];   // QuantGemm
  Run experts[kCodes];   // QuantExperts
  Run dynamic;           // DynamicGemm, i8
  Run dynamic_nibbles;   // DynamicGemm, i4
  Run split[2];          // SplitGemm, i8 and i4, where dot products of bytes are instructions
  Run pack;              // PackCodes
  Run scales;            // Quantise
  Run codes;             // Quantise
  Run narrow;            // Narrow
  Run blocks = nullptr;  // BlockGemm, where there is a matrix unit
  int block_rows = 0;    // from so many rows on
  Run bf16 = nullptr, f16 = nullptr;  // HalfGemm, where there is a matrix unit
  double (*block_products)(int64_t rounds) = nullptr;  // operations of a loop over a block in the first-level cache
};

extern const QuantKernels kQuantPortable;
#if defined(__x86_64__)
extern const QuantKernels kQuantAvx2;
extern const QuantKernels kQuantAvx512;
extern const Dot kDotAvxVnni;
extern const Dot kDotAvx512Vnni;
extern const NibbleDot kNibbleDotAvxVnni;
extern const NibbleDot kNibbleDotAvx512Vnni;
void run_blocks_amx(const void* params, Context& context);
double block_products_amx(int64_t rounds);
void linear_bf16_amx(const void* params, Context& context);
void linear_f16_amx(const void* params, Context& context);
#endif

// How far ahead few rows have words in the second-level cache, in bytes; 0 where the processor does as well alone.
int64_t words_ahead();

// Kernels of an instruction set; null for an unknown name.
const QuantKernels* quant_kernels_for(const char* isa);

}  // namespace forgec
