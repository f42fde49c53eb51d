// Attention without a score matrix in memory.
//
// A task is up to some hundred query rows of heads that have the same keys. It walks the keys in blocks of 192, of which it packs keys
// into panels [size][32] and copies values whose rows lie apart (views of a joint projection are often so strided
// that they fall into few sets of the nearest cache). Tiles of query rows pass over the block: scores by a register
// tile, their softmax (scores.h), then the product with the values, with what was accumulated so far rescaled
// whenever a row's maximum grows. At one or two positions, as in decoding, packing would cost more than it saves:
// scores are dot products with the keys in place. Keys and values in f16 are widened where they are used in place, and
// by blocks before they are packed.
//
// `Words` says what the factors of both products are packed as: numbers, or pairs of them rounded to bf16, along the
// size of a head for scores and along keys for values. Scores, their softmax and all sums are f32 either way.
#pragma once

#include "attention_walk.h"
#include "gemm.h"

namespace forgec {

template <class V, class Words>
class AttentionTask : private AttentionWalk<V, Words> {
  using Walk = AttentionWalk<V, Words>;
  friend Walk;

 public:
  AttentionTask(const Attention& params, float* own, int64_t length) : Walk(params, own, length, params.value_size) {}

  void run(const AttentionPlace& place, const AttentionPlace& next) {
    Walk::walk(this, place, next, 1, V::most_rows(2));
  }

 private:
  using Walk::p, Walk::rows_, Walk::query_, Walk::sums_, Walk::keys_, Walk::values_;
  using Walk::key, Walk::value, Walk::key_row_, Walk::key_col_, Walk::value_row_;
  static constexpr int per = Words::per_word;
  static constexpr int kAbreast = 4;      // rows that share a key, or value, in registers
  static constexpr int64_t kDeep = kDepth * per;  // numbers of a row in a block of queries

  static int64_t words_of(int64_t numbers) { return (numbers + per - 1) / per; }

  // Has a tile fetch some lines of the next task. A burst would hold up the loads of the product itself.
  void fetch(TileArgs* t) {
    t->ahead = Walk::fetch(t->k / 4 * 2 * per, &t->ahead_step);
    if (t->ahead == nullptr) t->ahead = reinterpret_cast<const char*>(t->b);
  }

  // Rows of numbers as rows of words, the last filled up with zero.
  void load_rows(const float* from, int64_t from_row, int64_t from_col, int64_t rows, int64_t cols, float* to,
                 int64_t to_row) {
    if constexpr (per == 1) {
      copy_rows<V>(from, from_row, from_col, rows, cols, to, to_row);
    } else {
      for (int64_t i = 0; i < rows; ++i, from += from_row, to += to_row) {
        if (from_col == 1) {
          Words::narrow(from, cols, to);
          continue;
        }
        for (int64_t d = 0; d < cols; d += kDepth) {
          const int64_t count = cols - d < kDepth ? cols - d : kDepth;
          for (int64_t j = 0; j < count; ++j) scores_[j] = from[(d + j) * from_col];
          Words::narrow(scores_, count, to + d / per);
        }
      }
    }
  }

  // Rows of queries: [block of words][rows][kLeftRow] for tiles, [rows][size] for dot products.
  void load_query() {
    const int64_t longest = p.packs ? kDeep : p.size, step = p.packs ? kLeftRow : p.size;
    Walk::by_runs(0, rows_, [&](int64_t i, int64_t rows, const float* q, int64_t q_row) {
      float* to = query_ + i * step;
      for (int64_t d = 0; d < p.size; d += longest, to += rows_ * step) {
        const int64_t depth = p.size - d < longest ? p.size - d : longest;
        load_rows(q + d * p.q_step[3], q_row, p.q_step[3], rows, depth, to, step);
      }
    });
  }

