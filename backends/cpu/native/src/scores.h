// Rows of attention scores: soft cap, mask, and the softmax that goes from one block of keys to the next.
//
// Scores count in units of log 2, which makes their exponential one instruction shorter per step; the factor
// `scale` / log 2 enters with the subtraction of the row's maximum where neither cap nor mask comes before it.
#pragma once

#include <cmath>

#include "params.h"
#include "vec_math.h"

namespace forgec {

constexpr float kMinusInfinity = -__builtin_inff();
constexpr float kLowest = -3.40282347e38f;
constexpr float kLogE = 1.44269504f;  // log2(e)

constexpr int kTogether = 4;  // rows whose maxima and sums are found at the same time, since each waits for itself

// Where a row is, and what it has seen so far.
struct RowState {
  int64_t position, beside;  // beside which heads of the same keys
  float largest, total;
};

template <class V>
class ScoreRows {
 public:
  explicit ScoreRows(const Attention& params) : p(params) {}

  // Rows of another head come next.
  void start(int64_t batch, int64_t head) {
    const int64_t offset = batch * p.mask_step[0] + head * p.mask_step[1];
    mask_head_ = p.mask == nullptr ? nullptr : p.mask + offset * mask_bytes();
    mask_from_ = nullptr;
  }

  // Keys [low, high) that may be seen from a position, of `length`, as far as `causal` and `window` say.
  void visible(int64_t position, int64_t length, int64_t* low, int64_t* high) const {
    const int64_t at = position + length - p.positions;
    *high = p.causal && at + 1 < length ? at + 1 : length;
    *low = p.window > 0 && at + 1 > p.window ? at + 1 - p.window : 0;
    if (*high < 0) *high = 0;
  }

  // Scores of `rows` rows, at most kTogether and kLeftRow apart, and keys [first, first + count) become words of
  // exp(score - maximum), padded with zeros to whole vectors of words. `corrections` gets what the rows' sums so far are
  // to be multiplied by.
  template <class Words>
  void softmax(float* s, int rows, int64_t first, int64_t count, int64_t length, RowState* states,
               float* corrections) {
    constexpr int W = V::width, per = Words::per_word;
    const int64_t padded = (count + per * W - 1) / (per * W) * (per * W);
    float rest[kTogether];  // of what a score is multiplied by
    V top[kTogether];
    for (int r = 0; r < rows; ++r) {
      rest[r] = finish_scores(s + r * kLeftRow, states[r], first, count, padded, length);
      top[r] = V::set1(kMinusInfinity);
      for (int64_t j = 0; j < padded; j += W) top[r] = V::max(V::load(s + r * kLeftRow + j), top[r]);
    }
    float shift[kTogether];
    for (int r = 0; r < rows; ++r) {
      const float seen = top[r].largest(), now = seen == kMinusInfinity ? seen : seen * rest[r], before = states[r].largest;
      const float maximum = now > before ? now : before;
      // With nothing but -inf any finite shift gives zeros, and a nan stays one.
      shift[r] = maximum == kMinusInfinity ? 0.0f : maximum;
      corrections[r] = states[r].total == 0.0f || before == maximum ? 1.0f : std::exp2(before - shift[r]);
      states[r].largest = maximum;
    }
    V sum[kTogether];
    for (int r = 0; r < rows; ++r) sum[r] = store_weights<Words>(s + r * kLeftRow, padded, rest[r], -shift[r]);
    for (int r = 0; r < rows; ++r) states[r].total = states[r].total * corrections[r] + sum[r].sum();
  }

 private:
  // Applies cap and mask to the scores of a row, and hides those of keys that it may not see and of padding. Returns what
  // they are still to be multiplied by.
  float finish_scores(float* s, const RowState& row, int64_t first, int64_t count, int64_t padded, int64_t length) {
    const float factor = p.scale * kLogE;
    const bool masked = p.mask != nullptr && !load_mask(row, first, count);
    const bool plain = p.softcap <= 0 && !masked && factor > 0;  // times 0, what is hidden would be a nan
    if (!plain) prepare(s, count, factor, masked);
    int64_t low, high;
    visible(row.position, length, &low, &high);
    for (int64_t j = 0; j < count && j < low - first; ++j) s[j] = kMinusInfinity;
    for (int64_t j = high - first < 0 ? 0 : high - first < count ? high - first : count; j < padded; ++j) {
      s[j] = kMinusInfinity;
    }
    return plain ? factor : 1.0f;
  }

