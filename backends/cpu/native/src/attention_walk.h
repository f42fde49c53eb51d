// What a task of attention is, whatever multiplies: query rows with the same keys walk over blocks of these (attention.h).
#pragma once

#include <cstring>

#include "half.h"
#include "scores.h"
#include "tasks.h"
#include "tile.h"

namespace forgec {

// Rows [row, row + rows) of a group of heads; no rows for no task.
struct AttentionPlace {
  int64_t batch, head, row, rows;
};

template <class V, class Words>
class AttentionWalk {
 protected:
  // Sums are `sums_row` apart.
  AttentionWalk(const Attention& params, float* own, int64_t length, int64_t sums_row)
      : p(params), length_(length), sums_row_(sums_row), scores_of_(params) {
    const AttentionRoom room(params);
    query_ = own;
    sums_ = query_ + room.query;
    keys_ = sums_ + room.sums;
    values_ = keys_ + room.keys;
    wide_ = values_ + room.values;
  }

  // Rows of a group of heads, while what the task after it reads first comes nearer. Tiles are of at most `most` rows, all
  // but the last of a multiple of `grain`. The task has load_query(), load_block(count), where keys are packed, for a
  // block of keys and values, and tile(i, rows, first, count), which adds what rows [i, i + rows) get from them to their
  // sums, by end_block().
  template <class Task>
  void walk(Task* task, const AttentionPlace& place, const AttentionPlace& next, int grain, int most) {
    batch_ = place.batch;
    head_ = place.head;
    row_ = place.row;
    rows_ = place.rows;
    plan_fetches(next);
    scores_of_.start(batch_, head_);
    for (int64_t i = 0; i < rows_; ++i) {
      states_[i] = {(row_ + i) / p.abreast, (row_ + i) % p.abreast, kMinusInfinity, 0.0f};
    }
    task->load_query();
    std::memset(sums_, 0, static_cast<size_t>(rows_ * sums_row_) * sizeof(float));
    int64_t begin, end;
    seen(0, rows_, &begin, &end);
    const Tiles tiles((rows_ + grain - 1) / grain, most / grain);
    for (int64_t first = begin; first < end; first += kDepth) {
      const int64_t count = end - first < kDepth ? end - first : kDepth;
      if (p.packs) {
        see(first, count);
        task->load_block(count);
      }
      for (int64_t t = 0; t < tiles.count; ++t) {
        const int64_t i = tiles.start(t) * grain;
        const int rows = static_cast<int>(rows_ - i < tiles.rows(t) * grain ? rows_ - i : tiles.rows(t) * grain);
        int64_t low, high;
        seen(i, rows, &low, &high);
        const int64_t keys = high - first < count ? high - first : count;
        if (keys > 0 && low < first + keys) task->tile(i, rows, first, keys);
      }
      task->end_block();
    }
    store();
  }

  // Rows [i, i + rows) of the task by runs of rows whose queries are `step` apart: visit(row, of them, queries, step).
  template <class Visit>
  void by_runs(int64_t i, int64_t rows, const Visit& visit) const {
    const float* q = p.q + batch_ * p.q_step[0] + head_ * p.q_step[1];
    if (p.abreast == 1) return visit(i, rows, q + states_[i].position * p.q_step[2], p.q_step[2]);
    for (int64_t end = i + rows; i < end;) {
      const RowState& row = states_[i];
      const int64_t left = p.abreast - row.beside, some = left < end - i ? left : end - i;
      visit(i, some, q + row.position * p.q_step[2] + row.beside * p.q_beside, p.q_beside);
      i += some;
    }
  }

  // Of the block that is packed.
  const float* key(int64_t j) const { return block_keys_ + j * key_row_; }
  const float* value(int64_t j) const { return block_values_ + j * value_row_; }

  // Keys or values from `first` on where they lie.
  template <class T>
  const T* of_kv(const void* base, const int64_t* step, int64_t first) const {
    return static_cast<const T*>(base) + batch_ * step[0] + head_ * step[1] + first * step[2];
  }

  // Scores of rows [i, i + rows) of the task, kLeftRow apart, and keys [first, first + count) become words of their
  // weights; what these rows have summed so far is rescaled.
  void weigh(float* scores, int64_t i, int rows, int64_t first, int64_t count) {
    for (int r = 0; r < rows; r += kTogether) {
      const int some = rows - r < kTogether ? rows - r : kTogether;
      float corrections[kTogether];
      scores_of_.template softmax<Words>(scores + r * kLeftRow, some, first, count, length_, &states_[i + r],
                                         corrections);
      for (int j = 0; j < some; ++j) {
        if (corrections[j] != 1.0f) rescale(sums_ + (i + r + j) * sums_row_, corrections[j]);
      }
    }
  }

  // Where lines [0, count) are that the next task touches and nobody fetched yet, `step` bytes apart; null if all were.
  // They may go a little beyond.
  const char* fetch(int64_t count, int64_t* step) {
    while (stream_ < kStreams && at_ >= streams_[stream_].rows) {
      at_ = 0;
      line_ += kLine;
      if (line_ < streams_[stream_].floats) continue;
      line_ = 0;
      ++stream_;
    }
    *step = 0;
    if (stream_ == kStreams) return nullptr;
    const Stream& s = streams_[stream_];
    *step = s.step * static_cast<int64_t>(sizeof(float));
    const char* from = reinterpret_cast<const char*>(s.from + at_ * s.step + line_);
    at_ += count;
    return from;
  }