  void load_block(int64_t count) {
    const int64_t words = words_of(p.size);
    float* const rows = keys_ + kDepth * words;
    for (int64_t j = 0; j < count; j += kKeyPanel) {
      const int64_t keys = count - j < kKeyPanel ? count - j : kKeyPanel;
      const float* k = key(j);
      float* to = keys_ + j * words;
      if constexpr (per > 1) {
        load_rows(k, key_row_, key_col_, keys, p.size, rows, words);
        transpose<V>(rows, words, keys, words, to, kKeyPanel);
      } else if (key_col_ == 1) {
        transpose<V>(k, key_row_, keys, p.size, to, kKeyPanel);
      } else {
        copy_rows<V>(k, key_col_, key_row_, p.size, keys, to, kKeyPanel);
      }
    }
    if constexpr (per > 1) {
      for (int64_t j = 0; j < count; j += per) {
        Words::interleave(value(j), j + 1 < count ? value(j + 1) : nullptr, p.value_size,
                          values_ + j / per * p.value_size);
      }
    } else if (value_row_ == p.value_size) {
      values_in_use_ = value(0);
      return;
    } else {
      copy_rows<V>(value(0), value_row_, 1, count, p.value_size, values_, p.value_size);
    }
    values_in_use_ = values_;
  }

  void tile(int64_t i, int rows, int64_t first, int64_t count) {
    if (!p.packs) {
      if constexpr (per == 1) {
        p.half ? in_place<Half>(i, rows, first, count) : in_place<float>(i, rows, first, count);
      }
      return;
    }
    multiply_keys(i, rows, count);
    Walk::weigh(scores_, i, rows, first, count);
    float* sums = sums_ + i * p.value_size;
    constexpr int64_t pair = 2 * V::width;
    for (int64_t col = 0; col < p.value_size; col += pair) {
      TileArgs t;
      t.k = words_of(count);
      t.a = scores_;
      t.b = values_in_use_ + col;
      t.b_row = p.value_size;
      t.c = sums + col;
      t.c_row = p.value_size;
      t.cols = p.value_size - col < pair ? p.value_size - col : pair;
      t.accumulate = true;
      fetch(&t);
      run_tile<V, Left::block, 2, Words>(rows, t);
    }
  }

  void end_block() {}

  void multiply_keys(int64_t i, int rows, int64_t count) {
    constexpr int64_t pair = 2 * V::width;
    const int64_t words = words_of(p.size);
    for (int64_t j = 0; j < count; j += pair) {
      TileArgs t;
      t.b_row = kKeyPanel;
      t.c = scores_ + j;
      t.c_row = kLeftRow;
      t.cols = count - j < pair ? count - j : pair;
      for (int64_t d = 0; d < words; d += kDepth) {
        t.k = words - d < kDepth ? words - d : kDepth;
        t.a = query_ + (d / kDepth * rows_ + i) * kLeftRow;
        t.b = keys_ + j / kKeyPanel * kKeyPanel * words + d * kKeyPanel + j % kKeyPanel;
        t.accumulate = d > 0;
        fetch(&t);
        run_tile<V, Left::block, 2, Words>(rows, t);
      }
      if (p.size == 0) {
        for (int r = 0; r < rows; ++r) std::memset(t.c + r * kLeftRow, 0, static_cast<size_t>(t.cols) * sizeof(float));
      }
    }
  }

  // Few rows with keys and values where they lie, numbers of type T.
  template <class T>
  void in_place(int64_t i, int rows, int64_t first, int64_t count) {
    for (int r = 0; r < rows; r += kAbreast) dot_some<kAbreast, T>(i, r, rows - r, first, count);
    Walk::weigh(scores_, i, rows, first, count);
    for (int r = 0; r < rows; r += kAbreast) add_values<kAbreast, T>(i, r, rows - r, first, count);
  }

