// Attention without a score matrix in memory.
//
// A task is one tile of query rows of one head. It walks the keys in blocks of 128: scores of the block (a
// register-tile product with packed keys), soft cap, mask, then the online softmax: the running maximum and sum
// of every row, with what was accumulated so far rescaled whenever the maximum grows. Keys are packed once per
// key head by all threads; values are read in place. With one or two query rows, as in decoding, packing would
// cost more than it saves: scores are dot products with the keys in place.
#pragma once

#include <cmath>

#include "gemm.h"

namespace forgec {

constexpr int64_t kKeys = 128;  // keys per block
constexpr float kMinusInfinity = -__builtin_inff();

template <class V>
struct AttentionTask {
  const Attention& p;
  int64_t batch, head, row;  // of the first query row
  int rows;
  const float* keys;         // packed panels, or null
  float* query;              // [size][rows] packed, or [rows][size]
  float* sums;               // [rows][value_size], what is accumulated
  alignas(64) float scores[kMaxTile * kKeys];
  alignas(64) float mask[kKeys];  // of a row and block of keys: to be added, or -inf where a key is hidden
  const char* mask_from = nullptr;  // where that was read
  float largest[kMaxTile], total[kMaxTile];
  bool first_block;          // no keys seen yet

  int64_t length;            // keys that count

  AttentionTask(const Attention& params, float* own, int64_t keys_filled)
      : p(params), query(own), sums(own + kMaxTile * params.size), length(keys_filled) {}

  int64_t kv_head() const { return head / (p.heads / p.kv_heads); }

  void load_query() {
    const float* q = p.q + batch * p.q_step[0] + head * p.q_step[1] + row * p.q_step[2];
    const int64_t i_step = keys != nullptr ? 1 : p.size, d_step = keys != nullptr ? rows : 1;
    if (keys != nullptr && p.q_step[3] == 1) {
      transpose<V>(q, p.q_step[2], rows, p.size, query, rows);
    } else {
      for (int i = 0; i < rows; ++i) {
        for (int64_t d = 0; d < p.size; ++d) query[i * i_step + d * d_step] = q[i * p.q_step[2] + d * p.q_step[3]];
      }
    }
    for (int64_t i = 0; i < rows * p.size; ++i) query[i] *= p.scale;
  }

  // Keys [low, high) that row i of the tile may see as far as `causal` and `window` say.
  void visible(int i, int64_t* low, int64_t* high) const {
    const int64_t at = row + i + length - p.rows;
    *high = p.causal && at + 1 < length ? at + 1 : length;
    *low = p.window > 0 && at + 1 > p.window ? at + 1 - p.window : 0;
    if (*high < 0) *high = 0;
  }

  void multiply_keys(int64_t first, int64_t count) {
    if (keys != nullptr) {
      constexpr int64_t pair = 2 * V::width;
      for (int64_t j = 0; j < count; j += pair) {
        const int64_t key = first + j;
        TileArgs t;
        t.k = p.size;
        t.a = query;
        t.a_row = 0;
        t.b = keys + key / kKeyPanel * kKeyPanel * p.size + key % kKeyPanel;
        t.b_row = kKeyPanel;
        t.c = scores + j;
        t.c_row = kKeys;
        t.cols = count - j < pair ? count - j : pair;
        t.accumulate = false;
        t.ahead = reinterpret_cast<const char*>(t.b);
        t.ahead_step = 0;
        run_tile<V, Left::packed, 2>(rows, t);
      }
      return;
    }
    const float* k = p.k + batch * p.k_step[0] + kv_head() * p.k_step[1] + first * p.k_step[2];
    for (int64_t j = 0; j < count; ++j, k += p.k_step[2]) {
      for (int i = 0; i < rows; ++i) scores[i * kKeys + j] = dot(query + i * p.size, k, p.size);
    }
  }

