// Compiled with the flags of its instruction set; see build.py. Integer tiles in plain C++.
#include "vec_portable.h"

#include "quant_gemm.h"

namespace forgec {
namespace {

constexpr int kRows = 4;

template <int R>
void tile(const DotArgs& t) {
  int32_t sum[R][kCodePanel] = {};
  const char* a = t.a;
  const auto* b = reinterpret_cast<const int8_t*>(t.b);
  for (int64_t w = 0; w < t.words; ++w, a += 8 * R, b += kCodePanel * 4) {
    for (int i = 0; i < R; ++i) {
      int16_t x[4];
      std::memcpy(x, a + 8 * i, 8);
      for (int j = 0; j < kCodePanel; ++j) {
        sum[i][j] += x[0] * b[4 * j] + x[1] * b[4 * j + 1] + x[2] * b[4 * j + 2] + x[3] * b[4 * j + 3];
      }
    }
  }
  std::memcpy(t.c, sum, sizeof(sum));
}

#include "dot_tile.h"

constexpr Dot kDot = make_dot(kRows, false, std::make_integer_sequence<int, kRows>());

}  // namespace

const QuantKernels kQuantPortable = make_quant_kernels<VecPortable>(&kDot);

}  // namespace forgec
