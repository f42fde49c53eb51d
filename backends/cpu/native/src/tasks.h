// How the panels of a right factor and the tiles of a left one are divided among threads.
#pragma once

#include "program.h"

namespace forgec {

constexpr int64_t kRowBlock = 252;  // rows per task at most, about
constexpr int64_t kTasks = 6;       // of a thread at least, so that all end together

// Rows in tiles of nearly equal size.
struct Tiles {
  int64_t count, base, longer;

  Tiles(int64_t m, int64_t most)
      : count((m + most - 1) / most), base(count ? m / count : 0), longer(count ? m % count : 0) {}
  int64_t start(int64_t tile) const { return tile * base + (tile < longer ? tile : longer); }
  int rows(int64_t tile) const { return static_cast<int>(base + (tile < longer ? 1 : 0)); }
};

// A task: panels [begin, end) times tiles [first, last). `after` is where this thread's next task is likely to begin.
struct Task {
  int64_t begin, end, first, last, after;
};

// One tile, so memory is the limit. It is read fastest in order: a thread takes long runs of panels, of three quarters
// of its part of what is left, so that all end together nevertheless.
template <class F>
void run_in_order(int64_t panels, Context& context, const F& work) {
  int64_t round = 0, begin = 0, size = 0;  // `begin` of a round, in which each thread takes `size` panels or fewer
  for (int64_t number = context.claim(); begin < panels; number = context.claim()) {
    for (;; ++round, begin += context.threads * size) {
      size = (panels - begin) * 3 / (4 * context.threads);
      if (size < 1) size = 1;
      if (begin >= panels || number < (round + 1) * context.threads) break;
    }
    const int64_t first = begin + number % context.threads * size, end = first + size < panels ? first + size : panels;
    if (first < end) work(Task{first, end, 0, 1, end < panels ? end : first});
  }
}

// work(Task) for all panels and `tiles` tiles of together `m` rows, a few panels, `least` or more, times a block of rows
// each. Blocks are as small as it takes for each thread to have `enough` tasks.
template <class F>
void run_tasks(int64_t panels, int64_t m, int64_t tiles, Context& context, const F& work, int64_t least = 1,
               int64_t enough = kTasks) {
  if (tiles == 1) return run_in_order(panels, context, work);
  int64_t row_blocks = (m + kRowBlock - 1) / kRowBlock;
  if (context.threads > 1 && panels * row_blocks < enough * context.threads) {
    row_blocks = (enough * context.threads + panels - 1) / panels;
  }
  if (row_blocks > tiles) row_blocks = tiles;
  const int64_t most = panels * row_blocks / (2 * kTasks * context.threads), group = most < least ? least : most;
  const int64_t groups = (panels + group - 1) / group;
  for (int64_t number = context.claim(); number < groups * row_blocks; number = context.claim()) {
    const int64_t block = number / groups, begin = number % groups * group;
    const int64_t end = begin + group < panels ? begin + group : panels, after = begin + context.threads * group;
    work(Task{begin, end, tiles * block / row_blocks, tiles * (block + 1) / row_blocks, after < panels ? after : end - 1});
  }
}

}  // namespace forgec