  static float dot(const float* a, const float* b, int64_t n) {
    constexpr int W = V::width;
    V s = V::zero(), t = V::zero();
    int64_t i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
      s = V::fma(V::load(a + i), V::load(b + i), s);
      t = V::fma(V::load(a + i + W), V::load(b + i + W), t);
    }
    for (; i < n; i += W) s = V::fma(V::load_n(a + i, n - i), V::load_n(b + i, n - i), s);
    return (s + t).sum();
  }

  void cap_scores(float* s, int64_t count) const {
    const V cap = V::set1(p.softcap), inverse = V::set1(1.0f / p.softcap);
    for (int64_t j = 0; j < count; j += V::width) {
      const int64_t n = count - j;
      (tanh(V::load_n(s + j, n) * inverse) * cap).store_n(s + j, n);
    }
  }

  // Fills `mask` for row i, unless it holds that already: rows often share one mask.
  void load_mask(int i, int64_t first, int64_t count) {
    const int64_t step = p.mask_step[3];
    const int64_t start =
        batch * p.mask_step[0] + head * p.mask_step[1] + (row + i) * p.mask_step[2] + first * step;
    const char* from = p.mask + start * (p.mask_is_bool ? 1 : 4);
    if (from == mask_from) return;
    mask_from = from;
    const float* floats = reinterpret_cast<const float*>(from);
    if (p.mask_is_bool && step == 1) {
      for (int64_t j = 0; j < count; ++j) mask[j] = from[j] ? 0.0f : kMinusInfinity;
    } else if (p.mask_is_bool) {
      for (int64_t j = 0; j < count; ++j) mask[j] = from[j * step] ? 0.0f : kMinusInfinity;
    } else if (step == 1) {
      for (int64_t j = 0; j < count; ++j) mask[j] = floats[j];
    } else {
      for (int64_t j = 0; j < count; ++j) mask[j] = floats[j * step];
    }
  }

  void mask_scores(float* s, int i, int64_t first, int64_t count) {
    load_mask(i, first, count);
    const V hidden = V::set1(kMinusInfinity);
    for (int64_t j = 0; j < count; j += V::width) {
      const V x = V::load(s + j), m = V::load(mask + j);
      (p.mask_is_bool ? V::select(V::less(m, V::zero()), hidden, x) : x + m).store(s + j);
    }
  }

  // Scores of row i become exp(score - maximum); returns what the sums so far are to be multiplied by.
  float softmax_row(int i, int64_t first, int64_t count) {
    constexpr int W = V::width;
    float* s = scores + i * kKeys;
    if (p.softcap > 0) cap_scores(s, count);
    if (p.mask != nullptr) mask_scores(s, i, first, count);
    int64_t low, high;
    visible(i, &low, &high);
    for (int64_t j = 0; j < count && j < low - first; ++j) s[j] = kMinusInfinity;
    for (int64_t j = high - first > 0 ? high - first : 0; j < count; ++j) s[j] = kMinusInfinity;
    const int64_t padded = (count + W - 1) / W * W;
    for (int64_t j = count; j < padded; ++j) s[j] = kMinusInfinity;
    V top = V::set1(largest[i]);
    for (int64_t j = 0; j < padded; j += W) top = V::max(V::load(s + j), top);
    const float maximum = top.largest();
    // With nothing but -inf any finite shift gives zeros, and a nan stays one.
    const float shift = maximum == kMinusInfinity ? 0.0f : maximum;
    const V by = V::set1(shift);
    V sum = V::zero();
    for (int64_t j = 0; j < padded; j += W) {
      const V e = exp(V::load(s + j) - by);
      e.store(s + j);
      sum = sum + e;
    }
    const float correction = first_block || largest[i] == maximum ? 1.0f : std::exp(largest[i] - shift);
    total[i] = total[i] * correction + sum.sum();
    largest[i] = maximum;
    return correction;
  }

