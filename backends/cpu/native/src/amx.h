// What all kernels with Intel AMX share: the tile registers of a thread. Include it in files that are compiled for AMX.
//
// A kernel configures tiles when its part of a thread's work begins, and releases them when that ends: a thread never
// has live tiles between kernels, where they would cost every switch to another thread 8 KB.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace forgec {
namespace {

constexpr int kTileRows = 16;   // of a tile register, at most
constexpr int kTileBytes = 64;  // of each of its rows, at most: 16 sums, 64 bytes along k, or 32 numbers of bf16

// What LDTILECFG reads. A tile that is left out has no rows and must not be used.
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int tile_rows, int bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(TileShapes) == 64, "as the processor has it");

// What was stored to memory before is there for the tile loads that follow: GCC does not know that they read it.
inline void stores_before_tiles() { asm volatile("" ::: "memory"); }

// Tiles of these shapes, all zero, as long as it lives. One at a time in a thread.
class Tiled {
 public:
  explicit Tiled(const TileShapes& shapes) {
    asm volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
  }
  ~Tiled() { _tile_release(); }
  Tiled(const Tiled&) = delete;
  Tiled& operator=(const Tiled&) = delete;
};

}  // namespace
}  // namespace forgec
