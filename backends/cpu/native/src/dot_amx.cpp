// Products of blocks of rows in bytes with codes, by the matrix unit of AMX (quant.h, BlockGemm).
//
// A block is up to 32 rows times a panel of 32 columns: four tiles of sums, from two tiles of A and two of codes for
// every 64 k. A panel of i8 has the layout of the latter; codes of i4 become bytes first, with their value in the upper
// four bits, so that a sum is 16 times what it is to be. Even k of a word come before odd ones, and so they do in A.
//
// All blocks of a task pass over some k of a panel, which stay in the nearest cache meanwhile, before they go on to the
// next. Sums that are not yet complete wait in memory.
//
// A segment is the k of a block in a pass that share a scale: of a group, and of one digit of A. While its tiles are
// multiplied, the vector units scale, activate and store the sums of the segment before.
#include "amx.h"
#include "vec_avx512.h"

#include "block_rows.h"
#include "dynamic_gemm.h"

namespace forgec {
namespace {

using V = VecAvx512;

// Sums of a segment on their way to C, and what is left to do of them.
struct Pending {
  using Finish = void (*)(Pending& pending, int rows);

  const BlockGemm* product;
  Finish finish;
  int rows, done;
  int64_t row, col;
  const float* row_scales;
  V scales[2];
  float* sums;     // [rows][32] what was added before, if there is more than one segment
  bool first;      // of the block's segments
  alignas(64) int32_t whole[kBlockRows * kCodePanel];

  void some(int count) {
    if (done == rows) return;
    if (count > rows - done) count = rows - done;
    finish(*this, count);
    done += count;
  }
};

// Of all segments but the last.
void add_sums(Pending& p, int count) {
  for (int i = p.done; i < p.done + count; ++i) {
    const V scale = V::set1(p.row_scales[i]);
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const int place = i * kCodePanel + 16 * v;
      V::fma(Codes<V>::from_ints(p.whole + place), scale * p.scales[v], p.first ? V::zero() : V::load(p.sums + place))
          .store(p.sums + place);
    }
  }
}

// Of the last segment: `alone` if it's the only one.
template <Act act, bool alone, bool rounded>
void finish_sums(Pending& p, int count) {
  const Gemm& g = p.product->quant.gemm;
  const float* row_scales = p.row_scales + p.done;
  const int32_t* whole = p.whole + p.done * kCodePanel;
  const float* sums = alone ? nullptr : p.sums + p.done * kCodePanel;
  const auto scaled = [=](int i, int v, V scale, V bias) __attribute__((always_inline)) {
    const V products = Codes<V>::from_ints(whole + i * kCodePanel + v), both = V::set1(row_scales[i]) * scale;
    if constexpr (alone) return V::fma(products, both, bias);
    return V::fma(products, both, V::load(sums + i * kCodePanel + v)) + bias;
  };
  if (g.n - p.col < kCodePanel) {
    store_panel<V, act, rounded>(g, p.row + p.done, count, p.col, [&](int v) {
      return [=, scale = p.scales[v / 16]](int i, V bias) { return scaled(i, v, scale, bias); };
    });
    return;
  }
  const V scales[2] = {p.scales[0], p.scales[1]};
  V bias[2] = {V::zero(), V::zero()};
  for (int v = 0; v < 2 && g.bias != nullptr; ++v) bias[v] = V::load(g.bias + p.col + 16 * v);
  float* c = g.c + (p.row + p.done) * g.ldc + p.col;
  const float* residual = g.residual == nullptr ? nullptr : g.residual + (p.row + p.done) * g.ldr + p.col;
  for (int i = 0; i < count; ++i, c += g.ldc) {
    V y[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const V x = scaled(i, 16 * v, scales[v], bias[v]);
      y[v] = rounded ? activate_near<V, act>(x) : activate<V, act>(x);
      if (residual != nullptr) y[v] = y[v] + V::load(residual + i * g.ldr + 16 * v);
    }
    if (p.product->streams) {
      _mm512_stream_ps(c, y[0].v);
      _mm512_stream_ps(c + 16, y[1].v);
    } else {
      y[0].store(c);
      y[1].store(c + 16);
    }
  }
}

Pending::Finish finish_of(const BlockGemm& p) {
  Pending::Finish found = nullptr;
  with_act(p.quant.gemm.act, [&](auto act) {
    constexpr Act a = decltype(act)::value;
    if (p.digits > 1) {
      found = finish_sums<a, false, false>;
    } else {
      found = p.groups == 1 ? finish_sums<a, true, true> : finish_sums<a, false, true>;
    }
  });
  return found;
}

// Codes of i4 as bytes: of each word those of even k, then those of odd k.
void widen_codes(const char* words, int64_t count, char* to) {
  const __m512i upper = _mm512_set1_epi8(static_cast<char>(0xf0));
  for (; count > 0; --count, words += kCodePanel * 4, to += 2 * kCodePanel * 4) {
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const __m512i word = _mm512_loadu_si512(words + 64 * v);
      _mm512_storeu_si512(to + 64 * v, _mm512_and_si512(_mm512_slli_epi32(word, 4), upper));
      _mm512_storeu_si512(to + kCodePanel * 4 + 64 * v, _mm512_and_si512(word, upper));
    }
  }
}

