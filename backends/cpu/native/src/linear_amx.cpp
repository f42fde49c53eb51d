// Matrix products of f32 on AMX, whose tiles multiply numbers of bf16 and add in f32.
//
// A number of f32 is the sum of three of bf16, to the bit: high, middle and low, each the rest of those before, rounded.
// Of the nine products of such planes six are summed; the others are below 2^-24 of the product of the two numbers.
// Six times 1/16 of the instructions is faster than multiply-adds in f32, and a sum over 32 k is rounded less often.
//
// The left factor is split by all threads into [k block][tile of rows][step][plane], each a tile as it is loaded. Then
// threads take tasks as in gemm.h. A block of a panel is split into room of the thread, [step][columns][plane], while
// the tiles of the left factor pass over the block before it. Every block is summed from zero and added to what is in C.
//
// AMX takes denormal numbers and results for zero, and a rest of infinity is no number. So where a row of the left factor
// or a column of the right one has values beyond `in_range` in a block of k, AVX-512 multiplies them.
#include "amx.h"
#include "conv.h"
#include "split_amx.h"
#include "sums_amx.h"

namespace forgec {
namespace {

constexpr int64_t kLeastRows = 64;               // with fewer, splitting the right factor costs more than it gains
constexpr int64_t kLeftTile = kSteps * kPlanes * kTile;    // of a tile of rows and a block of k
constexpr int64_t kBlock = kSteps * kColumns * kPlanes * kTile;  // of a block of a panel
constexpr int64_t kReused = 1 << 20;             // bytes of a left factor that stay in the second-level cache
constexpr int64_t kOwnTiles = 16;                // of rows that a thread splits for itself
constexpr int64_t kShared = 4;                   // panels of a task that share rows that do not
constexpr int64_t kBlocks = 4;                   // of a task, at least
constexpr int64_t kEnough = 3;                   // tasks of a thread: with more, fewer rows share what is split of a panel

// Room of a thread.
struct Room {
  alignas(64) Number blocks[2][kBlock];  // of the right factor: one in use, one being split
  alignas(64) float sums[2 * kSumsFloats];
  alignas(64) float rows[kTileRows * kLeftRow];
};

// Where the parts of a product's working memory lie.
struct Rooms {
  int64_t per_block, first;  // tiles of rows: how many each block of k has, and which is the first
  Number* planes;
  bool* fits;      // [k block][tile of rows]: it is in range
  Room* rooms;

  Rooms(const Gemm& g, int threads) : per_block((g.m + kTileRows - 1) / kTileRows), first(0) {
    const int64_t blocks = (g.k + kDepth - 1) / kDepth;
    rooms = reinterpret_cast<Room*>(g.packed_a);
    planes = reinterpret_cast<Number*>(rooms + threads);
    fits = reinterpret_cast<bool*>(planes + blocks * per_block * kLeftTile);
  }
  Number* left(int64_t tile, int64_t k) const { return planes + (k / kDepth * per_block + tile - first) * kLeftTile; }
  bool* left_fits(int64_t tile, int64_t k) const { return fits + k / kDepth * per_block + tile - first; }

