// Sums of tiles of AMX on their way to C. Include it in files that are compiled for AMX.
#pragma once

#include "amx.h"
#include "gemm.h"
#include "vec_avx512.h"

namespace forgec {
namespace {

constexpr int kMostSums = 4;                                   // tiles of C that are summed at a time
constexpr int64_t kSumsFloats = kMostSums * kTileRows * 16;

// Adds the sums of one block of k to C, some rows at a time while the tiles of the next are multiplied, and finishes C with
// those of the last block.
class Sums {
 public:
  // `room` has 2 * kSumsFloats.
  Sums(const Gemm& g, float* room) : g_(g), room_(room), in_place_(g.residual == g.c && g.residual != nullptr) {}

  // Room for sums that are put next.
  float* room() const { return room_ + turn_ * kSumsFloats; }

  // Rows [row, end) and `step` columns of C, or as many as there are, have the sums [rows][step] in room(), of the first
  // block of k or the last or another.
  void put(int64_t row, int64_t end, int64_t step, int64_t col, bool first, bool last) {
    flush();
    at_ = room();
    step_ = step;
    row_ = row;
    end_ = end;
    col_ = col;
    cols_ = g_.n - col < step ? g_.n - col : step;
    accumulate_ = !first || in_place_;
    last_ = last;
    turn_ ^= 1;
  }

  int64_t left() const { return end_ - row_; }

  void flush() { some(left()); }

  // At most so many rows.
  void some(int64_t count) {
    for (; count > 0 && row_ < end_; --count) add_row();
  }

 private:
  void add_row() {
    float* c = g_.c + row_ * g_.ldc + col_;
    for (int64_t j = 0; j < cols_; j += 16) {
      VecAvx512 y = VecAvx512::load(at_ + j);
      if (accumulate_) y = y + VecAvx512::load_n(c + j, cols_ - j);
      y.store_n(c + j, cols_ - j);
    }
    if (last_) finish<VecAvx512>(g_, row_, 1, col_, cols_, g_.residual != nullptr && !in_place_);
    at_ += step_;
    ++row_;
  }

  const Gemm& g_;
  float* const room_;
  const bool in_place_;
  const float* at_ = nullptr;
  int64_t step_ = 0, row_ = 0, end_ = 0, col_ = 0, cols_ = 0;
  int turn_ = 0;
  bool accumulate_ = false, last_ = false;
};

}  // namespace
}  // namespace forgec