  // The dot products of R rows, or fewer, with keys that are read once, while their values come nearer.
  template <int R, class T>
  void dot_some(int64_t i, int from, int rows, int64_t first, int64_t count) {
    if constexpr (R > 1) {
      if (rows < R) return dot_some<R - 1, T>(i, from, rows, first, count);
    }
    constexpr int W = V::width, K = V::abreast, kSums = (K * R + 3) / 4 * 4;
    const float* q = query_ + (i + from) * p.size;
    const T* const keys = Walk::template of_kv<T>(p.k, p.k_step, first);
    const T* const values = Walk::template of_kv<T>(p.v, p.v_step, first);
    for (int64_t j = 0; j < count; j += K) {
      const T* k[K];
#pragma GCC unroll 4
      for (int n = 0; n < K; ++n) k[n] = keys + (j + n < count ? j + n : j) * p.k_step[2];
      V sums[kSums];
#pragma GCC unroll 16
      for (int n = 0; n < kSums; ++n) sums[n] = V::zero();
      const auto add = [&](int64_t d, const auto& load) __attribute__((always_inline)) {
        V x[K];
#pragma GCC unroll 4
        for (int n = 0; n < K; ++n) x[n] = load(k[n] + d);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const V z = load(q + r * p.size + d);
#pragma GCC unroll 4
          for (int n = 0; n < K; ++n) sums[r * K + n] = V::fma(x[n], z, sums[r * K + n]);
        }
      };
      int64_t d = 0;
      for (; d + W <= p.size; d += W) add(d, [](const auto* at) { return V::load(at); });
      if (d < p.size) add(d, [&](const auto* at) { return V::load_n(at, p.size - d); });
      float found[kSums];
#pragma GCC unroll 4
      for (int n = 0; n < kSums; n += 4) V::sums(sums + n, found + n);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {  // places behind the last key are padding
        std::memcpy(scores_ + (from + r) * kLeftRow + j, found + r * K, K * sizeof(float));
      }
      if (from > 0) continue;
      for (int n = 0; n < K; ++n) {
        const char* v = reinterpret_cast<const char*>(values + (j + n) * p.v_step[2]);
        for (int64_t e = 0; e < p.value_size * static_cast<int64_t>(sizeof(T)); e += 64) __builtin_prefetch(v + e, 0, 2);
      }
    }
  }

  // Adds what R rows, or fewer, get from values that are read once.
  template <int R, class T>
  void add_values(int64_t i, int from, int rows, int64_t first, int64_t count) {
    if constexpr (R > 1) {
      if (rows < R) return add_values<R - 1, T>(i, from, rows, first, count);
    }
    constexpr int W = V::width;
    const T* const values = Walk::template of_kv<T>(p.v, p.v_step, first);
    float* sums = sums_ + (i + from) * p.value_size;
    int64_t d = 0;
    for (; d + V::abreast * W <= p.value_size; d += V::abreast * W) {
      add_columns<R, V::abreast>(values + d, from, count, sums + d, [](const auto* at) { return V::load(at); },
                                 [](V x, float* to) { x.store(to); });
    }
    for (; d + W <= p.value_size; d += W) {
      add_columns<R, 1>(values + d, from, count, sums + d, [](const auto* at) { return V::load(at); },
                        [](V x, float* to) { x.store(to); });
    }
    if (const int64_t left = p.value_size - d; left > 0) {
      add_columns<R, 1>(values + d, from, count, sums + d, [&](const auto* at) { return V::load_n(at, left); },
                        [&](V x, float* to) { x.store_n(to, left); });
    }
  }

  // The same for C vectors of columns.
  template <int R, int C, class T, class Load, class Store>
  void add_columns(const T* values, int from, int64_t count, float* to, const Load& load, const Store& store) const {
    constexpr int W = V::width;
    V sums[R * C];
#pragma GCC unroll 16
    for (int n = 0; n < R * C; ++n) sums[n] = V::zero();
    for (int64_t j = 0; j < count; ++j, values += p.v_step[2]) {
      V x[C];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) x[c] = load(values + c * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const V weight = V::set1(scores_[(from + r) * kLeftRow + j]);
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) sums[r * C + c] = V::fma(weight, x[c], sums[r * C + c]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) {
        float* at = to + r * p.value_size + c * W;
        store(load(at) + sums[r * C + c], at);
      }
    }
  }

  const float* values_in_use_;            // of the packed block
  alignas(64) float scores_[kMaxTile * kLeftRow];
};

template <class V, class Words = Singles<V>>
void attention(const void* params, Context& context) {
  attention_tasks<AttentionTask<V, Words>>(*static_cast<const Attention*>(params), context);
}

}  // namespace forgec