  // Those of one block of k and tiles of rows from `tile` on, at most kOwnTiles, that a thread has for itself.
  Rooms own(int thread, int64_t tile) const {
    Rooms part = *this;
    part.per_block = 0;
    part.first = tile;
    part.planes += thread * kOwnTiles * kLeftTile;
    part.fits += thread * kOwnTiles;
    return part;
  }
};

int64_t product_floats(int64_t m, int64_t k, int threads) {
  if (m < kLeastRows) return left_floats(m, k);
  const int64_t tiles = (m + kTileRows - 1) / kTileRows * ((k + kDepth - 1) / kDepth);
  const int64_t bytes = threads * sizeof(Room) + tiles * (kLeftTile * sizeof(Number) + 1);
  return (bytes + 3) / 4;
}

// A tile of rows and the block of k that starts at `k`.
void split_tile(const Gemm& g, const Tiles& tiles, const Rooms& rooms, int64_t tile, int64_t k, Room* room) {
  const int64_t depth = g.k - k < kDepth ? g.k - k : kDepth;
  const float* from = g.a + tiles.start(tile) * g.a_row + k * g.a_col;
  int64_t from_row = g.a_row;
  if (g.a_col != 1) {
    copy_rows<V>(from, g.a_row, g.a_col, tiles.rows(tile), depth, room->rows, kLeftRow);
    from = room->rows;
    from_row = kLeftRow;
  }
  *rooms.left_fits(tile, k) = split_rows(from, from_row, tiles.rows(tile), depth, rooms.left(tile, k));
}

// All threads: the whole left factor.
void split_left(const Gemm& g, const Tiles& tiles, const Rooms& rooms, Context& context) {
  int64_t begin, end;
  context.share(tiles.count * ((g.k + kDepth - 1) / kDepth), 1, &begin, &end);
  for (int64_t i = begin; i < end; ++i) {
    split_tile(g, tiles, rooms, i % tiles.count, i / tiles.count * kDepth, rooms.rooms + context.thread);
  }
}

// The products of planes in their order, the same for every shape so that sums do not depend on how rows are divided.
constexpr int kProducts = 6;
constexpr int kOfLeft[kProducts] = {0, 0, 0, 1, 1, 2}, kOfRight[kProducts] = {2, 0, 1, 1, 0, 0};

// What a thread does beside its tiles, some after each few products, so that these hide it: the next block is split, and
// the sums of the tiles before are added to C, which is finished with those of the last block.
class Aside {
 public:
  Aside(const Gemm& g, float* room) : sums(g, room) {}

  Splitter splitter;
  Sums sums;

  // What the splitter has left is to be done in the course of so many steps of single tiles.
  void spread(int64_t steps) {
    rate_ = (splitter.left() << kFraction) / (steps * kProducts);
    due_ = 0;
  }

  // What is due when so many tiles have had a product.
  __attribute__((noinline)) void work(int tiles) {
    sums.some(1);
    due_ += tiles * rate_;
    splitter.advance(due_ >> kFraction);
    due_ &= (1 << kFraction) - 1;
  }

 private:
  static constexpr int kFraction = 20;
  int64_t rate_ = 0, due_ = 0;  // pieces for the splitter, times 2^kFraction
};

template <int t>
__attribute__((always_inline)) inline void load_tile(const Number* from) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(int64_t{kBlockRow * sizeof(Number)}), "i"(t));
}

// Of what is not to displace others in the nearest cache.
template <int t>
__attribute__((always_inline)) inline void load_tile_once(const Number* from) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(int64_t{kTileBytes}), "i"(t));
}

template <int c, int a, int b>
__attribute__((always_inline)) inline void add_products() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
}

template <int n, class F>
__attribute__((always_inline)) inline void times(const F& f) {
  each(std::make_integer_sequence<int, n>(), f);
}

// R x N tiles of C, from zero, over `steps`, to [rows][N * 16]; the second tile's rows follow `rows` of the first.
// Registers are sums, two for the left factor, two for the right.
template <int R, int N>
void multiply(const Number* a, const Number* b, int64_t steps, int64_t rows, float* sums, Aside* aside) {
  constexpr int of_a = kMostSums, of_b = of_a + 2;
  static_assert(R <= 2 && N <= 2, "registers");
  times<R * N>([](auto c) { asm volatile("tilezero %%tmm%c0" : : "i"(decltype(c)::value)); });
  for (int64_t step = 0; step < steps; ++step) {
    times<kProducts>([&](auto product) __attribute__((always_inline)) {
      constexpr int p = decltype(product)::value, before = p == 0 ? 0 : p - 1;
      if constexpr (p == 0 || kOfLeft[p] != kOfLeft[before]) {
        times<R>([&](auto t) {
          constexpr int i = decltype(t)::value;
          load_tile_once<of_a + i>(a + i * kLeftTile + kOfLeft[p] * kTile);
        });
      }
      if constexpr (p == 0 || kOfRight[p] != kOfRight[before]) {
        times<N>([&](auto t) {
          constexpr int j = decltype(t)::value;
          load_tile<of_b + j>(b + (j * kPlanes + kOfRight[p]) * kStep);
        });
      }
      times<R * N>([&](auto c) {
        constexpr int i = decltype(c)::value / N, j = decltype(c)::value % N;
        add_products<i * N + j, of_a + i, of_b + j>();
      });
      aside->work(R * N);
    });
    a += kPlanes * kTile;
    b += kTileRows * kBlockRow;
  }
  times<R * N>([&](auto c) {
    constexpr int i = decltype(c)::value / N, j = decltype(c)::value % N;
    float* to = sums + i * rows * N * 16 + j * 16;
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(int64_t{N * 16 * 4}), "i"(i * N + j) : "memory");
  });
}