// The shapes of the tiles of a block: 0 to 3 sums, 4 and 5 rows of A, 6 and 7 codes.
TileShapes shapes_of(int rows, int64_t grain) {
  TileShapes shapes;
  for (int half = 0; half < 2 && rows > half * kTileRows; ++half) {
    const int some = rows - half * kTileRows < kTileRows ? rows - half * kTileRows : kTileRows;
    shapes.set(2 * half, some, kTileBytes);
    shapes.set(2 * half + 1, some, kTileBytes);
    shapes.set(4 + half, some, static_cast<int>(grain));
  }
  shapes.set(6, static_cast<int>(grain / 4), kTileBytes);
  shapes.set(7, static_cast<int>(grain / 4), kTileBytes);
  return shapes;
}

constexpr int64_t kCodeRow = kCodePanel * 4;  // bytes of a word of each column

template <int halves>
__attribute__((always_inline)) inline void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (halves == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
}

// Rows of A stream through the nearest cache, in which the codes of a panel are to stay for all blocks.
template <int halves>
__attribute__((always_inline)) inline void multiply_step(const char* a, int64_t row_bytes, const char* b) {
  _tile_loadd(6, b, kCodeRow);
  _tile_stream_loadd(4, a, row_bytes);
  _tile_dpbssd(0, 4, 6);
  _tile_loadd(7, b + kTileBytes, kCodeRow);
  _tile_dpbssd(1, 4, 7);
  if constexpr (halves == 2) {
    _tile_stream_loadd(5, a + kTileRows * row_bytes, row_bytes);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
}

template <int halves>
__attribute__((always_inline)) inline void load_sums(const int32_t* from) {
  _tile_loadd(0, from, kCodeRow);
  _tile_loadd(1, from + 16, kCodeRow);
  if constexpr (halves == 2) {
    _tile_loadd(2, from + kTileRows * kCodePanel, kCodeRow);
    _tile_loadd(3, from + kTileRows * kCodePanel + 16, kCodeRow);
  }
}

template <int halves>
__attribute__((always_inline)) inline void store_sums(int32_t* to) {
  _tile_stored(0, to, kCodeRow);
  _tile_stored(1, to + 16, kCodeRow);
  if constexpr (halves == 2) {
    _tile_stored(2, to + kTileRows * kCodePanel, kCodeRow);
    _tile_stored(3, to + kTileRows * kCodePanel + 16, kCodeRow);
  }
}

// All blocks of a task; `halves` of a block have rows.
template <int halves>
class BlockTask {
 public:
  BlockTask(const BlockGemm& params, const Tiles& tiles, int thread) : p(params), g(params.quant.gemm), tiles_(tiles) {
    if (p.codes != nullptr) codes_ = p.codes + thread * p.codes_bytes;
    if (p.whole != nullptr) whole_ = p.whole + thread * kBlockTiles * p.digits * kBlockFloats;
    if (p.sums != nullptr) sums_ = p.sums + thread * kBlockTiles * kBlockFloats;
    finish_ = finish_of(p);
    pending_.product = &params;
    pending_.rows = pending_.done = 0;
  }

  void run(const Task& task) {
    for (int64_t first = task.first; first < task.last; first += kBlockTiles) {
      const int64_t last = first + kBlockTiles < task.last ? first + kBlockTiles : task.last;
      for (int64_t panel = task.begin; panel < task.end; ++panel) {
        const int64_t next = panel + 1 < task.end ? panel + 1 : task.after;
        for (int64_t k = 0; k < g.k; k += p.depth) {
          const int64_t end = k + p.depth < g.k ? k + p.depth : g.k;
          load_codes(panel, k, end);
          plan_fetches(end < g.k ? place(panel, end) : place(next, 0), end - k, last - first);
          for (int64_t t = first; t < last; ++t) block({panel, k, end, t, t - first});
        }
      }
    }
  }

  void finish() {
    pending_.some(kBlockRows);
    _mm_sfence();  // what was streamed is there for other threads
  }

 private:
  // Of a panel k in [begin, end), times a tile of rows, number `at` of this pass.
  struct Pass {
    int64_t panel, begin, end, tile, at;
  };

  const char* place(int64_t panel, int64_t k) const {
    return p.quant.codes + panel * panel_bytes(p.code, g.k) + k / per_word(p.code) * kCodeRow;
  }

  // Where k is in a row of A, at the beginning of a group.
  int64_t byte_of(int64_t k) const { return p.grouped ? k / p.group * p.group_bytes : k; }

  // Codes of a panel as bytes. Those of i8 are that already, but their last words may be too few for a step and are
  // filled up.
  void load_codes(int64_t panel, int64_t begin, int64_t end) {
    bytes_ = place(panel, begin);
    if (p.code == Code::i4) {
      char* to = codes_;
      for (int64_t k = begin; k < end; k += p.group, to += p.group_bytes * kCodePanel) {
        widen_codes(place(panel, k), words_of(Code::i4, end - k < p.group ? end - k : p.group), to);
      }
      bytes_ = codes_;
    } else if (end == g.k && words_of(Code::i8, g.k) % (p.grain / 4) != 0) {
      const int64_t words = words_of(Code::i8, g.k), whole = words / (p.grain / 4) * (p.grain / 4);
      std::memcpy(rest_, place(panel, whole * 4), static_cast<size_t>((words - whole) * kCodeRow));
      filled_ = rest_;
    }
    stores_before_tiles();
  }

  // Each step fetches some of the codes that come after those of this pass, as many.
  void plan_fetches(const char* next, int64_t k, int64_t blocks) {
    const int64_t steps = (k + p.grain - 1) / p.grain * p.digits * blocks;
    const int64_t lines = (k / per_word(p.code) * kCodeRow + 63) / 64;
    ahead_ = next;
    ahead_lines_ = static_cast<int>((lines + steps - 1) / steps);
  }

  void block(const Pass& pass) {
    const int64_t row = tiles_.start(pass.tile), plane = (g.m + 1) * p.row_bytes;
    const int64_t longest = p.grouped ? p.group : p.depth;
    for (int64_t k = pass.begin; k < pass.end; k += longest) {
      const int64_t end = k + longest < pass.end ? k + longest : pass.end;
      const int64_t at = byte_of(k), steps = (end - k + p.grain - 1) / p.grain;
      const bool begins = p.grouped || k == 0, ends = p.grouped || end == g.k;
      for (int digit = 0; digit < p.digits; ++digit) {
        int32_t* const whole = whole_ == nullptr ? nullptr : whole_ + (pass.at * p.digits + digit) * kBlockFloats;
        if (begins) {
          clear_sums<halves>();
        } else {
          load_sums<halves>(whole);
        }
        const bool last = end == g.k && digit + 1 == p.digits;
        multiply(p.rows + digit * plane + row * p.row_bytes + at, bytes_ + (at - byte_of(pass.begin)) * kCodePanel, steps,
                 end == g.k ? filled_ : nullptr, last, pass);
        if (ends) {
          expect(pass, p.grouped ? k / p.group : 0, digit, last);
        } else {
          store_sums<halves>(whole);
        }
      }
    }
  }

  // The sums in the tiles are pending.
  void expect(const Pass& pass, int64_t group, int digit, bool last) {
    const int64_t row = tiles_.start(pass.tile);
    store_sums<halves>(pending_.whole);
    pending_.finish = last ? finish_ : add_sums;
    pending_.rows = tiles_.rows(pass.tile);
    pending_.done = 0;
    pending_.row = row;
    pending_.col = pass.panel * kCodePanel;
    pending_.row_scales = p.row_scales + (group * p.digits + digit) * g.m + row;
    for (int v = 0; v < 2; ++v) pending_.scales[v] = scale_at<V>(p.quant, group, pending_.col + 16 * v);
    pending_.sums = p.depth < g.k ? sums_ + pass.at * kBlockFloats : sums_;
    pending_.first = group == 0 && digit == 0;
  }

  // A segment, while the one before is finished. Its last step is `filled`, if given. If it is the last of a block, the
  // block's results come nearer.
  __attribute__((always_inline)) void multiply(const char* a, const char* b, int64_t steps, const char* filled, bool last,
                                               const Pass& pass) {
    const int64_t row = tiles_.start(pass.tile), rows = tiles_.rows(pass.tile);
    const int share = static_cast<int>((pending_.rows + steps - 1) / steps);
    const int64_t fetched = (rows + steps - 1) / steps;
    for (int64_t s = 0; s < steps; ++s, a += p.grain, b += p.grain * kCodePanel) {
      multiply_step<halves>(a, p.row_bytes, s + 1 == steps && filled != nullptr ? filled : b);
      for (int i = 0; i < ahead_lines_; ++i, ahead_ += 64) __builtin_prefetch(ahead_, 0, 2);
      if (last && !p.streams && s * fetched < rows) {
        const int64_t left = rows - s * fetched;
        fetch_results(g, row + s * fetched, static_cast<int>(left < fetched ? left : fetched), pass.panel * kCodePanel);
      }
      pending_.some(share);
    }
  }

  const BlockGemm& p;
  const Gemm& g;
  const Tiles tiles_;
  char* codes_ = nullptr;
  int32_t* whole_ = nullptr;
  float* sums_ = nullptr;
  Pending::Finish finish_;
  const char* bytes_ = nullptr;   // of the pass
  const char* filled_ = nullptr;  // codes of the last step of all, if these are too few
  const char* ahead_ = nullptr;
  int ahead_lines_ = 0;
  Pending pending_;
  alignas(64) char rest_[kTileRows * kCodeRow] = {};
};

template <int halves>
void multiply_blocks(const BlockGemm& p, const Tiles& tiles, Context& context) {
  BlockTask<halves> work(p, tiles, context.thread);
  run_tasks((p.quant.gemm.n + kCodePanel - 1) / kCodePanel, p.quant.gemm.m, tiles.count, context,
            [&](const Task& task) { work.run(task); });
  work.finish();
}

}  // namespace

