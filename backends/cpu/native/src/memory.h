// Memory for arenas, working memory and packed weights, in large pages where the system has them: kernels
// walk many rows at a time, and with pages of 4 KiB address translation costs them up to a fifth of their speed.
#pragma once

#include <cstddef>
#include <memory>

namespace forgec {

struct FreePages {
  void operator()(char* data) const;
};

using Pages = std::unique_ptr<char, FreePages>;

// Starts at a multiple of 64 bytes; throws std::bad_alloc. Whoever writes all of it need not have it zeroed.
Pages allocate_pages(size_t bytes, bool zeroed = true);

}  // namespace forgec
