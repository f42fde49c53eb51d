// Compiled with the flags of its instruction set; see build.py.
#include "kernels.h"
#include "vec_avx512.h"

namespace forgec {

const Kernels kAvx512 = make_kernels<VecAvx512>("avx512");

}  // namespace forgec