// One block of a panel that is being multiplied.
struct Block {
  int64_t panel, k, depth;
  const Number* planes;
};

template <int R, int N>
void multiply_tiles(const Gemm& g, const Tiles& tiles, const Rooms& rooms, const Block& block, int64_t first, int column,
                    Aside* aside) {
  const int64_t row = tiles.start(first), end = tiles.start(first + R), col = block.panel * kPanel + column * 16;
  for (int64_t i = row; i < end; ++i) {
    for (int j = 0; j < N; ++j) __builtin_prefetch(g.c + i * g.ldc + col + j * 16, 1);
  }
  multiply<R, N>(rooms.left(first, block.k), block.planes + column * kPlanes * kStep, (block.depth + kStep - 1) / kStep,
                 tiles.rows(first), aside->sums.room(), aside);
  aside->sums.put(row, end, N * 16, col, block.k == 0, block.k + block.depth >= g.k);
}

template <int N>
void multiply_columns(const Gemm& g, const Tiles& tiles, const Rooms& rooms, const Block& block, int64_t first, int64_t last,
                      int column, Aside* aside) {
  for (; first + 2 <= last; first += 2) multiply_tiles<2, N>(g, tiles, rooms, block, first, column, aside);
  if (first < last) multiply_tiles<1, N>(g, tiles, rooms, block, first, column, aside);
}

// Whether so many rows of the left factor stay in the second-level cache.
bool stays(int64_t rows, int64_t k) { return rows * k * kPlanes * static_cast<int64_t>(sizeof(Number)) <= kReused; }

// A tile of rows times one block of a panel, by AVX-512.
void multiply_plainly(const Gemm& g, const Tiles& tiles, const Block& block, int64_t tile, float* rows) {
  Gemm part = g;
  const int64_t row = tiles.start(tile);
  part.m = tiles.rows(tile);
  copy_rows<V>(g.a + row * g.a_row + block.k * g.a_col, g.a_row, g.a_col, part.m, block.depth, rows, kLeftRow);
  // multiply_block() reads rows of the block at left_block(part, row, k)
  part.packed_a = rows - (block.k / kDepth * part.m) * kLeftRow;
  part.c += row * g.ldc;
  if (part.residual != nullptr) part.residual = g.residual == g.c ? part.c : g.residual + row * g.ldr;
  if (part.row_bias != nullptr) part.row_bias += row;
  const Tiles few(part.m, V::tile_rows);
  multiply_block<V>(part, few, block.panel, block.k, block.depth, g.b + (block.panel * g.k + block.k) * kPanel, 0, few.count);
}

// One block of a panel times tiles of rows [first, last); `fits` says whether it is in range.
void multiply_rows(const Gemm& g, const Tiles& tiles, const Rooms& rooms, const Block& block, bool fits, int64_t first,
                   int64_t last, Aside* aside, float* copy) {
  const int64_t cols = g.n - block.panel * kPanel;
  for (int64_t t = first, end; t < last; t = end) {
    for (end = t; end < last && fits && *rooms.left_fits(end, block.k);) ++end;
    if (end == t) {
      aside->sums.flush();
      multiply_plainly(g, tiles, block, end++, copy);
      continue;
    }
    if (cols > 16) multiply_columns<2>(g, tiles, rooms, block, t, end, 0, aside);
    if (cols <= 16 || cols > 32) multiply_columns<1>(g, tiles, rooms, block, t, end, cols > 32 ? 2 : 0, aside);
  }
}

