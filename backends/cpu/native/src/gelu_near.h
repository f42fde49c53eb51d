// GELU to 2.3e-6, for results that stand beside sums of rounded activations: by a table in half the instructions, or by a
// polynomial in two thirds.
#pragma once

#include "vec_math.h"

namespace forgec {

// The normal distribution at (21 / 64) (i + u), |u| <= 1/2, as a cubic polynomial in u for each i from -16 to 15, of which
// the lowest five bits say the place: row j has the coefficients of u^j, fitted to the least largest error of GELU. Zero in
// the first interval, one at the end of the last.
alignas(64) inline constexpr float kNormal[4][32] = {
    {0.5f, 0.62859035f, 0.74416643f, 0.8375326f, 0.9053232f, 0.94956213f, 0.97550946f, 0.9891876f, 0.99566805f,
     0.99842745f, 0.9994834f, 0.99984664f, 0.9999589f, 0.99999005f, 0.99999785f, 0.9999996f, 0.0f, 4.277144e-07f,
     2.1734274e-06f, 9.956113e-06f, 4.1135314e-05f, 0.00015338656f, 0.0005165638f, 0.0015725482f, 0.0043319603f,
     0.010812393f, 0.024490539f, 0.050437838f, 0.0946768f, 0.16246739f, 0.25583357f, 0.37140962f},
    {0.13090192f, 0.124037385f, 0.105540335f, 0.08063572f, 0.055319563f, 0.034077756f, 0.01884963f, 0.009362075f,
     0.0041751913f, 0.0016719104f, 0.00060114445f, 0.0001940752f, 5.6257824e-05f, 1.4642428e-05f, 3.421815e-06f,
     -4.127824e-07f, 0.0f, 7.1796774e-07f, 3.421815e-06f, 1.4642428e-05f, 5.6257824e-05f, 0.0001940752f,
     0.00060114445f, 0.0016719104f, 0.0041751913f, 0.009362075f, 0.01884963f, 0.034077756f, 0.055319563f, 0.08063572f,
     0.105540335f, 0.124037385f},
    {-3.8558425e-16f, -0.006637055f, -0.01129903f, -0.012963929f, -0.011878049f, -0.00916602f, -0.0061000595f,
     -0.0035457397f, -0.0018137344f, -0.00082044525f, -0.00032928976f, -0.00011754091f, -3.738023e-05f,
     -1.0605074e-05f, -2.6869059e-06f, -6.64487e-07f, 0.0f, 6.084333e-07f, 2.6869059e-06f, 1.0605074e-05f,
     3.738023e-05f, 0.00011754091f, 0.00032928976f, 0.00082044525f, 0.0018137344f, 0.0035457397f, 0.0061000595f,
     0.00916602f, 0.011878049f, 0.012963929f, 0.01129903f, 0.006637055f},
    {-0.0023358103f, -0.0019524156f, -0.001059435f, -4.0401108e-05f, 0.0007129191f, 0.0010278419f, 0.00096820225f,
     0.0007167004f, 0.00044171704f, 0.00023267813f, 0.00010626022f, 4.244151e-05f, 1.4911167e-05f, 4.6268437e-06f,
     1.2716737e-06f, 6.345256e-06f, 0.0f, 3.1030547e-07f, 1.2716737e-06f, 4.6268437e-06f, 1.4911167e-05f,
     4.244151e-05f, 0.00010626022f, 0.00023267813f, 0.00044171704f, 0.0007167004f, 0.00096820225f, 0.0010278419f,
     0.0007129191f, -4.0401108e-05f, -0.001059435f, -0.0019524156f},
};

// x normal(x)
template <class V>
V gelu_by_table(V x) {
  const V inside = V::min(V::set1(5.08593655f), V::max(V::set1(-5.25f), x));  // just below 15.5 intervals
  const V scale = V::set1(64.0f / 21.0f);
  const V whole = V::set1(12582912.0f);  // 1.5 * 2^23, to which added the nearest whole number is in the lowest bits
  const V index = V::fma(inside, scale, whole);
  const V u = V::fma(inside, scale, whole - index);
  V y = V::pick(kNormal[3], index);
  for (int j = 2; j >= 0; --j) y = V::fma(y, u, V::pick(kNormal[j], index));
  return x * y;
}

// x (1/2 + j q(2 j^2 - 1)), j = x / 5 between -1 and 1, fitted to the least largest error of GELU; q(1) is 1/2 to the bit.
template <class V>
V gelu_by_polynomial(V x) {
  const V j = V::min(V::set1(1.0f), V::max(V::set1(-1.0f), x * V::set1(0.2f)));
  const V q = polynomial(V::fma(j * j, V::set1(2.0f), V::set1(-1.0f)), 0.7068188190f, -0.3514921665f, 0.2576223910f,
                         -0.2019329369f, 0.1568296105f, -0.1183133721f, 0.0843940750f, -0.0503086895f, 0.0257806089f,
                         -0.0200441852f, 0.0158709027f, -0.0052250461f);
  return x * V::fma(j, q, V::set1(0.5f));
}

template <class V, Act act>
V activate_near(V x) {
  if constexpr (act == Act::gelu) {
    if constexpr (V::picks) return gelu_by_table(x);
    return gelu_by_polynomial(x);
  }
  return activate<V, act>(x);
}

}  // namespace forgec
