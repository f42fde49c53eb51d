// The kernels of one instruction set for compressed weights, from its vector of floats and its integer tiles.
#pragma once

#include "quant_experts.h"
#include "quantise.h"
#include "split.h"

namespace forgec {

template <class V>
constexpr QuantKernels make_quant_kernels(const Dot* dot, const NibbleDot* nibble_dot) {
  return {
      Codes<V>::thin_rows,
      dot,
      nibble_dot,
      {linear_compressed<V, Code::i8>, linear_compressed<V, Code::i4>, linear_compressed<V, Code::bf16>,
       linear_compressed<V, Code::f16>},
      {expert_compressed<V, Code::i8>, expert_compressed<V, Code::i4>, expert_compressed<V, Code::bf16>,
       expert_compressed<V, Code::f16>},
      linear_dynamic<V>,
      linear_nibbles<V>,
      {linear_split<V, Code::i8>, linear_split<V, Code::i4>},
      pack_codes<V>,
      scales_of_rows<V>,
      codes_of_rows<V>,
      narrow_floats<V>,
  };
}

}  // namespace forgec