  const Attention& p;
  const int64_t length_;                    // keys that count
  const int64_t sums_row_;
  int64_t batch_, head_, row_, rows_;       // the task
  float *query_, *sums_, *keys_, *values_;  // room of this thread
  const float *block_keys_, *block_values_;  // of the block that is packed: where they lie, or widened
  int64_t key_row_, key_col_, value_row_;    // between them

 private:
  // The keys and values of a block, to be packed.
  void see(int64_t first, int64_t count) {
    if (!p.half) {
      block_keys_ = of_kv<float>(p.k, p.k_step, first);
      block_values_ = of_kv<float>(p.v, p.v_step, first);
      key_row_ = p.k_step[2];
      key_col_ = p.k_step[3];
      value_row_ = p.v_step[2];
      return;
    }
    float* const values = wide_ + kDepth * p.size;
    widen(of_kv<Half>(p.k, p.k_step, first), p.k_step[2], count, p.size, wide_);
    widen(of_kv<Half>(p.v, p.v_step, first), p.v_step[2], count, p.value_size, values);
    block_keys_ = wide_;
    block_values_ = values;
    key_row_ = p.size;
    key_col_ = 1;
    value_row_ = p.value_size;
  }

  // Rows of f16, `step` apart, as floats side by side.
  static void widen(const Half* from, int64_t step, int64_t rows, int64_t size, float* to) {
    for (int64_t i = 0; i < rows; ++i, from += step, to += size) {
      int64_t d = 0;
      for (; d + V::width <= size; d += V::width) V::load(from + d).store(to + d);
      for (; d < size; ++d) to[d] = half_to_float(from[d]);
    }
  }

  static constexpr int kStreams = 4;
  struct Stream {
    const float* from;
    int64_t step, rows, floats;  // rows of so many floats, `step` apart
  };

  // Keys that some of the rows [i, i + rows) of the task may see.
  void seen(int64_t i, int64_t rows, int64_t* low, int64_t* high) const {
    int64_t unused;
    scores_of_.visible(states_[i].position, length_, low, &unused);
    scores_of_.visible(states_[i + rows - 1].position, length_, &unused, high);
  }

  // What the next task touches, as far as the first block goes: its queries, keys, values and results.
  void plan_fetches(const AttentionPlace& next) {
    stream_ = next.rows > 0 && p.packs ? 0 : kStreams;
    line_ = at_ = 0;
    const int64_t keys = length_ < kDepth ? length_ : kDepth;
    const int64_t position = next.row / p.abreast, positions = (next.rows + p.abreast - 1) / p.abreast;
    const auto floats = [&](int64_t size, int64_t beside) { return beside == size ? p.abreast * size : size; };
    streams_[0] = {p.q + next.batch * p.q_step[0] + next.head * p.q_step[1] + position * p.q_step[2], p.q_step[2],
                   positions, floats(p.size, p.q_beside)};
    if (p.half) {  // widened in a run, which the processor fetches ahead
      streams_[1] = streams_[2] = {};
    } else {
      streams_[1] = {static_cast<const float*>(p.k) + next.batch * p.k_step[0] + next.head * p.k_step[1], p.k_step[2], keys, p.size};
      streams_[2] = {static_cast<const float*>(p.v) + next.batch * p.v_step[0] + next.head * p.v_step[1], p.v_step[2], keys,
                     p.value_size};
    }
    streams_[3] = {p.out + next.batch * p.out_batch + next.head * p.out_head + position * p.out_row, p.out_row,
                   positions, floats(p.value_size, p.out_beside)};
  }

  void rescale(float* sums, float by) const {
    for (int64_t d = 0; d < p.value_size; ++d) sums[d] *= by;
  }

  void store() const {
    constexpr int W = V::width;
    for (int64_t i = 0; i < rows_; ++i) {
      const RowState& row = states_[i];
      float* out =
          p.out + batch_ * p.out_batch + head_ * p.out_head + row.position * p.out_row + row.beside * p.out_beside;
      const float* sums = sums_ + i * sums_row_;
      if (row.total == 0.0f) {
        std::memset(out, 0, static_cast<size_t>(p.value_size) * sizeof(float));
        continue;
      }
      const V inverse = V::set1(1.0f / row.total);
      int64_t d = 0;
      for (; d + W <= p.value_size; d += W) (V::load(sums + d) * inverse).store(out + d);
      if (d < p.value_size) (V::load_n(sums + d, p.value_size - d) * inverse).store_n(out + d, p.value_size - d);
    }
  }

  ScoreRows<V> scores_of_;
  float* wide_;                             // room for a block of keys and values that are f16
  Stream streams_[kStreams];
  int stream_;                              // the next fetch: stream, column and row
  int64_t line_, at_;
  RowState states_[kMostAttentionRows];
};

// All tasks of an attention, by threads that take one after the other. Task: a walk with run(place, next).
template <class Task>
void attention_tasks(const Attention& p, Context& context) {
  int64_t length = p.length;
  if (p.filled != nullptr) length = *p.filled < 0 ? 0 : *p.filled < length ? *p.filled : length;
  const int64_t heads = p.batch * p.heads;
  const Tiles parts(p.rows(), p.part_rows);
  Task task(p, p.own + context.thread * p.own_floats, length);
  const auto place = [&](int64_t n) -> AttentionPlace {
    if (n >= heads * parts.count) return {0, 0, 0, 0};
    const int64_t head = n % heads, part = parts.count - 1 - n / heads;  // the rows that see most keys first
    return {head / p.heads, head % p.heads, parts.start(part), parts.rows(part)};
  };
  AttentionPlace now = place(context.claim());
  while (now.rows > 0) {
    const AttentionPlace next = place(context.claim());
    task.run(now, next);
    now = next;
  }
}

}  // namespace forgec
