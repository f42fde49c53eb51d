// A tensor as kernels see it: an address, an element type, a shape and strides in elements.
#pragma once

#include <cstddef>
#include <cstdint>

namespace forgec {

// An element of i4 is a byte with two numbers: the last axis of such a tensor counts pairs.
enum class DType : uint8_t { f64, f32, f16, bf16, i64, i32, i16, i8, u8, b8, i4 };

constexpr int64_t item_size(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
      return 2;
    default:
      return 1;
  }
}

constexpr int kMaxRank = 8;

struct Tensor {
  char* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};
  int64_t strides[kMaxRank] = {};

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }

  // True when the elements from axis `first` on lie in row-major order without gaps.
  bool contiguous_from(int first) const {
    int64_t step = 1;
    for (int i = rank - 1; i >= first; --i) {
      if (shape[i] != 1 && strides[i] != step) return false;
      step *= shape[i];
    }
    return true;
  }

  bool contiguous() const { return numel() == 0 || contiguous_from(0); }

  // The same elements, row-major, at another address.
  Tensor packed_at(char* address) const {
    Tensor t = *this;
    t.data = address;
    int64_t step = 1;
    for (int i = rank - 1; i >= 0; --i) {
      t.strides[i] = step;
      step *= shape[i] > 0 ? shape[i] : 1;
    }
    return t;
  }
};

}  // namespace forgec
