#include "quant.h"

#include <cstring>

namespace forgec {

#if defined(__x86_64__)

namespace {

QuantKernels with_dot(QuantKernels kernels, const Dot* dot) {
  kernels.dot = dot;
  return kernels;
}

}  // namespace

const QuantKernels* quant_kernels_for(const char* isa) {
  static const QuantKernels avxvnni = with_dot(kQuantAvx2, &kDotAvxVnni);
  static const QuantKernels avx512vnni = with_dot(kQuantAvx512, &kDotAvx512Vnni);
  if (std::strcmp(isa, "portable") == 0) return &kQuantPortable;
  if (std::strcmp(isa, "avx2") == 0) return &kQuantAvx2;
  if (std::strcmp(isa, "avxvnni") == 0) return &avxvnni;
  if (std::strcmp(isa, "avx512") == 0) return &kQuantAvx512;
  if (std::strcmp(isa, "avx512vnni") == 0) return &avx512vnni;
  return nullptr;
}

#else

const QuantKernels* quant_kernels_for(const char* isa) {
  return std::strcmp(isa, "portable") == 0 ? &kQuantPortable : nullptr;
}

#endif

}  // namespace forgec
