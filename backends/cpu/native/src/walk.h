// Walking the elements of strided tensors in row-major order.
#pragma once

#include "tensor.h"

namespace forgec {

// The position of element `linear` of a row-major walk over `shape`.
struct Index {
  int rank;
  const int64_t* shape;
  int64_t at[kMaxRank];

  Index(int r, const int64_t* s, int64_t linear) : rank(r), shape(s) {
    for (int i = rank - 1; i >= 0; --i) {
      at[i] = shape[i] > 0 ? linear % shape[i] : 0;
      linear = shape[i] > 0 ? linear / shape[i] : 0;
    }
  }

  int64_t offset(const int64_t* steps) const {
    int64_t sum = 0;
    for (int i = 0; i < rank; ++i) sum += at[i] * steps[i];
    return sum;
  }

  // Goes `n` elements on; they must not leave the last axis by more than its end.
  void advance(int64_t n) {
    if (rank == 0) return;
    at[rank - 1] += n;
    carry(rank - 1);
  }

  // Goes whole rows on; they must not leave the last axis but one by more than its end.
  void advance_rows(int64_t rows) {
    at[rank - 2] += rows;
    carry(rank - 2);
  }

  void carry(int from) {
    for (int i = from; i > 0 && at[i] == shape[i]; --i) {
      at[i] = 0;
      ++at[i - 1];
    }
  }
};

// Axes that all operands walk without a gap become one, axes of size 1 vanish; at least one axis is left.
// `steps` has `operands` arrays of strides. Returns the new rank.
template <int operands>
int coalesce(int rank, int64_t* shape, int64_t (*steps)[kMaxRank]) {
  int out = 0;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] == 1) continue;
    bool joins = out > 0;
    for (int k = 0; k < operands && joins; ++k) joins = steps[k][out - 1] == steps[k][i] * shape[i];
    if (joins) {
      shape[out - 1] *= shape[i];
    } else {
      shape[out++] = shape[i];
    }
    for (int k = 0; k < operands; ++k) steps[k][out - 1] = steps[k][i];
  }
  if (out == 0) {
    shape[0] = 1;
    for (int k = 0; k < operands; ++k) steps[k][0] = 0;
    out = 1;
  }
  return out;
}

// Calls f with an unsigned integer of the item's size, so that moving elements is written once for all types.
template <class F>
void with_item(int64_t size, F f) {
  switch (size) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

}  // namespace forgec
