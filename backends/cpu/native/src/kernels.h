// The kernel table of one instruction set, from the templates over its vector type.
#pragma once

#include "attention.h"
#include "conv_direct.h"
#include "experts.h"
#include "gemm.h"
#include "matvec.h"
#include "norm.h"
#include "pointwise.h"
#include "pool.h"
#include "softmax.h"

namespace forgec {

// Independent multiply-adds in registers: what the arithmetic units can do at most.
template <class V>
__attribute__((noinline)) double multiply_adds(int64_t rounds) {
  constexpr int sums = 12;
  V s[sums];
  for (int i = 0; i < sums; ++i) s[i] = V::set1(static_cast<float>(i));
  V x = V::set1(0.999f);
  V y = V::set1(1e-6f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < sums; ++i) s[i] = V::fma(s[i], x, y);
  }
  V all = V::zero();
  for (int i = 0; i < sums; ++i) all = all + s[i];
  volatile float keep = all.sum();
  (void)keep;
  return 2.0 * sums * V::width * static_cast<double>(rounds);
}

template <class V>
constexpr Kernels make_kernels(const char* name) {
  using F = Functions<V>;
  using S = Scalars<V>;
  return {
      name,
      V::tile_rows,
      linear<V>,
      matmul<V>,
      matvec<V>,
      expert_linear<V>,
      conv<V>,
      conv_direct<V>,
      pool<V, LargestOf<V>>,
      pool<V, AverageOf<V>>,
      attention<V>,
      attention<V>,
      norm<V, true>,
      norm<V, false>,
      softmax_last<V>,
      softmax_axis<V>,
      rope<V>,
      {
          unary_scalar<V, typename S::Neg>,
          unary_vector<V, F::absolute>,
          unary_vector<V, exp<V>>,
          unary_scalar<V, typename S::Log>,
          unary_vector<V, F::root>,
          unary_vector<V, F::rsqrt>,
          unary_vector<V, F::reciprocal>,
          unary_scalar<V, typename S::Sin>,
          unary_scalar<V, typename S::Cos>,
          unary_vector<V, tanh<V>>,
          unary_vector<V, erf<V>>,
          unary_vector<V, sigmoid<V>>,
          unary_vector<V, silu<V>>,
          unary_vector<V, gelu<V>>,
          unary_vector<V, gelu_tanh<V>>,
          unary_vector<V, relu<V>>,
          unary_scalar<V, typename S::Softplus>,
          unary_scalar<V, typename S::Floor>,
          unary_scalar<V, typename S::Ceil>,
          unary_scalar<V, typename S::Round>,
          unary_scalar<V, typename S::Sign>,
          unary_vector<V, F::square>,
      },
      {
          binary_vector<V, F::add>,
          binary_vector<V, F::sub>,
          binary_vector<V, F::mul>,
          binary_vector<V, F::div>,
          binary_scalar<V, float, typename S::FloorDiv>,
          binary_scalar<V, float, typename S::Mod>,
          binary_scalar<V, float, typename S::Pow>,
          binary_vector<V, F::maximum>,
          binary_vector<V, F::minimum>,
          binary_scalar<V, bool, typename S::Eq>,
          binary_scalar<V, bool, typename S::Ne>,
          binary_scalar<V, bool, typename S::Lt>,
          binary_scalar<V, bool, typename S::Le>,
          binary_scalar<V, bool, typename S::Gt>,
          binary_scalar<V, bool, typename S::Ge>,
      },
      {{binary_number<V, F::add, 0>, binary_number<V, F::sub, 0>, binary_number<V, F::mul, 0>, binary_number<V, F::div, 0>},
       {binary_number<V, F::add, 1>, binary_number<V, F::sub, 1>, binary_number<V, F::mul, 1>, binary_number<V, F::div, 1>}},
      {
          binary_vector<V, F::template gate<Act::none>>,
          binary_vector<V, F::template gate<Act::gelu>>,
          binary_vector<V, F::template gate<Act::gelu_tanh>>,
          binary_vector<V, F::template gate<Act::relu>>,
          binary_vector<V, F::template gate<Act::silu>>,
          binary_vector<V, F::template gate<Act::sigmoid>>,
          binary_vector<V, F::template gate<Act::tanh>>,
      },
      transpose<V>,
      pack_panels<V>,
      product_floats<V>,
      multiply_adds<V>,
  };
}

}  // namespace forgec
