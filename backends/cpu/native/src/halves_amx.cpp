// Matrix products of f32 with weights of bf16 or f16 on AMX, whose tiles multiply numbers of bf16 and add in f32.
//
// A row of f32 is three planes of bf16, their sum to the bit (split_amx.h); products of planes are exact. A panel of bf16
// has the layout of tiles: two k of a column are a word. One of f16 is two planes of bf16, to the bit too, and of the six
// products that of the lowest planes is left out, which is below 2^-25 of that of the two numbers. Rows are split by all
// threads into [tile of rows][step][plane]. Then threads take tasks of some panels times some tiles of rows: block of k by
// block of k, of the rows those that stay in the second-level cache pass over all panels before the next. A block of f16 is
// split into room of the thread when it is its turn. Every block is summed from zero and added to what is in C.
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
constexpr int64_t kWordTiles = kTileRows * kWordRow;  // bytes of a plane of a panel in a step
static_assert(kPlanes == kRowPlanes && kTile == 16 * 32, "row_planes() counts them");
constexpr int64_t kReused = 1 << 20;                // bytes of rows that stay in the second-level cache

// How a weight becomes planes, and how many steps a block of k has: longer sums in f32 are less exact.
template <Code code>
struct Weight;

template <>
struct Weight<Code::bf16> {
  static constexpr int planes = 1;
  static constexpr int64_t steps = 64;
  static constexpr int products = 3;
  static constexpr int of_rows[products] = {2, 1, 0}, of_weight[products] = {0, 0, 0};
};

template <>
struct Weight<Code::f16> {
  static constexpr int planes = 2;
  static constexpr int64_t steps = kHalfSteps;
  static constexpr int products = 5;
  static constexpr int of_rows[products] = {2, 1, 1, 0, 0}, of_weight[products] = {0, 0, 1, 1, 0};
};
static_assert(Weight<Code::f16>::planes * kWordTiles == kHalfStepBytes, "room for them");

// The shapes of tiles: 0 to 3 sums, 4 and 5 planes of rows, 6 and 7 planes of the weight.
TileShapes shapes_of(int rows) {
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) shapes.set(t, t < 6 ? rows : kTileRows, kTileBytes);
  return shapes;
}

// A thread's tasks.
template <Code code>
class Blocks {
 public:
  // `opened` has room for the planes of a block of f16.
  Blocks(const HalfGemm& params, const Tiles& tiles, char* opened)
      : p_(params), g_(params.quant.gemm), tiles_(tiles), steps_(steps(g_)), opened_(opened), sums_(g_, room_) {}

  static int64_t steps(const Gemm& g) { return (g.k + kStep - 1) / kStep; }

  void run(const Task& task) {
    for (int64_t begin = 0; begin < steps_; begin += W::steps) {
      const int64_t end = begin + W::steps < steps_ ? begin + W::steps : steps_;
      const int64_t fitting = kReused / ((end - begin) * kRowStep * static_cast<int64_t>(sizeof(Number)));
      const int64_t some = fitting < 2 ? 2 : fitting / 2 * 2;
      for (int64_t first = task.first; first < task.last; first += some) {
        const int64_t last = first + some < task.last ? first + some : task.last;
        for (int64_t panel = task.begin; panel < task.end; ++panel) {
          if constexpr (W::planes > 1) {
            open(panel, begin, end);
          } else if (end == steps_) {
            load_rest(panel);
          }
          int64_t t = first;
          for (; t + 2 <= last; t += 2) block<2>(panel, t, begin, end);
          if (t < last) block<1>(panel, t, begin, end);
        }
      }
    }
  }

  void finish() { sums_.flush(); }

 private:
  using W = Weight<code>;

  const char* panel_at(int64_t panel) const { return p_.quant.codes + panel * panel_bytes(code, g_.k); }