void run_blocks_amx(const void* params, Context& context) {
  const BlockGemm& p = *static_cast<const BlockGemm*>(params);
  const Gemm& g = p.quant.gemm;
  if (g.k == 0 || g.m == 0) {
    if (context.thread == 0) multiply_nothing<V>(g);
    return;
  }
  const bool fits = quantise_rows(p, context);
  if (p.digits > 1) p.fits[context.thread] = fits;
  context.barrier();
  for (int i = 0; p.digits > 1 && i < context.threads; ++i) {
    if (!p.fits[i]) return kQuantAvx512.weights[static_cast<int>(p.code)](&p.quant, context);
  }
  const Tiles tiles(g.m, kBlockRows);
  const int rows = tiles.rows(0);
  const Tiled tiled(shapes_of(rows, p.grain));
  if (rows > kTileRows) {
    multiply_blocks<2>(p, tiles, context);
  } else {
    multiply_blocks<1>(p, tiles, context);
  }
}

double block_products_amx(int64_t rounds) {
  constexpr int64_t kSteps = 4;
  alignas(64) char a[kBlockRows * kTileBytes * kSteps] = {}, b[kSteps * kTileRows * kCodeRow] = {};
  const Tiled tiled(shapes_of(kBlockRows, kTileBytes));
  clear_sums<2>();
  for (int64_t i = 0; i < rounds; ++i) {
    for (int64_t s = 0; s < kSteps; ++s) {
      multiply_step<2>(a + s * kTileBytes, kTileBytes * kSteps, b + s * kTileRows * kCodeRow);
    }
  }
  return 2.0 * static_cast<double>(rounds * kSteps * kBlockRows * kCodePanel * kTileBytes);
}

}  // namespace forgec
