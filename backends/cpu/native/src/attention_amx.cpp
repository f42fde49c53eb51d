// Attention with products of pairs of bf16 by AMX tiles. Compiled with the flags of its instruction set; see build.py.
//
// The walk of attention.h with other products. A tile is 16 rows of 16 words, pairs of bf16. Queries and weights are
// left factors, tiles of 16 rows by 32 numbers along the sum; keys and values right ones, 32 numbers along the sum by 16
// keys or columns of values. They are filled up to whole tiles, with zeros along the sum and with anything elsewhere,
// since no row or column of a product depends on another.
#include "amx.h"
#include "attention_walk.h"
#include "vec_avx512.h"

namespace forgec {
namespace {

#include "pairs_512.h"

using V = VecAvx512;

constexpr int64_t kSide = kTileRows;             // rows of a tile, and words of each
constexpr int64_t kTile = kSide * kSide;         // words of a tile
constexpr int64_t kDeep = 2 * kSide;             // numbers of a tile along the sum
constexpr int kStages = 3;                       // that have scores or weights at a time
constexpr int64_t kValueTiles = kDepth / kDeep;  // along the sum, of a block of values
static_assert(kDepth % kDeep == 0, "blocks of keys are whole tiles");

int64_t tiles_of(int64_t numbers, int64_t each) { return (numbers + each - 1) / each; }

// A product of a row of tiles with any number of columns of them, two at a time, in pieces that other work comes between.
// No other product may begin before its end. All steps count words.
struct TileProduct {
  const float* a;
  int64_t a_row, a_step;           // from row to row, and along the sum
  const float* b;                  // tiles along the sum lie one after the other
  int64_t b_beside;                // to the next column of tiles
  float* c;
  int64_t c_row;
  int64_t columns;                 // tiles that are left
  int64_t steps;                   // tiles along the sum
  bool accumulate;                 // add to C instead of replacing it
  int64_t step = 0;                // that comes next

  int64_t pieces() const { return (columns + 1) / 2 * (steps > 0 ? steps : 1) - step; }

  // The next piece.
  void some() { columns > 1 ? some<2>() : some<1>(); }

 private:
  template <int C>
  void some() {
    stores_before_tiles();
    if (step == 0) begin<C>();
    if (step < steps) multiply<C>(a + step * a_step, b + step * kTile);
    if (++step < steps) return;
    _tile_stored(0, c, c_row * 4);
    if constexpr (C > 1) _tile_stored(1, c + kSide, c_row * 4);
    step = 0;
    columns -= C;
    b += C * b_beside;
    c += C * kSide;
  }

  template <int C>
  void begin() const {
    if (!accumulate) {
      _tile_zero(0);
      if constexpr (C > 1) _tile_zero(1);
      return;
    }
    _tile_loadd(0, c, c_row * 4);
    if constexpr (C > 1) _tile_loadd(1, c + kSide, c_row * 4);
  }

  template <int C>
  void multiply(const float* left, const float* right) const {
    _tile_loadd(2, left, a_row * 4);
    _tile_loadd(3, right, kTileBytes);
    _tile_dpbf16ps(0, 2, 3);
    if constexpr (C == 1) return;
    _tile_loadd(4, right + b_beside, kTileBytes);
    _tile_dpbf16ps(1, 2, 4);
  }
};

TileShapes whole_tiles() {
  TileShapes shapes;
  for (int tile = 0; tile < 5; ++tile) shapes.set(tile, kTileRows, kTileBytes);
  return shapes;
}

class TileTask : private AttentionWalk<V, Pairs> {
  using Walk = AttentionWalk<V, Pairs>;
  friend Walk;

 public:
  TileTask(const Attention& params, float* own, int64_t length)
      : Walk(params, own, length, tiles_of(params.value_size, kSide) * kSide),
        tiled_(whole_tiles()),
        steps_(tiles_of(params.size, kDeep)) {}

  void run(const AttentionPlace& place, const AttentionPlace& next) {
    Walk::walk(this, place, next, kTileRows, kTileRows);
  }

 private:
  // Numbers [0, n) of up to 16 rows as a tile of a left factor.
  static void load_tile(const float* from, int64_t from_row, int64_t from_col, int64_t rows, int64_t n, float* to) {
    if (from_col == 1 && n >= kDeep) {
      for (int64_t i = 0; i < rows; ++i, from += from_row) {
        Pairs::words(V::load(from), V::load(from + kSide)).store(to + i * kSide);
      }
      return;
    }
    alignas(64) float gathered[kDeep];
    for (int64_t i = 0; i < rows; ++i, from += from_row, to += kSide) {
      const float* x = from;
      if (from_col != 1) {
        for (int64_t j = 0; j < n && j < kDeep; ++j) gathered[j] = from[j * from_col];
        x = gathered;
      }
      Pairs::words(V::load_n(x, n), n > kSide ? V::load_n(x + kSide, n - kSide) : V::zero()).store(to);
    }
  }

