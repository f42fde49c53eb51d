// Exponential, hyperbolic tangent, error function and the activations on vectors, within a few units in the
// last place over the whole range; infinities and nan as in the C library.
#pragma once

#include "params.h"

namespace forgec {

template <class V>
V polynomial(V x, float last) {
  (void)x;
  return V::set1(last);
}

// Horner's rule; coefficients of the lowest power first.
template <class V, class... More>
V polynomial(V x, float first, More... more) {
  return V::fma(polynomial(x, more...), x, V::set1(first));
}

// exp(x) = 2^n exp(r) with n = round(x / ln 2), |r| <= ln(2) / 2; for -104 < x < 89.
template <class V>
V exp_bounded(V x) {
  const V n = V::round_small(x * V::set1(1.44269504f));
  V r = V::fma(n, V::set1(-0.693359375f), x);
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  const V tail = polynomial(r, 0.5f, 1.6666665459e-1f, 4.1665795894e-2f, 8.3334519073e-3f, 1.3981999507e-3f,
                            1.9875691500e-4f);
  const V y = V::fma(r * r, tail, r) + V::set1(1.0f);
  return V::scale(y, n);
}

template <class V>
V exp(V x) {
  // min and max give their second operand for a nan, so that it reaches the result.
  return exp_bounded(V::min(V::set1(89.0f), V::max(V::set1(-104.5f), x)));
}

// 2^x for V::kNothing, where it is 0, <= x <= 128; what is below 2^-126 may be 0, and what is beyond 2^127 infinite.
template <class V>
V exp2_bounded(V x) {
  const V n = V::round_small(x);
  const V y = polynomial(x - n, 1.0f, 6.931471825e-1f, 2.402264774e-1f, 5.550332367e-2f, 9.618436918e-3f,
                         1.339887502e-3f, 1.535336196e-4f);
  return V::scale_normal(y, n);
}

// 2^x for x up to a little over 0, as softmax has it; -inf gives 0 and a nan stays.
template <class V>
V exp2_below(V x) {
  return exp2_bounded(V::max(V::set1(V::kNothing), x));
}

template <class V>
V tanh(V x) {
  const V size = V::abs(x);
  const V s = x * x;
  const V small = V::fma(s * x,
                         polynomial(s, -3.33332819422e-1f, 1.33314422036e-1f, -5.37397155531e-2f,
                                    2.06390887954e-2f, -5.70498872745e-3f),
                         x);
  const V large = V::set1(1.0f) - V::set1(2.0f) / (exp(size + size) + V::set1(1.0f));
  return V::select(V::less(size, V::set1(0.625f)), small, V::copysign(large, x));
}

// After N. Juffa: a minimax polynomial around 0, 1 - exp(p(|x|)) beyond.
template <class V>
V erf(V x) {
  const V size = V::min(V::set1(4.0f), V::abs(x));
  const V s = size * size;
  const V small = V::fma(polynomial(s, 1.28379166e-1f, -3.76125336e-1f, 1.12819925e-1f, -2.67681349e-2f,
                                    4.99119423e-3f, -5.96761703e-4f),
                         x, x);
  const V high = V::fma(V::set1(-1.72853470e-5f), size, V::set1(3.83197126e-4f));
  const V low = V::fma(V::set1(-3.88396438e-3f), size, V::set1(2.42546219e-2f));
  V p = V::fma(high, s, low);
  p = V::fma(p, size, V::set1(-1.06777877e-1f));
  p = V::fma(p, size, V::set1(-6.34846687e-1f));
  p = V::fma(p, size, V::set1(-1.28717512e-1f));
  p = V::fma(p, size, V::zero() - size);
  const V large = V::copysign(V::set1(1.0f) - exp_bounded(p), x);
  return V::select(V::less(V::set1(0.927734375f), size), large, small);
}

template <class V>
V sigmoid(V x) {
  return V::set1(1.0f) / (V::set1(1.0f) + exp(V::zero() - x));
}

// x / (1 + 2^z)
template <class V>
V gate_by_power(V x, V z) {
  return x / (V::set1(1.0f) + exp2_bounded(V::min(V::set1(128.0f), V::max(V::set1(V::kNothing), z))));
}

template <class V>
V silu(V x) {
  return gate_by_power(x, x * V::set1(-1.44269504f));
}

// max(x, 0) - |x| / 2 erfc(|x| / sqrt 2): nothing cancels, and one polynomial, the logarithm of erfc (fitted to 2e-9
// of erfc up to |x| = 6), serves all x. Further out it keeps falling.
template <class V>
V gelu(V x) {
  const V size = V::abs(V::min(V::set1(16.0f), x));  // a large positive x times zero is not to become a nan
  const V log_erfc =
      size * polynomial(size, -1.151104212f, -4.592224956e-1f, -5.242863670e-2f, 6.914112717e-3f, 4.067747068e-5f,
                        -3.069477389e-4f, 8.681412146e-5f, -1.317896204e-5f, 1.105307319e-6f, -3.994773934e-8f);
  return V::fma(V::set1(-0.5f) * size, exp2_below(log_erfc), V::max(V::zero(), x));
}

// x / (1 + exp(-2 sqrt(2 / pi) (x + 0.044715 x^3)))
template <class V>
V gelu_tanh(V x) {
  return gate_by_power(x, V::fma(x * x, V::set1(-0.10294324f), V::set1(-2.30220820f)) * x);
}

template <class V>
V relu(V x) {
  return V::max(V::zero(), x);  // a nan stays
}

template <class V, Act act>
V activate(V x) {
  if constexpr (act == Act::gelu) return gelu(x);
  if constexpr (act == Act::gelu_tanh) return gelu_tanh(x);
  if constexpr (act == Act::relu) return relu(x);
  if constexpr (act == Act::silu) return silu(x);
  if constexpr (act == Act::sigmoid) return sigmoid(x);
  if constexpr (act == Act::tanh) return tanh(x);
  return x;
}

}  // namespace forgec
