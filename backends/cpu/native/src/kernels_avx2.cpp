// Compiled with the flags of its instruction set; see build.py.
#include "kernels.h"
#include "vec_avx2.h"

namespace forgec {

const Kernels kAvx2 = make_kernels<VecAvx2>("avx2");

}  // namespace forgec
