// Compiled with the flags of its instruction set; see build.py.
#include "kernels.h"
#include "vec_portable.h"

namespace forgec {

const Kernels kPortable = make_kernels<VecPortable>("portable");

}  // namespace forgec