  // [tiles of rows][along the sum]
  void load_query() {
    for (int64_t i = 0; i < rows_; i += kSide) {
      float* to = query_ + i * steps_ * kSide;
      by_runs(i, rows_ - i < kSide ? rows_ - i : kSide, [&](int64_t r, int64_t rows, const float* q, int64_t q_row) {
        for (int64_t s = 0; s < steps_; ++s) {
          load_tile(q + s * kDeep * p.q_step[3], q_row, p.q_step[3], rows, p.size - s * kDeep,
                    to + s * kTile + (r - i) * kSide);
        }
      });
    }
  }

  // Keys as [tiles of keys][along the sum], values as [tiles of columns][along the sum].
  void load_block(int64_t count) {
    float* to = keys_;
    for (int64_t j = 0; j < count; j += kSide) {
      const float* k = key(j);
      const int64_t keys = count - j < kSide ? count - j : kSide;
      for (int64_t s = 0; s < steps_; ++s, to += kTile) {
        alignas(64) float rows[kTile];
        load_tile(k + s * kDeep * key_col_, key_row_, key_col_, keys, p.size - s * kDeep, rows);
        V::transpose(rows, kSide, static_cast<int>(keys), to, kSide);
      }
    }
    for (int64_t j = 0; j < tiles_of(count, kDeep) * kDeep; j += 2) {
      const float* v = value(j);
      to = values_ + j / 2 * kSide;
      int64_t d = 0;
      for (; j + 1 < count && d + kSide <= p.value_size; d += kSide, to += kValueTiles * kTile) {
        Pairs::interleave(V::load(v + d), V::load(v + value_row_ + d)).store(to);
      }
      for (; d < p.value_size; d += kSide, to += kValueTiles * kTile) {
        const V x = j < count ? V::load_n(v + d, p.value_size - d) : V::zero();
        const V y = j + 1 < count ? V::load_n(v + value_row_ + d, p.value_size - d) : V::zero();
        Pairs::interleave(x, y).store(to);
      }
    }
  }

  // Query rows with a block of keys.
  struct Stage {
    int64_t i;
    int rows;  // none if there is no such stage
    int64_t first, count;
    float* scores;
  };

  // Scores of these rows are multiplied while those of the rows before become weights, and weights of the rows before
  // them are multiplied with values.
  void tile(int64_t i, int rows, int64_t first, int64_t count) {
    const Stage now{i, rows, first, count, scores_ + turn_ * kSide * kLeftRow};
    turn_ = (turn_ + 1) % kStages;
    const int64_t along = steps_ * kTile;
    TileProduct t{};
    t.a = query_ + i / kSide * along;
    t.a_row = kSide;
    t.a_step = kTile;
    t.b = keys_;
    t.b_beside = along;
    t.c = now.scores;
    t.c_row = kLeftRow;
    t.columns = tiles_of(count, kSide);
    t.steps = steps_;
    weigh_rows(t);
    before_ = now;
  }

  void end_block() {
    weigh_rows(TileProduct{});
    while (values_left_.columns > 0) values_left_.some();
    before_ = Stage{};
  }

  // Scores of the stage before become weights, while products of the stages before and after it are done.
  void weigh_rows(TileProduct scores) {
    const auto some = [&](int64_t pieces) {
      for (; pieces > 0 && values_left_.columns > 0; --pieces) values_left_.some();
      for (; pieces > 0 && scores.columns > 0; --pieces) scores.some();
    };
    const Stage& s = before_;
    const int64_t pieces = values_left_.pieces() + scores.pieces();
    int64_t done = 0;
    for (int r = 0; r < s.rows; r += kTogether) {
      const int rows = s.rows - r < kTogether ? s.rows - r : kTogether;
      const int64_t wanted = pieces * (r + rows) / s.rows;
      some(wanted - done);
      done = wanted;
      weigh(s.scores + r * kLeftRow, s.i + r, rows, s.first, s.count);
    }
    some(pieces - done);
    if (s.rows == 0) return;
    TileProduct& t = values_left_;
    t.a = s.scores;
    t.a_row = kLeftRow;
    t.a_step = kSide;
    t.b = values_;
    t.b_beside = kValueTiles * kTile;
    t.c = sums_ + s.i * sums_row_;
    t.c_row = sums_row_;
    t.columns = sums_row_ / kSide;
    t.steps = tiles_of(s.count, kDeep);
    t.accumulate = true;
  }

  const Tiled tiled_;
  const int64_t steps_;  // tiles along a head
  Stage before_{};             // whose scores are not yet weights
  TileProduct values_left_{};  // of the stage before that
  int turn_ = 0;
  alignas(64) float scores_[kStages * kSide * kLeftRow];
};

void attention_tiles(const void* params, Context& context) {
  attention_tasks<TileTask>(*static_cast<const Attention*>(params), context);
}

}  // namespace

const Run kAttentionAmx = attention_tiles;

}  // namespace forgec