// Panels [task.begin, task.end) times tiles of rows [task.first, task.last): `by_depth` block of k by block of k, or
// panel by panel, as they lie in memory. Rows that `rooms` has one block of are split when it is their turn.
void multiply_panels(const Gemm& g, const Tiles& tiles, const Rooms& rooms, const Task& task, bool by_depth, Room* room) {
  const int64_t first = task.first, last = task.last, panels = task.end - task.begin;
  const int64_t blocks = (g.k + kDepth - 1) / kDepth;
  const auto block_at = [&](int64_t number) {
    Block block;
    block.panel = task.begin + (by_depth ? number % panels : number / blocks);
    block.k = (by_depth ? number / panels : number % blocks) * kDepth;
    block.depth = g.k - block.k < kDepth ? g.k - block.k : kDepth;
    block.planes = room->blocks[number & 1];
    return block;
  };
  const auto columns = [&](const Block& block) {
    const int64_t cols = g.n - block.panel * kPanel;
    return static_cast<int>(cols < kPanel ? (cols + 15) / 16 : kColumns);
  };
  Aside aside(g, room->sums);
  const auto start = [&](int64_t number) {
    const Block block = block_at(number), after = block_at(number + 1 < panels * blocks ? number + 1 : number);
    aside.splitter.start(g.b + (block.panel * g.k + block.k) * kPanel, block.depth, columns(block),
                         room->blocks[number & 1], g.b + (after.panel * g.k + after.k) * kPanel);
  };
  start(0);
  for (int64_t i = 0; i < panels * blocks; ++i) {
    const bool fits = aside.splitter.finish();
    const Block block = block_at(i);
    for (int64_t tile = first; rooms.per_block == 0 && i % panels == 0 && tile < last; ++tile) {
      split_tile(g, tiles, rooms, tile, block.k, room);
    }
    stores_before_tiles();
    if (i + 1 < panels * blocks) start(i + 1);
    aside.spread((last - first) * columns(block) * ((block.depth + kStep - 1) / kStep));
    multiply_rows(g, tiles, rooms, block, fits, first, last, &aside, room->rows);
  }
  aside.sums.flush();
}

void product(const Gemm& g, Context& context) {
  if (g.m < kLeastRows || g.k == 0) return gemm<V>(g, context);
  const Tiles tiles(g.m, kTileRows);
  const Rooms rooms(g, context.threads);
  Room* room = rooms.rooms + context.thread;
  const int64_t panels = (g.n + kPanel - 1) / kPanel, threads = context.threads;
  // Many rows and so few columns that their part of C stays in the cache: a thread splits a block of its own rows at a time.
  const bool own = tiles.count >= threads * kOwnTiles && kOwnTiles * kTileRows * g.n * 4 <= kReused;
  if (!own) split_left(g, tiles, rooms, context);
  context.barrier();
  TileShapes shapes;
  for (int t = 0; t < 8; ++t) shapes.set(t, t < 6 ? tiles.rows(0) : kTileRows, kTileBytes);
  const Tiled tiled(shapes);
  if (own) {
    const int64_t rounds = (tiles.count + threads * kOwnTiles - 1) / (threads * kOwnTiles), tasks = rounds * threads;
    for (int64_t number = context.claim(); number < tasks; number = context.claim()) {
      const int64_t first = tiles.count * number / tasks, last = tiles.count * (number + 1) / tasks;
      multiply_panels(g, tiles, rooms.own(context.thread, first), Task{0, panels, first, last, 0}, true, room);
    }
    return;
  }
  // A task is to have several panels where its rows, which these share, do not stay in the cache, and because it waits for
  // the first block to be split.
  const int64_t blocks = (g.k + kDepth - 1) / kDepth, most = panels / (2 * threads);
  int64_t least = stays(g.m < kRowBlock ? g.m : kRowBlock, g.k) ? (kBlocks + blocks - 1) / blocks : kShared;
  least = most < 1 ? 1 : least < most ? least : most;
  run_tasks(panels, g.m, (tiles.count + 1) / 2, context, [&](Task task) {
    task.first *= 2;
    task.last = 2 * task.last < tiles.count ? 2 * task.last : tiles.count;
    multiply_panels(g, tiles, rooms, task, !stays((task.last - task.first) * kTileRows, g.k), room);
  }, least, kEnough);
}

// Columns are used once, so that splitting them is worth more rows than a weight is.
void conv_of_many(const void* params, Context& context) {
  const Conv& p = *static_cast<const Conv*>(params);
  if (p.gemm.m < 2 * kLeastRows || p.gemm.k < kDepth) return conv<V>(params, context);
  conv_together<V, product>(p, context);
}

}  // namespace

const ProductKernels kProductsAmx = {linear<V, product>, matmul<V, product>, conv_of_many, product_floats};

}  // namespace forgec
