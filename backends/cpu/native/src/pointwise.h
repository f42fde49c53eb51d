// Point-wise f32 kernels on contiguous runs: a vector function, or a scalar one of the C library where the op is
// rare, applied to every element.
#pragma once

#include <cmath>

#include "norm.h"
#include "vec_math.h"

namespace forgec {

template <class V, V (*f)(V)>
void unary_vector(const void* a, const void*, const void*, void* out, int64_t n) {
  const float* x = static_cast<const float*>(a);
  float* y = static_cast<float*>(out);
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) f(V::load(x + i)).store(y + i);
  if (i < n) f(V::load_n(x + i, n - i)).store_n(y + i, n - i);
}

template <class V, V (*f)(V, V)>
void binary_vector(const void* a, const void* b, const void*, void* out, int64_t n) {
  const float* x = static_cast<const float*>(a);
  const float* z = static_cast<const float*>(b);
  float* y = static_cast<float*>(out);
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) f(V::load(x + i), V::load(z + i)).store(y + i);
  if (i < n) f(V::load_n(x + i, n - i), V::load_n(z + i, n - i)).store_n(y + i, n - i);
}

// The same with one number for operand `number`.
template <class V, V (*f)(V, V), int number>
void binary_number(const void* a, const void* b, const void*, void* out, int64_t n) {
  const V fixed = V::set1(*static_cast<const float*>(number == 0 ? a : b));
  const float* x = static_cast<const float*>(number == 0 ? b : a);
  float* y = static_cast<float*>(out);
  const auto one = [&](V v) { return number == 0 ? f(fixed, v) : f(v, fixed); };
  int64_t i = 0;
  for (; i + V::width <= n; i += V::width) one(V::load(x + i)).store(y + i);
  if (i < n) one(V::load_n(x + i, n - i)).store_n(y + i, n - i);
}

// The functions, named by a type so that every instruction set has its own.
template <class V>
struct Functions {
  static V absolute(V x) { return V::abs(x); }
  static V root(V x) { return V::sqrt(x); }
  static V rsqrt(V x) { return V::set1(1.0f) / V::sqrt(x); }
  static V reciprocal(V x) { return V::set1(1.0f) / x; }
  static V square(V x) { return x * x; }
  static V add(V a, V b) { return a + b; }
  static V sub(V a, V b) { return a - b; }
  static V mul(V a, V b) { return a * b; }
  static V div(V a, V b) { return a / b; }
  // A nan on either side wins: the processor gives the second operand, so only a nan in the first is left out.
  static V maximum(V a, V b) { return V::select(V::is_nan(a), a, V::max(a, b)); }
  static V minimum(V a, V b) { return V::select(V::is_nan(a), a, V::min(a, b)); }

  template <Act act>
  static V gate(V gate, V up) {
    return activate<V, act>(gate) * up;
  }
};

template <class V, class F>
void unary_scalar(const void* a, const void*, const void*, void* out, int64_t n) {
  const float* x = static_cast<const float*>(a);
  float* y = static_cast<float*>(out);
  for (int64_t i = 0; i < n; ++i) y[i] = F::of(x[i]);
}

template <class V, class R, class F>
void binary_scalar(const void* a, const void* b, const void*, void* out, int64_t n) {
  const float* x = static_cast<const float*>(a);
  const float* z = static_cast<const float*>(b);
  R* y = static_cast<R*>(out);
  for (int64_t i = 0; i < n; ++i) y[i] = F::of(x[i], z[i]);
}

template <class V>
struct Scalars {
  struct Neg { static float of(float x) { return -x; } };
  struct Log { static float of(float x) { return ::logf(x); } };
  struct Sin { static float of(float x) { return ::sinf(x); } };
  struct Cos { static float of(float x) { return ::cosf(x); } };
  struct Floor { static float of(float x) { return ::floorf(x); } };
  struct Ceil { static float of(float x) { return ::ceilf(x); } };
  struct Round { static float of(float x) { return ::nearbyintf(x); } };
  struct Sign { static float of(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : x == 0 ? 0.0f : x; } };
  struct Softplus { static float of(float x) { return (x > 0 ? x : 0.0f) + ::log1pf(::expf(-::fabsf(x))); } };
  struct Pow { static float of(float x, float y) { return ::powf(x, y); } };
  // Quotient rounded down and its remainder, exact as Python's.
  struct Mod {
    static float of(float x, float y) {
      const float rest = ::fmodf(x, y);
      return rest != 0 ? ((rest < 0) != (y < 0) ? rest + y : rest) : ::copysignf(0.0f, y);
    }
  };
  struct FloorDiv {
    static float of(float x, float y) {
      if (y == 0) return x / y;
      float rest = ::fmodf(x, y), quotient = (x - rest) / y;
      if (rest != 0 && (rest < 0) != (y < 0)) quotient -= 1.0f;
      if (quotient == 0) return ::copysignf(0.0f, x / y);
      const float whole = ::floorf(quotient);
      return quotient - whole > 0.5f ? whole + 1.0f : whole;
    }
  };
  struct Eq { static bool of(float x, float y) { return x == y; } };
  struct Ne { static bool of(float x, float y) { return x != y; } };
  struct Lt { static bool of(float x, float y) { return x < y; } };
  struct Le { static bool of(float x, float y) { return x <= y; } };
  struct Gt { static bool of(float x, float y) { return x > y; } };
  struct Ge { static bool of(float x, float y) { return x >= y; } };
};

}  // namespace forgec