  void multiply_values(int64_t first, int64_t count) {
    constexpr int64_t pair = 2 * V::width;
    const float* v = p.v + batch * p.v_step[0] + kv_head() * p.v_step[1] + first * p.v_step[2];
    for (int64_t col = 0; col < p.value_size; col += pair) {
      TileArgs t;
      t.k = count;
      t.a = scores;
      t.a_row = kKeys;
      t.b = v + col;
      t.b_row = p.v_step[2];
      t.c = sums + col;
      t.c_row = p.value_size;
      t.cols = p.value_size - col < pair ? p.value_size - col : pair;
      t.accumulate = !first_block;
      t.ahead = reinterpret_cast<const char*>(t.b);
      t.ahead_step = 0;
      run_tile<V, Left::rows, 2>(rows, t);
    }
  }

  void store() const {
    for (int i = 0; i < rows; ++i) {
      float* out = p.out + batch * p.out_batch + head * p.out_head + (row + i) * p.out_row;
      const bool nothing = first_block || total[i] == 0.0f;
      const float inverse = nothing ? 0.0f : 1.0f / total[i];
      for (int64_t d = 0; d < p.value_size; ++d) out[d] = nothing ? 0.0f : sums[i * p.value_size + d] * inverse;
    }
  }

  void run() {
    load_query();
    int64_t begin = length, end = 0;
    for (int i = 0; i < rows; ++i) {
      int64_t low, high;
      visible(i, &low, &high);
      begin = low < begin ? low : begin;
      end = high > end ? high : end;
      largest[i] = kMinusInfinity;
      total[i] = 0.0f;
    }
    first_block = true;
    for (int64_t first = begin / kKeyPanel * kKeyPanel; first < end; first += kKeys) {
      const int64_t count = end - first < kKeys ? end - first : kKeys;
      multiply_keys(first, count);
      for (int i = 0; i < rows; ++i) {
        const float correction = softmax_row(i, first, count);
        if (first_block || correction == 1.0f) continue;
        for (int64_t d = 0; d < p.value_size; ++d) sums[i * p.value_size + d] *= correction;
      }
      multiply_values(first, count);
      first_block = false;
    }
    store();
  }
};

template <class V>
void attention(const void* params, Context& context) {
  const Attention& p = *static_cast<const Attention*>(params);
  int64_t length = p.length;
  if (p.filled != nullptr) length = *p.filled < 0 ? 0 : *p.filled < length ? *p.filled : length;
  const int64_t panels = (length + kKeyPanel - 1) / kKeyPanel;
  if (p.keys != nullptr) {
    const int64_t count = p.batch * p.kv_heads * panels;
    int64_t begin, end;
    context.share(count, 1, &begin, &end);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / panels, key = i % panels * kKeyPanel;
      const float* k = p.k + head / p.kv_heads * p.k_step[0] + head % p.kv_heads * p.k_step[1] + key * p.k_step[2];
      const int64_t keys = length - key < kKeyPanel ? length - key : kKeyPanel;
      float* to = p.keys + i * kKeyPanel * p.size;
      if (p.k_step[3] == 1) {
        transpose<V>(k, p.k_step[2], keys, p.size, to, kKeyPanel);
      } else {
        for (int64_t d = 0; d < p.size; ++d) {
          for (int64_t j = 0; j < keys; ++j) to[d * kKeyPanel + j] = k[j * p.k_step[2] + d * p.k_step[3]];
        }
      }
    }
    context.barrier();
  }
  const Tiles tiles(p.rows, V::most_rows(2));
  AttentionTask<V> task(p, p.own + context.thread * p.own_floats, length);
  for (int64_t n = context.claim(); n < p.batch * p.heads * tiles.count; n = context.claim()) {
    const int64_t head = n / tiles.count, tile = tiles.count - 1 - n % tiles.count;  // the longest rows first
    task.mask_from = nullptr;  // the end of the keys that it was read for may be another
    task.batch = head / p.heads;
    task.head = head % p.heads;
    task.row = tiles.start(tile);
    task.rows = tiles.rows(tile);
    const int64_t kv = task.batch * p.kv_heads + task.kv_head();
    task.keys = p.keys == nullptr ? nullptr : p.keys + kv * panels * kKeyPanel * p.size;
    task.run();
  }
}

}  // namespace forgec
