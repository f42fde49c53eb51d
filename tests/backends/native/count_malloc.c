// Counts the calls of the C library's allocator by any thread, between malloc_count(1) and malloc_count(0).
#include <stdatomic.h>
#include <stddef.h>

static atomic_int counting;
static atomic_long calls;

long malloc_count(int on) {
  const long seen = atomic_load(&calls);
  atomic_store(&counting, on);
  return seen;
}

static void seen(void) {
  if (atomic_load(&counting)) atomic_fetch_add(&calls, 1);
}

extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  seen();
  return __libc_malloc(size);
}

void* calloc(size_t count, size_t size) {
  seen();
  return __libc_calloc(count, size);
}

void* realloc(void* old, size_t size) {
  seen();
  return __libc_realloc(old, size);
}

void* aligned_alloc(size_t alignment, size_t size) {
  seen();
  return __libc_memalign(alignment, size);
}
