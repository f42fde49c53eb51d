#include "quant.h"

#include <cstring>

namespace forgec {

#if defined(__x86_64__)

int64_t words_ahead() {
  static const int64_t ahead = __builtin_cpu_is("intel") != 0 ? 3072 : __builtin_cpu_supports("avx512f") != 0 ? 0 : 2048;
  return ahead;
}

namespace {

QuantKernels with_dots(QuantKernels kernels, const Dot* dot, const NibbleDot* nibble_dot) {
  kernels.dot = dot;
  kernels.nibble_dot = nibble_dot;
  return kernels;
}

constexpr int kAmxRows = 2;  // one row of codes of four bits is slower, see docs/kernels.md

QuantKernels with_amx(QuantKernels kernels) {
  kernels.blocks = run_blocks_amx;
  kernels.block_rows = kAmxRows;
  kernels.block_products = block_products_amx;
  kernels.bf16 = linear_bf16_amx;
  kernels.f16 = linear_f16_amx;
  return kernels;
}

}  // namespace

const QuantKernels* quant_kernels_for(const char* isa) {
  static const QuantKernels avxvnni = with_dots(kQuantAvx2, &kDotAvxVnni, &kNibbleDotAvxVnni);
  static const QuantKernels avx512vnni = with_dots(kQuantAvx512, &kDotAvx512Vnni, &kNibbleDotAvx512Vnni);
  static const QuantKernels amx = with_amx(avx512vnni);
  if (std::strcmp(isa, "portable") == 0) return &kQuantPortable;
  if (std::strcmp(isa, "avx2") == 0) return &kQuantAvx2;
  if (std::strcmp(isa, "avxvnni") == 0) return &avxvnni;
  if (std::strcmp(isa, "avx512") == 0) return &kQuantAvx512;
  if (std::strcmp(isa, "avx512vnni") == 0 || std::strcmp(isa, "avx512bf16") == 0) return &avx512vnni;
  if (std::strcmp(isa, "amx") == 0) return &amx;
  return nullptr;
}

#else

int64_t words_ahead() { return 0; }

const QuantKernels* quant_kernels_for(const char* isa) {
  return std::strcmp(isa, "portable") == 0 ? &kQuantPortable : nullptr;
}

#endif

}  // namespace forgec
