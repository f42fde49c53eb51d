// Numbers of f32 as three of bf16, in tiles of AMX, and whether they may be: see linear_amx.cpp. Include it in files that are
// compiled for AMX.
#pragma once

#include "amx.h"
#include "params.h"
#include "vec_avx512.h"

namespace forgec {
namespace {

using V = VecAvx512;
using Number = uint16_t;  // of bf16

constexpr int kStep = 32;                        // k of a tile
constexpr int kSteps = kDepth / kStep;           // of a block
constexpr int kPlanes = 3;                       // high, middle, low
constexpr int kColumns = kPanel / 16;            // tiles of columns of a panel
constexpr int64_t kTile = kTileRows * kStep;     // numbers of a tile
constexpr int64_t kBlockRow = kColumns * kPlanes * kStep;  // of two k of a block of a panel

static_assert(kDepth % kStep == 0 && kPanel % 16 == 0, "blocks are whole tiles");

__m512i magnitude(__m512 x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

// Of the largest magnitudes of a row or column: zero, or from 2^-48 to 2^40. Then no plane overflows, and what AMX takes
// for zero is below 2^-28 of the product of two such numbers.
__mmask16 in_range(__m512i largest) {
  constexpr int least = (127 - 48) << 23, most = (127 + 40) << 23;
  const __m512i above = _mm512_sub_epi32(largest, _mm512_set1_epi32(least));
  return _mm512_cmple_epu32_mask(above, _mm512_set1_epi32(most - least)) |
         _mm512_testn_epi32_mask(largest, largest);
}

// The planes of x and y, joined: join(x, y) of each, of which only the upper halves of lanes count.
template <int planes = kPlanes, class Join>
__attribute__((always_inline)) inline void split(__m512 x, __m512 y, const Join& join, Number* to, int64_t to_plane) {
  const auto rounded = [](__m512 v) __attribute__((always_inline)) {
    const __m512i half = _mm512_add_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x8000));
    return _mm512_and_si512(half, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  };
#pragma GCC unroll 3
  for (int plane = 0; plane < planes; ++plane) {
    const bool last = plane == planes - 1;  // of so few bits that there is nothing to round
    const __m512i high_x = last ? _mm512_castps_si512(x) : rounded(x);
    const __m512i high_y = last ? _mm512_castps_si512(y) : rounded(y);
    _mm512_store_si512(to + plane * to_plane, join(high_x, high_y));
    if (last) break;
    x = _mm512_sub_ps(x, _mm512_castsi512_ps(high_x));
    y = _mm512_sub_ps(y, _mm512_castsi512_ps(high_y));
  }
}

// Rows of the left factor and one block of k, as tiles of their planes; false if a row is out of range.
bool split_rows(const float* from, int64_t from_row, int rows, int64_t depth, Number* to) {
  const __m512i odd = [] {
    alignas(64) uint16_t index[32];
    for (int i = 0; i < 32; ++i) index[i] = static_cast<uint16_t>(2 * i + 1);
    return _mm512_load_si512(index);
  }();
  alignas(64) __m512i largest[kTileRows] = {};
  // Tile by tile, so that what is written lies together.
  for (int64_t k = 0; k < depth; k += kStep, to += kPlanes * kTile) {
    for (int row = 0; row < rows; ++row) {
      const float* at = from + row * from_row + k;
      const V x = V::load_n(at, depth - k);
      const V y = depth - k > 16 ? V::load_n(at + 16, depth - k - 16) : V::zero();
      largest[row] = _mm512_max_epu32(_mm512_max_epu32(largest[row], magnitude(x.v)), magnitude(y.v));
      split(x.v, y.v, [&](__m512i a, __m512i b) { return _mm512_permutex2var_epi16(a, odd, b); }, to + row * kStep, kTile);
      __builtin_prefetch(to + kPlanes * kTile + row * kStep, 1);
      __builtin_prefetch(to + (kPlanes + 1) * kTile + row * kStep, 1);
      __builtin_prefetch(to + (kPlanes + 2) * kTile + row * kStep, 1);
    }
  }
  bool fits = true;
  for (int row = 0; row < rows; ++row) {
    const int most = static_cast<int>(_mm512_reduce_max_epu32(largest[row]));
    fits = in_range(_mm512_set1_epi32(most)) != 0 && fits;
  }
  return fits;
}

// Splits a block of a panel piece by piece, two k at a time.
class Splitter {
 public:
  // `next` is the block that comes after it, to be fetched meanwhile.
  void start(const float* from, int64_t depth, int columns, Number* to, const float* next) {
    from_ = from;
    ahead_ = reinterpret_cast<const char*>(next) - reinterpret_cast<const char*>(from);
    depth_ = depth;
    columns_ = columns;
    to_ = to;
    left_ = (depth + kStep - 1) / kStep * kTileRows;
    for (__m512i& largest : largest_) largest = _mm512_setzero_si512();
  }

  int64_t left() const { return left_; }

  // At most what is left.
  void advance(int64_t count) {
    left_ -= count;
    for (; count > 0; --count) {
      if (columns_ == kColumns && depth_ >= 2) {
        pair<true>();
      } else {
        pair<false>();
      }
    }
  }

  // What is left; true if all columns are in range.
  bool finish() {
    advance(left_);
    bool fits = true;
    for (int j = 0; j < columns_; ++j) fits = in_range(largest_[j]) == 0xffff && fits;
    return fits;
  }

 private:
  // The next two k; `whole` says that there are two, of a full panel.
  template <bool whole>
  __attribute__((always_inline)) void pair() {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) {
      if (!whole && j == columns_) break;
      const __m512 x = whole || depth_ > 0 ? _mm512_loadu_ps(from_ + j * 16) : _mm512_setzero_ps();
      const __m512 y = whole || depth_ > 1 ? _mm512_loadu_ps(from_ + kPanel + j * 16) : _mm512_setzero_ps();
      largest_[j] = _mm512_max_epu32(_mm512_max_epu32(largest_[j], magnitude(x)), magnitude(y));
      split(x, y, [&](__m512i a, __m512i b) { return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), b, upper, 0xf8); },
            to_ + j * kPlanes * kStep, kStep);
      const char* ahead = reinterpret_cast<const char*>(from_ + j * 16) + ahead_;
      _mm_prefetch(ahead, _MM_HINT_T1);
      _mm_prefetch(ahead + kPanel * sizeof(float), _MM_HINT_T1);
    }
    from_ += 2 * kPanel;
    depth_ -= 2;
    to_ += kBlockRow;
  }

  const float* from_ = nullptr;
  Number* to_ = nullptr;
  int64_t ahead_ = 0, depth_ = 0, left_ = 0;
  int columns_ = 0;
  __m512i largest_[kColumns];
};

}  // namespace
}  // namespace forgec
