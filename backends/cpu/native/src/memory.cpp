#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace forgec {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kLargePage = size_t{2} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

void FreePages::operator()(char* data) const { std::free(data); }

Pages allocate_pages(size_t bytes, bool zeroed) {
  const bool large = bytes >= kLargePage / 2;
  const size_t unit = large ? kLargePage : kLine;
  const size_t size = round_up(bytes == 0 ? 1 : bytes, unit);
  auto* data = static_cast<char*>(std::aligned_alloc(unit, size));
  if (data == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  if (large) madvise(data, size, MADV_HUGEPAGE);  // advice: without it everything works, slower
#endif
  if (zeroed) std::memset(data, 0, bytes);
  return Pages(data);
}

}  // namespace forgec
