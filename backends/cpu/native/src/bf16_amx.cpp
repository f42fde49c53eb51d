// Matrix products of f32 with weights of bf16 on AMX, whose tiles multiply such numbers and add in f32.
//
// A row of f32 is three planes of bf16, their sum to the bit (split_amx.h); the three products with the weight are exact.
// A panel of the weight has the layout of tiles: two k of a column are a word. Rows are split by all threads into
// [tile of rows][step][plane]. Then threads take tasks of some panels times some tiles of rows: block of k by block of k,
// of the rows those that stay in the second-level cache pass over all panels before the next. Every block is summed from
// zero and added to what is in C.
//
// AMX takes denormal numbers and results for zero, and a rest of infinity is no number. So if a row, or a column of the
// weight, has values beyond `in_range`, the weight is decoded and AVX-512 multiplies. Columns are looked at once.
#include "amx.h"
#include "vec_avx512.h"

#include "quant_gemm.h"
#include "split_amx.h"
#include "sums_amx.h"

namespace forgec {
namespace {

constexpr int64_t kWordRow = kCodePanel * 4;        // bytes of a word of each column
constexpr int64_t kRowStep = kPlanes * kTile;       // numbers of a tile of rows and a step
static_assert(kPlanes == kBrainPlanes && kTile == 16 * 32, "brain_numbers() counts them");
constexpr int64_t kReused = 1 << 20;                // bytes of rows that stay in the second-level cache
constexpr int64_t kBlockSteps = 64;                 // of a block of k: longer sums in f32 are less exact

// The shapes of tiles: 0 to 3 sums, 4 and 5 planes of rows, 6 and 7 words of the weight.
TileShapes shapes_of(int rows) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) shapes.set(t, t < 6 ? rows : kTileRows, kTileBytes);
  return shapes;
}

// A thread's tasks.
class Blocks {
 public:
  Blocks(const BrainGemm& params, const Tiles& tiles)
      : p_(params), g_(params.quant.gemm), tiles_(tiles), steps_(steps(g_)), sums_(g_, room_) {}

  static int64_t steps(const Gemm& g) { return (g.k + kStep - 1) / kStep; }

  void run(const Task& task) {
    for (int64_t begin = 0; begin < steps_; begin += kBlockSteps) {
      const int64_t end = begin + kBlockSteps < steps_ ? begin + kBlockSteps : steps_;
      const int64_t fitting = kReused / ((end - begin) * kRowStep * static_cast<int64_t>(sizeof(Number)));
      const int64_t some = fitting < 2 ? 2 : fitting / 2 * 2;
      for (int64_t first = task.first; first < task.last; first += some) {
        const int64_t last = first + some < task.last ? first + some : task.last;
        for (int64_t panel = task.begin; panel < task.end; ++panel) {
          if (end == steps_) load_rest(panel);
          int64_t t = first;
          for (; t + 2 <= last; t += 2) block<2>(panel, t, begin, end);
          if (t < last) block<1>(panel, t, begin, end);
        }
      }
    }
  }

  void finish() { sums_.flush(); }

 private:
  const char* panel_at(int64_t panel) const { return p_.quant.codes + panel * panel_bytes(Code::bf16, g_.k); }

  // The last words of a panel, if they are too few for a step: behind them zeros.
  void load_rest(int64_t panel) {
    const int64_t words = words_of(Code::bf16, g_.k), whole = words / kTileRows * kTileRows;
    if (words == whole) return;
    std::memcpy(rest_, panel_at(panel) + whole * kWordRow, static_cast<size_t>((words - whole) * kWordRow));
    stores_before_tiles();
  }

