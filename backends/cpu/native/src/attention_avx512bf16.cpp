// Attention with products of pairs of bf16, two per 32-bit lane and instruction. Compiled with the flags of its
// instruction set; see build.py.
#include "attention.h"
#include "vec_avx512.h"

namespace forgec {
namespace {

#include "pairs_512.h"

}  // namespace

const Run kAttentionAvx512Bf16 = attention<VecAvx512, Pairs>;

}  // namespace forgec
