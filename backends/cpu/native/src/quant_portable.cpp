// Compiled with the flags of its instruction set; see build.py. Integer tiles in plain C++.
#include "vec_portable.h"

#include "quant_table.h"

namespace forgec {
namespace {

constexpr int kRows = 4;

template <int R>
void tile(const DotArgs& t) {
  int32_t sum[R][kCodePanel] = {};
  const char* a = t.a;
  const auto* b = reinterpret_cast<const int8_t*>(t.b);
  for (int64_t w = 0; w < t.words; ++w, a += 8 * R, b += kCodePanel * 4) {
    for (int i = 0; i < R; ++i) {
      int16_t x[4];
      std::memcpy(x, a + 8 * i, 8);
      for (int j = 0; j < kCodePanel; ++j) {
        sum[i][j] += x[0] * b[4 * j] + x[1] * b[4 * j + 1] + x[2] * b[4 * j + 2] + x[3] * b[4 * j + 3];
      }
    }
  }
  std::memcpy(t.c, sum, sizeof(sum));
}

struct Nibbles {
  static constexpr int rows = 4, columns = 16, vectors = 1, chunk = 0;
  static constexpr bool pairs = false;
  struct Sums {
    int32_t v[columns];
  };
  struct Words {
    const uint8_t* at;
  };
  struct Codes {
    uint8_t v[4 * columns];
  };
  using Quad = const int8_t*;

  static Sums fill(int32_t x) {
    Sums s;
    for (int32_t& y : s.v) y = x;
    return s;
  }
  static Sums plus(Sums a, const Sums& b) {
    for (int j = 0; j < columns; ++j) a.v[j] += b.v[j];
    return a;
  }
  static Words load(const char* p) { return {reinterpret_cast<const uint8_t*>(p)}; }
  static Quad quad(const char* p) { return reinterpret_cast<const int8_t*>(p); }
  template <int odd>
  static Codes codes(Words w) {
    Codes c;
    for (int j = 0; j < 4 * columns; ++j) c.v[j] = static_cast<uint8_t>((w.at[j] >> (4 * odd) & 15) ^ 8);
    return c;
  }
  static void keep(const Codes& c, char* p) { std::memcpy(p, c.v, sizeof(c.v)); }
  static Codes kept(const char* p) {
    Codes c;
    std::memcpy(c.v, p, sizeof(c.v));
    return c;
  }
  static void add(Sums* s, const Codes& c, Quad x) {
    for (int j = 0; j < columns; ++j) {
      for (int i = 0; i < 4; ++i) s->v[j] += c.v[4 * j + i] * x[i];
    }
  }
  static void finish(const Sums& s, float x, const float* scales, float* c, bool first) {
    for (int j = 0; j < columns; ++j) c[j] = static_cast<float>(s.v[j]) * (x * scales[j]) + (first ? 0.0f : c[j]);
  }
};

#include "dot_tile.h"
#include "nibble_tile.h"

constexpr Dot kDot = make_dot(kRows, false, std::make_integer_sequence<int, kRows>());
constexpr NibbleDot kNibbleDot = make_nibble_dot<Nibbles>();

}  // namespace

const QuantKernels kQuantPortable = make_quant_kernels<VecPortable>(&kDot, &kNibbleDot);

}  // namespace forgec
