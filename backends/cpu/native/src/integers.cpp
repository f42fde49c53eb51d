#include "integers.h"

#include <cmath>
#include <limits>
#include <type_traits>

#include "half.h"

namespace forgec {
namespace {

// Arithmetic wraps around, as numpy's does; unsigned types make that defined.
template <class T>
using Wide = std::conditional_t<(sizeof(T) < 4), uint32_t, std::make_unsigned_t<T>>;

template <class T>
T wrap(Wide<T> x) {
  return static_cast<T>(x);
}

template <Unary op, class T>
T unary_item(T x) {
  if constexpr (op == Unary::neg) return wrap<T>(Wide<T>(0) - Wide<T>(x));
  if constexpr (op == Unary::abs) return x < T(0) ? wrap<T>(Wide<T>(0) - Wide<T>(x)) : x;
  if constexpr (op == Unary::relu) return x > T(0) ? x : T(0);
  if constexpr (op == Unary::sign) return static_cast<T>((x > T(0)) - (x < T(0)));
  return x;  // floor, ceil, round
}

template <class T>
T floor_quotient(T a, T b) {
  if (b == 0) return 0;
  if constexpr (std::is_signed_v<T>) {
    if (b == T(-1)) return wrap<T>(Wide<T>(0) - Wide<T>(a));
    return static_cast<T>(a / b - ((a % b != 0) && ((a < 0) != (b < 0))));
  }
  return static_cast<T>(a / b);
}

// By repeated squaring; a negative power is what the division truncates to.
template <class T>
T power(T base, T exponent) {
  if (exponent < T(0)) return base == T(1) ? T(1) : base == T(-1) ? (exponent % 2 == 0 ? T(1) : T(-1)) : T(0);
  Wide<T> result = 1, square = Wide<T>(base);
  for (T rest = exponent; rest != 0; rest = static_cast<T>(rest / 2), square *= square) {
    if (rest % 2 != 0) result *= square;
  }
  return wrap<T>(result);
}

template <Binary op, class T>
auto binary_item(T a, T b) {
  if constexpr (op == Binary::add) return wrap<T>(Wide<T>(a) + Wide<T>(b));
  if constexpr (op == Binary::sub) return wrap<T>(Wide<T>(a) - Wide<T>(b));
  if constexpr (op == Binary::mul) return wrap<T>(Wide<T>(a) * Wide<T>(b));
  if constexpr (op == Binary::floor_div) return floor_quotient(a, b);
  if constexpr (op == Binary::mod) {
    return b == 0 ? T(0) : wrap<T>(Wide<T>(a) - Wide<T>(floor_quotient(a, b)) * Wide<T>(b));
  }
  if constexpr (op == Binary::pow) return power(a, b);
  if constexpr (op == Binary::maximum) return a > b ? a : b;
  if constexpr (op == Binary::minimum) return a < b ? a : b;
  if constexpr (op == Binary::eq) return a == b;
  if constexpr (op == Binary::ne) return a != b;
  if constexpr (op == Binary::lt) return a < b;
  if constexpr (op == Binary::le) return a <= b;
  if constexpr (op == Binary::gt) return a > b;
  if constexpr (op == Binary::ge) return a >= b;
}

template <Unary op, class T>
void unary_run(const void* a, const void*, const void*, void* out, int64_t n) {
  const T* x = static_cast<const T*>(a);
  T* y = static_cast<T*>(out);
  for (int64_t i = 0; i < n; ++i) y[i] = unary_item<op>(x[i]);
}

template <Binary op, class T>
void binary_run(const void* a, const void* b, const void*, void* out, int64_t n) {
  const T* x = static_cast<const T*>(a);
  const T* z = static_cast<const T*>(b);
  auto* y = static_cast<decltype(binary_item<op>(T(), T()))*>(out);
  for (int64_t i = 0; i < n; ++i) y[i] = binary_item<op>(x[i], z[i]);
}

template <class T>
Pointwise unary_of(Unary op) {
  switch (op) {
    case Unary::neg:
      return unary_run<Unary::neg, T>;
    case Unary::abs:
      return unary_run<Unary::abs, T>;
    case Unary::relu:
      return unary_run<Unary::relu, T>;
    case Unary::sign:
      return unary_run<Unary::sign, T>;
    case Unary::floor:
    case Unary::ceil:
    case Unary::round:
      return unary_run<Unary::round, T>;
    default:
      return nullptr;
  }
}

template <class T>
Pointwise binary_of(Binary op) {
  switch (op) {
    case Binary::add:
      return binary_run<Binary::add, T>;
    case Binary::sub:
      return binary_run<Binary::sub, T>;
    case Binary::mul:
      return binary_run<Binary::mul, T>;
    case Binary::floor_div:
      return binary_run<Binary::floor_div, T>;
    case Binary::mod:
      return binary_run<Binary::mod, T>;
    case Binary::pow:
      return binary_run<Binary::pow, T>;
    case Binary::maximum:
      return binary_run<Binary::maximum, T>;
    case Binary::minimum:
      return binary_run<Binary::minimum, T>;
    case Binary::eq:
      return binary_run<Binary::eq, T>;
    case Binary::ne:
      return binary_run<Binary::ne, T>;
    case Binary::lt:
      return binary_run<Binary::lt, T>;
    case Binary::le:
      return binary_run<Binary::le, T>;
    case Binary::gt:
      return binary_run<Binary::gt, T>;
    case Binary::ge:
      return binary_run<Binary::ge, T>;
    default:
      return nullptr;
  }
}

// Sums of booleans are "or", products "and".
Pointwise bool_binary(Binary op) {
  switch (op) {
    case Binary::add:
    case Binary::maximum:
      return logic_function(Logic::either);
    case Binary::mul:
    case Binary::minimum:
      return logic_function(Logic::both);
    case Binary::eq:
    case Binary::ne:
    case Binary::lt:
    case Binary::le:
    case Binary::gt:
    case Binary::ge:
      return binary_of<uint8_t>(op);
    default:
      return nullptr;
  }
}

template <Logic op>
void logic_run(const void* a, const void* b, const void*, void* out, int64_t n) {
  const auto* x = static_cast<const uint8_t*>(a);
  const auto* z = static_cast<const uint8_t*>(b);
  auto* y = static_cast<uint8_t*>(out);
  for (int64_t i = 0; i < n; ++i) {
    if constexpr (op == Logic::both) y[i] = x[i] & z[i];
    if constexpr (op == Logic::either) y[i] = x[i] | z[i];
    if constexpr (op == Logic::one) y[i] = x[i] ^ z[i];
    if constexpr (op == Logic::negate) y[i] = x[i] ^ 1;
  }
}

// Truncation towards zero; what does not fit gives the smallest value, as the processor's own conversion does.
template <class T>
T truncate_to(double x) {
  constexpr double bound = static_cast<double>(std::numeric_limits<T>::min());
  return x >= bound && x < -bound ? static_cast<T>(x) : std::numeric_limits<T>::min();
}

template <class To, class From>
To convert(From from) {
  constexpr bool from_float = std::is_floating_point_v<From>;
  if constexpr (std::is_same_v<To, bool>) return from != From(0);
  if constexpr (from_float && std::is_same_v<To, int64_t>) return truncate_to<int64_t>(from);
  if constexpr (from_float && std::is_integral_v<To>) return static_cast<To>(truncate_to<int32_t>(from));
  return static_cast<To>(from);
}

// Storage types and the types that they are computed in.
template <class T>
struct Stored {
  static T read(T x) { return x; }
  static T write(T x) { return x; }
};

template <>
struct Stored<Half> {
  static float read(Half x) { return half_to_float(x); }
  static Half write(double x) { return double_to_half(x); }
};

template <>
struct Stored<Brain> {
  static float read(Brain x) { return brain_to_float(x); }
  static Brain write(float x) { return float_to_brain(x); }
};

template <class From, class To>
void cast_run(const void* a, const void*, const void*, void* out, int64_t n) {
  const From* x = static_cast<const From*>(a);
  To* y = static_cast<To*>(out);
  for (int64_t i = 0; i < n; ++i) {
    const auto value = Stored<From>::read(x[i]);
    if constexpr (std::is_same_v<To, Half>) {
      y[i] = Stored<Half>::write(static_cast<double>(value));
    } else if constexpr (std::is_same_v<To, Brain>) {
      y[i] = Stored<Brain>::write(static_cast<float>(value));
    } else {
      y[i] = convert<To>(value);
    }
  }
}

template <class From>
Pointwise cast_from(DType to) {
  switch (to) {
    case DType::f64:
      return cast_run<From, double>;
    case DType::f32:
      return cast_run<From, float>;
    case DType::f16:
      return cast_run<From, Half>;
    case DType::bf16:
      return cast_run<From, Brain>;
    case DType::i64:
      return cast_run<From, int64_t>;
    case DType::i32:
      return cast_run<From, int32_t>;
    case DType::i16:
      return cast_run<From, int16_t>;
    case DType::i8:
      return cast_run<From, int8_t>;
    case DType::u8:
      return cast_run<From, uint8_t>;
    default:
      return cast_run<From, bool>;
  }
}

}  // namespace

Pointwise integer_unary(Unary op, DType dtype) {
  switch (dtype) {
    case DType::i64:
      return unary_of<int64_t>(op);
    case DType::i32:
      return unary_of<int32_t>(op);
    case DType::i16:
      return unary_of<int16_t>(op);
    case DType::i8:
      return unary_of<int8_t>(op);
    case DType::u8:
      return unary_of<uint8_t>(op);
    default:
      return nullptr;
  }
}

Pointwise integer_binary(Binary op, DType dtype) {
  switch (dtype) {
    case DType::i64:
      return binary_of<int64_t>(op);
    case DType::i32:
      return binary_of<int32_t>(op);
    case DType::i16:
      return binary_of<int16_t>(op);
    case DType::i8:
      return binary_of<int8_t>(op);
    case DType::u8:
      return binary_of<uint8_t>(op);
    case DType::b8:
      return bool_binary(op);
    default:
      return nullptr;
  }
}

Pointwise logic_function(Logic op) {
  switch (op) {
    case Logic::both:
      return logic_run<Logic::both>;
    case Logic::either:
      return logic_run<Logic::either>;
    case Logic::one:
      return logic_run<Logic::one>;
    default:
      return logic_run<Logic::negate>;
  }
}

Pointwise cast_function(DType from, DType to) {
  switch (from) {
    case DType::f64:
      return cast_from<double>(to);
    case DType::f32:
      return cast_from<float>(to);
    case DType::f16:
      return cast_from<Half>(to);
    case DType::bf16:
      return cast_from<Brain>(to);
    case DType::i64:
      return cast_from<int64_t>(to);
    case DType::i32:
      return cast_from<int32_t>(to);
    case DType::i16:
      return cast_from<int16_t>(to);
    case DType::i8:
      return cast_from<int8_t>(to);
    case DType::u8:
      return cast_from<uint8_t>(to);
    default:
      return cast_from<bool>(to);
  }
}

}  // namespace forgec