  // exp2(s * times + by) as words; returns sums of what was rounded to these.
  template <class Words>
  static V store_weights(float* s, int64_t padded, float times, float by) {
    constexpr int W = V::width;
    const V factor = V::set1(times), term = V::set1(by);
    V sum = V::zero();
    const auto scaled = [&](int64_t j) { return V::fma(V::load(s + j), factor, term); };
    if constexpr (Words::per_word == 1) {
      for (int64_t j = 0; j < padded; j += W) {
        const V e = exp2_below(scaled(j));
        e.store(s + j);
        sum = sum + e;
      }
    } else {
      V other = V::zero();
      for (int64_t j = 0; j < padded; j += 2 * W) {
        const V e = Words::power(scaled(j)), f = Words::power(scaled(j + W));
        Words::words(e, f).store(s + j / 2);
        sum = sum + e;
        other = other + f;
      }
      sum = sum + other;
    }
    return sum;
  }

  int64_t mask_bytes() const { return p.mask_is_bool ? 1 : 4; }

  // Fills `mask_` for a row unless it holds that already: rows often share one mask. True if it hides nothing and
  // adds nothing.
  bool load_mask(const RowState& row, int64_t first, int64_t count) {
    const int64_t step = p.mask_step[3];
    const int64_t offset = row.position * p.mask_step[2] + row.beside * p.mask_beside;
    const char* from = mask_head_ + (offset + first * step) * mask_bytes();
    if (from == mask_from_ && count <= mask_count_) return mask_open_;
    mask_from_ = from;
    mask_count_ = count;
    const float* floats = reinterpret_cast<const float*>(from);
    if (p.mask_is_bool && step == 1) {
      fill(count, [&](int64_t j) { return from[j] ? 0.0f : kMinusInfinity; });
    } else if (p.mask_is_bool) {
      fill(count, [&](int64_t j) { return from[j * step] ? 0.0f : kMinusInfinity; });
    } else if (step == 1) {
      fill(count, [&](int64_t j) { return log_units(floats[j]); });
    } else {
      fill(count, [&](int64_t j) { return log_units(floats[j * step]); });
    }
    return mask_open_;
  }

  // The lowest finite values, often written for -inf, stay finite.
  static float log_units(float x) {
    const float y = x * kLogE;
    return y < kLowest && x >= kLowest ? kLowest : y;
  }

  template <class F>
  void fill(int64_t count, const F& value) {
    int closed = 0;
    for (int64_t j = 0; j < count; ++j) {
      mask_[j] = value(j);
      closed |= mask_[j] != 0.0f;
    }
    mask_open_ = closed == 0;
  }

  void prepare(float* s, int64_t count, float factor, bool masked) const {
    const bool capped = p.softcap > 0;
    const V times = V::set1(capped ? p.scale / p.softcap : factor), cap = V::set1(p.softcap * kLogE);
    const V hidden = V::set1(kMinusInfinity);
    for (int64_t j = 0; j < count; j += V::width) {
      V x = V::load(s + j) * times;
      if (capped) x = tanh(x) * cap;
      if (masked) {
        const V m = V::load(mask_ + j);
        x = p.mask_is_bool ? V::select(V::less(m, V::zero()), hidden, x) : x + m;
      }
      x.store(s + j);
    }
  }

  const Attention& p;
  const char* mask_head_ = nullptr;
  const char* mask_from_ = nullptr;  // where `mask_` was read
  int64_t mask_count_ = 0;
  bool mask_open_ = false;
  alignas(64) float mask_[kDepth];  // to be added, or -inf where a boolean mask hides a key
};

}  // namespace forgec
