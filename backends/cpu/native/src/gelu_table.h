// GELU to 3e-7, for results that stand beside sums of rounded activations: by a table, in half the instructions.
#pragma once

#include "vec_math.h"

namespace forgec {

// The upper tail of the normal distribution at (3 / 16) (i + u), |u| <= 1/2, as a cubic polynomial in u for each i:
// row j has the coefficients of u^j, fitted to the least largest error. Zero in the last interval and beyond.
alignas(64) inline constexpr float kNormalTail[4][32] = {
    {0.5f, 0.425634414f, 0.353830397f, 0.286887914f, 0.226627573f, 0.174250916f, 0.130294681f, 0.0946758538f,
     0.0668072626f, 0.0457536355f, 0.0303963348f, 0.019580029f, 0.0122244135f, 0.00739454804f, 0.0043323962f,
     0.00245785876f, 0.00134986592f, 0.000717519491f, 0.000369063171f, 0.000183660217f, 8.84113906e-05f,
     4.11640613e-05f, 1.85348581e-05f, 8.06995195e-06f, 3.39717167e-06f, 1.38257064e-06f, 5.43929389e-07f,
     2.06846678e-07f, 7.60280372e-08f, 2.70077969e-08f, 9.27188637e-09f, 0.0f},
    {-0.0748016313f, -0.0734982267f, -0.0697227791f, -0.0638564005f, -0.0564632714f, -0.0482013822f, -0.0397269093f,
     -0.0316112675f, -0.0242845919f, -0.0180115663f, -0.0128974505f, -0.00891636778f, -0.00595118804f,
     -0.00383487297f, -0.00238577696f, -0.00143298029f, -0.000830963545f, -0.000465216493f, -0.000251454563f,
     -0.000131218534f, -6.61092126e-05f, -3.21558364e-05f, -1.5100406e-05f, -6.84617999e-06f, -2.99666908e-06f,
     -1.26636803e-06f, -5.16668138e-07f, -2.03513821e-07f, -7.73938496e-08f, -2.84151049e-08f, -1.00721493e-08f,
     0.0f},
    {-1.1128699e-15f, 0.0012891622f, 0.00244606752f, 0.00336081861f, 0.00396299409f, 0.00422987249f, 0.00418462465f,
     0.00388602423f, 0.00341313798f, 0.00284916279f, 0.00226797746f, 0.0017256405f, 0.00125722156f,
     0.00087821536f, 0.000588798721f, 0.000379197416f, 0.000234738036f, 0.000139751297f, 8.00528724e-05f,
     4.41376833e-05f, 2.34310373e-05f, 1.19795468e-05f, 5.90007221e-06f, 2.79981941e-06f, 1.28036834e-06f,
     5.64337768e-07f, 2.3977384e-07f, 9.82144641e-08f, 3.87888441e-08f, 1.47719463e-08f, 5.42507506e-09f, 0.0f},
    {0.000437569659f, 0.000414722861f, 0.000350496906f, 0.000255476276f, 0.00014475474f, 3.44793589e-05f,
     -6.13723387e-05f, -0.000133319074f, -0.000177355818f, -0.000194581764f, -0.000189822487f, -0.000169845298f,
     -0.000141619908f, -0.000111072339f, -8.24302551e-05f, -5.81206768e-05f, -3.90480272e-05f, -2.50511694e-05f,
     -1.53720939e-05f, -9.03389173e-06f, -5.08981611e-06f, -2.75156322e-06f, -1.42826332e-06f, -7.12263045e-07f,
     -3.41419963e-07f, -1.57374956e-07f, -6.97810023e-08f, -2.97734903e-08f, -1.22273418e-08f, -4.83446883e-09f,
     -1.84065474e-09f, 0.0f},
};

// max(x, 0) - |x| tail(|x|)
template <class V>
V gelu_by_table(V x) {
  const V size = V::abs(V::min(V::set1(16.0f), x));  // as in gelu()
  const V place = V::min(V::set1(31.0f), size * V::set1(16.0f / 3.0f));
  const V whole = V::set1(12582912.0f);  // 1.5 * 2^23, to which added the nearest whole number is in the lowest bits
  const V index = place + whole;
  const V u = place - (index - whole);
  V tail = V::pick(kNormalTail[3], index);
  for (int j = 2; j >= 0; --j) tail = V::fma(tail, u, V::pick(kNormalTail[j], index));
  return V::fma(V::zero() - size, tail, V::max(V::zero(), x));
}

template <class V, Act act>
V activate_near(V x) {
  if constexpr (act == Act::gelu && V::picks) return gelu_by_table(x);
  return activate<V, act>(x);
}

}  // namespace forgec
