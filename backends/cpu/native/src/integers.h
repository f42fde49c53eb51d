// Point-wise functions that need no vector type: integers, booleans, selection and casts.
#pragma once

#include <cstring>

#include "params.h"

namespace forgec {

// Null where the op is not defined, or has no kernel, for the element type.
Pointwise integer_unary(Unary op, DType dtype);
Pointwise integer_binary(Binary op, DType dtype);

Pointwise cast_function(DType from, DType to);

enum class Logic { both, either, one, negate };
Pointwise logic_function(Logic op);

// out = condition ? a : b, for any type of the item's size.
template <class T>
void select_items(const void* condition, const void* a, const void* b, void* out, int64_t n) {
  const auto* c = static_cast<const uint8_t*>(condition);
  const T* x = static_cast<const T*>(a);
  const T* y = static_cast<const T*>(b);
  T* z = static_cast<T*>(out);
  for (int64_t i = 0; i < n; ++i) z[i] = c[i] != 0 ? x[i] : y[i];
}

// The same with one condition for all.
template <class T>
void select_run(const void* condition, const void* a, const void* b, void* out, int64_t n) {
  const void* from = *static_cast<const uint8_t*>(condition) != 0 ? a : b;
  if (from != out) std::memcpy(out, from, static_cast<size_t>(n) * sizeof(T));
}

}  // namespace forgec