  // R tiles of rows times steps [begin, end) of a panel.
  template <int R>
  void block(int64_t panel, int64_t first, int64_t begin, int64_t end) {
    const int64_t row = tiles_.start(first), rows = tiles_.rows(first);
    const int64_t next_tile = steps_ * kRowStep, share = (sums_.left() + end - begin - 1) / (end - begin);
    const Number* a = p_.rows + first * next_tile + begin * kRowStep;
    const char* b = panel_at(panel) + begin * kTileRows * kWordRow;
    const bool filled = words_of(Code::bf16, g_.k) % kTileRows != 0;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (R == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t s = begin; s < end; ++s, a += kRowStep, b += kTileRows * kWordRow) {
      const char* words = filled && s + 1 == steps_ ? rest_ : b;
      _tile_loadd(6, words, kWordRow);
      _tile_loadd(7, words + kTileBytes, kWordRow);
      each(std::make_integer_sequence<int, kPlanes>(), [&](auto i) __attribute__((always_inline)) {
        constexpr int plane = kPlanes - 1 - decltype(i)::value;
        _tile_loadd(4, a + plane * kTile, kTileBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (R == 2) {
          _tile_loadd(5, a + next_tile + plane * kTile, kTileBytes);
          _tile_dpbf16ps(2, 5, 6);
          _tile_dpbf16ps(3, 5, 7);
        }
      });
      sums_.some(share);
    }
    float* to = sums_.room();
    _tile_stored(0, to, kWordRow);
    _tile_stored(1, to + 16, kWordRow);
    if constexpr (R == 2) {
      _tile_stored(2, to + rows * kCodePanel, kWordRow);
      _tile_stored(3, to + rows * kCodePanel + 16, kWordRow);
    }
    sums_.put(row, tiles_.start(first + R), kCodePanel, panel * kCodePanel, begin == 0, end == steps_);
  }

  const BrainGemm& p_;
  const Gemm& g_;
  const Tiles tiles_;
  const int64_t steps_;
  Sums sums_;
  alignas(64) float room_[2 * kSumsFloats];
  alignas(64) char rest_[kTileRows * kWordRow] = {};
};

// Whether all columns of panels [begin, end) are in range.
bool columns_fit(const QuantGemm& q, int64_t begin, int64_t end) {
  const __m512i upper = _mm512_set1_epi32(0x7fff0000);
  bool fit = true;
  for (int64_t panel = begin; panel < end; ++panel) {
    const char* words = q.codes + panel * panel_bytes(Code::bf16, q.gemm.k);
    __m512i largest[2] = {};
    for (int64_t w = 0; w < words_of(Code::bf16, q.gemm.k); ++w, words += kWordRow) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m512i word = _mm512_loadu_si512(words + 64 * v);
        largest[v] = _mm512_max_epu32(largest[v], _mm512_and_si512(word, upper));
        largest[v] = _mm512_max_epu32(largest[v], _mm512_and_si512(_mm512_slli_epi32(word, 16), upper));
      }
    }
    fit = in_range(largest[0]) == 0xffff && in_range(largest[1]) == 0xffff && fit;
  }
  return fit;
}

}  // namespace

void linear_brain_amx(const void* params, Context& context) {
  const BrainGemm& p = *static_cast<const BrainGemm*>(params);
  const Gemm& g = p.quant.gemm;
  if (g.k == 0 || g.m == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const Columns columns = p.columns != nullptr ? *p.columns : Columns::unknown;
  const Run decoded = kQuantAvx512.weights[static_cast<int>(Code::bf16)];
  if (columns == Columns::beyond) return decoded(&p.quant, context);
  const Tiles tiles(g.m, kTileRows);
  const int64_t panels = (g.n + kCodePanel - 1) / kCodePanel, of_tile = Blocks::steps(g) * kRowStep;
  int64_t begin, end;
  bool fits = true;
  context.share(tiles.count, 1, &begin, &end);
  for (; begin < end; ++begin) {
    fits = split_rows(g.a + tiles.start(begin) * g.a_row, g.a_row, tiles.rows(begin), g.k, p.rows + begin * of_tile) && fits;
  }
  context.share(panels, 1, &begin, &end);
  bool fit = columns == Columns::fit || columns_fit(p.quant, begin, end);
  p.fits[context.thread] = fits;
  p.fits[context.threads + context.thread] = fit;
  context.barrier();
  fits = fit = true;
  for (int i = 0; i < context.threads; ++i) {
    fits = p.fits[i] && fits;
    fit = p.fits[context.threads + i] && fit;
  }
  if (columns == Columns::unknown && p.columns != nullptr && context.thread == 0) {
    *p.columns = fit ? Columns::fit : Columns::beyond;
  }
  if (!fits || !fit) return decoded(&p.quant, context);
  stores_before_tiles();
  const Tiled tiled(shapes_of(tiles.rows(0)));
  Blocks blocks(p, tiles);
  run_tasks(panels, g.m, (tiles.count + 1) / 2, context, [&](Task task) {
    task.first *= 2;
    task.last = 2 * task.last < tiles.count ? 2 * task.last : tiles.count;
    blocks.run(task);
  });
  blocks.finish();
}

}  // namespace forgec