  // Steps [begin, end) of a panel as [step][plane][word][column], behind the last words zeros.
  void open(int64_t panel, int64_t begin, int64_t end) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    const char* from = panel_at(panel) + begin * kWordTiles;
    const char* last = panel_at(panel) + words_of(code, g_.k) * kWordRow;
    char* to = opened_;
    for (int64_t s = begin; s < end; ++s, to += W::planes * kWordTiles) {
      for (int64_t at = 0; at < kWordTiles; at += kTileBytes, from += kTileBytes) {
        const __m512i word = from < last ? _mm512_loadu_si512(from) : _mm512_setzero_si512();
        const V x = Codes<V>::value<code, 0>(word), y = Codes<V>::value<code, 1>(word);
        split<W::planes>(x.v, y.v, [&](__m512i a, __m512i b) {
          return _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 16), b, upper, 0xf8);
        }, reinterpret_cast<Number*>(to + at), kWordTiles / static_cast<int64_t>(sizeof(Number)));
      }
    }
    stores_before_tiles();
  }

  // The last words of a panel, if they are too few for a step: behind them zeros.
  void load_rest(int64_t panel) {
    const int64_t words = words_of(code, g_.k), whole = words / kTileRows * kTileRows;
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
    const char* b = W::planes > 1 ? opened_ : panel_at(panel) + begin * kWordTiles;
    const bool filled = W::planes == 1 && words_of(code, g_.k) % kTileRows != 0;
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (R == 2) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t s = begin; s < end; ++s, a += kRowStep, b += W::planes * kWordTiles) {
      const char* words = filled && s + 1 == steps_ ? rest_ : b;
      each(std::make_integer_sequence<int, W::products>(), [&](auto i) __attribute__((always_inline)) {
        constexpr int p = decltype(i)::value, before = p == 0 ? 0 : p - 1;
        if constexpr (p == 0 || W::of_weight[p] != W::of_weight[before]) {
          _tile_loadd(6, words + W::of_weight[p] * kWordTiles, kWordRow);
          _tile_loadd(7, words + W::of_weight[p] * kWordTiles + kTileBytes, kWordRow);
        }
        constexpr bool other_rows = p == 0 || W::of_rows[p] != W::of_rows[before];
        if constexpr (other_rows) _tile_loadd(4, a + W::of_rows[p] * kTile, kTileBytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (R == 2) {
          if constexpr (other_rows) _tile_loadd(5, a + next_tile + W::of_rows[p] * kTile, kTileBytes);
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

  const HalfGemm& p_;
  const Gemm& g_;
  const Tiles tiles_;
  const int64_t steps_;
  char* const opened_;
  Sums sums_;
  alignas(64) float room_[2 * kSumsFloats];
  alignas(64) char rest_[kTileRows * kWordRow] = {};
};

// Whether all columns of panels [begin, end) are in range. Numbers of f16 are, if they are finite.
template <Code code>
bool columns_fit(const QuantGemm& q, int64_t begin, int64_t end) {
  if constexpr (code == Code::f16) {
    __m512i largest = _mm512_setzero_si512();
    const char* words = q.codes + begin * panel_bytes(code, q.gemm.k);
    const char* last = q.codes + end * panel_bytes(code, q.gemm.k);
    for (; words < last; words += 64) {
      const __m512i magnitudes = _mm512_and_si512(_mm512_loadu_si512(words), _mm512_set1_epi16(0x7fff));
      largest = _mm512_max_epu16(largest, magnitudes);
    }
    return _mm512_cmpge_epu16_mask(largest, _mm512_set1_epi16(0x7c00)) == 0;
  }
  const __m512i upper = _mm512_set1_epi32(0x7fff0000);
  bool fit = true;
  for (int64_t panel = begin; panel < end; ++panel) {
    const char* words = q.codes + panel * panel_bytes(code, q.gemm.k);
    __m512i largest[2] = {};
    for (int64_t w = 0; w < words_of(code, q.gemm.k); ++w, words += kWordRow) {
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

template <Code code>
void linear_half(const void* params, Context& context) {
  const HalfGemm& p = *static_cast<const HalfGemm*>(params);
  const Gemm& g = p.quant.gemm;
  if (g.k == 0 || g.m == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const Columns columns = p.columns != nullptr ? *p.columns : Columns::unknown;
  const Run decoded = kQuantAvx512.weights[static_cast<int>(code)];
  if (columns == Columns::beyond) return decoded(&p.quant, context);
  const Tiles tiles(g.m, kTileRows);
  const int64_t panels = (g.n + kCodePanel - 1) / kCodePanel, of_tile = Blocks<code>::steps(g) * kRowStep;
  int64_t begin, end;
  bool fits = true;
  context.share(tiles.count, 1, &begin, &end);
  for (; begin < end; ++begin) {
    fits = split_rows(g.a + tiles.start(begin) * g.a_row, g.a_row, tiles.rows(begin), g.k, p.rows + begin * of_tile) && fits;
  }
  context.share(panels, 1, &begin, &end);
  bool fit = columns == Columns::fit || columns_fit<code>(p.quant, begin, end);
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
  char* opened = code == Code::f16 ? p.opened + context.thread * kHalfSteps * kHalfStepBytes : nullptr;
  Blocks<code> blocks(p, tiles, opened);
  run_tasks(panels, g.m, (tiles.count + 1) / 2, context, [&](Task task) {
    task.first *= 2;
    task.last = 2 * task.last < tiles.count ? 2 * task.last : tiles.count;
    blocks.run(task);
  });
  blocks.finish();
}

}  // namespace

void linear_bf16_amx(const void* params, Context& context) { linear_half<Code::bf16>(params, context); }
void linear_f16_amx(const void* params, Context& context) { linear_half<Code::f16>(params, context); }

}  // namespace forgec
