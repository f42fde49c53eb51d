/* A heap for the compiler's libraries in place of Wine's: a compile allocates millions of small blocks, and again and
 * again the same large ones, whose pages Wine gives back to the system each time.
 *
 * Blocks of a size class come from spans of 64 KiB of one reserved range, so that the address tells the class.
 * Every thread has lists of free blocks of its own; what one thread frees it may give out again, whoever asked for
 * it. Blocks over 32 KiB have whole spans and are in lists that all threads share. Blocks over LARGEST, and what was
 * allocated before, are the C library's, which the address tells too.
 * use_own_heap() exchanges the functions where loaded libraries import them, in all of them or in none.
 */
#include <windows.h>
#include <psapi.h>
#include <stdint.h>
#include <string.h>

#define SPAN_SHIFT 16
#define SPAN ((size_t)1 << SPAN_SHIFT)
#define STEP ((size_t)1 << 22)
#define RESERVED ((size_t)1 << 36)
#define FINE 1024
#define LARGEST (2 << 20)
#define SMALL_CLASSES 85 /* up to 32 KiB; all of them up to LARGEST */
#define CLASSES 109
#define MOST_MODULES 256
#define SLOTS 0x1480 /* where a thread's first TLS_MINIMUM_AVAILABLE slots are in its environment block */

typedef struct {
    void *blocks[SMALL_CLASSES];
    char *fresh[SMALL_CLASSES], *end[SMALL_CLASSES];
} Lists;

static void *shared_blocks[CLASSES];
static char *range, *next_span, *committed;
static unsigned char class_of_span[RESERVED >> SPAN_SHIFT];
static size_t size_of_class[CLASSES];
static DWORD slot;
static SRWLOCK spans = SRWLOCK_INIT;

static void *(*their_malloc)(size_t);
static void (*their_free)(void *);
static void *(*their_realloc)(void *, size_t);
static void *(*their_aligned_malloc)(size_t, size_t);
static void (*their_aligned_free)(void *);
static size_t (*their_msize)(void *);

/* 16 bytes apart up to FINE, then four sizes to each doubling, all of these multiples of 256. */
static unsigned class_of(size_t size) {
    if (size <= FINE)
        return size ? (unsigned)((size + 15) >> 4) : 1;
    unsigned bit = 63 - (unsigned)__builtin_clzll(size - 1);
    return (unsigned)(64 + (bit - 10) * 4 + ((size - 1) >> (bit - 2)) - 3);
}

static int is_ours(const void *block) {
    return (size_t)((const char *)block - range) < RESERVED;
}

static size_t size_of(const void *block) {
    return size_of_class[class_of_span[(size_t)((const char *)block - range) >> SPAN_SHIFT]];
}

/* New spans for one block of a class, or for many small ones; NULL if there is no memory. Needs the lock. */
static char *new_spans(unsigned class) {
    size_t bytes = (size_of_class[class] + SPAN - 1) & ~(SPAN - 1);
    char *span = next_span;
    while (committed < span + bytes) {
        if (committed == range + RESERVED || !VirtualAlloc(committed, STEP, MEM_COMMIT, PAGE_READWRITE))
            return NULL;
        committed += STEP;
    }
    next_span += bytes;
    class_of_span[(size_t)(span - range) >> SPAN_SHIFT] = (unsigned char)class;
    return span;
}

static void *from_new_span(Lists *lists, unsigned class) {
    AcquireSRWLockExclusive(&spans);
    char *span = new_spans(class);
    ReleaseSRWLockExclusive(&spans);
    if (span) {
        size_t size = size_of_class[class];
        lists->fresh[class] = span + size;
        lists->end[class] = span + SPAN / size * size;
    }
    return span;
}

static void *shared_block(unsigned class) {
    AcquireSRWLockExclusive(&spans);
    void *block = shared_blocks[class];
    if (block)
        shared_blocks[class] = *(void **)block;
    else
        block = new_spans(class);
    ReleaseSRWLockExclusive(&spans);
    return block;
}

static Lists *own_lists(void) {
    void **place = (void **)((char *)NtCurrentTeb() + SLOTS) + slot;
    if (!*place)
        *place = VirtualAlloc(NULL, sizeof(Lists), MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
    return *place;
}

static void *our_malloc(size_t size) {
    Lists *lists;
    void *block;
    if (size > LARGEST)
        return their_malloc(size);
    unsigned class = class_of(size);
    if (class >= SMALL_CLASSES)
        return (block = shared_block(class)) ? block : their_malloc(size);
    if (!(lists = own_lists()))
        return their_malloc(size);
    block = lists->blocks[class];
    if (block) {
        lists->blocks[class] = *(void **)block;
        return block;
    }
    block = lists->fresh[class];
    if (block != lists->end[class]) {
        lists->fresh[class] += size_of_class[class];
        return block;
    }
    block = from_new_span(lists, class);
    return block ? block : their_malloc(size);
}

static void give_back(void *block) {
    unsigned class = class_of_span[(size_t)((char *)block - range) >> SPAN_SHIFT];
    if (class >= SMALL_CLASSES) {
        AcquireSRWLockExclusive(&spans);
        *(void **)block = shared_blocks[class];
        shared_blocks[class] = block;
        ReleaseSRWLockExclusive(&spans);
        return;
    }
    Lists *lists = own_lists();
    if (!lists)
        return;
    *(void **)block = lists->blocks[class];
    lists->blocks[class] = block;
}

static void our_free(void *block) {
    if (is_ours(block))
        give_back(block);
    else
        their_free(block);
}

static void *our_calloc(size_t count, size_t size) {
    size_t whole;
    if (__builtin_mul_overflow(count, size, &whole))
        return NULL;
    void *block = our_malloc(whole);
    return block ? memset(block, 0, whole) : NULL;
}

static void *our_realloc(void *block, size_t size) {
    if (!block)
        return our_malloc(size);
    if (!is_ours(block))
        return their_realloc(block, size);
    if (!size) {
        give_back(block);
        return NULL;
    }
    size_t old = size_of(block);
    if (size <= old && size > old / 2)
        return block;
    void *moved = our_malloc(size);
    if (moved) {
        memcpy(moved, block, size < old ? size : old);
        give_back(block);
    }
    return moved;
}

static void *our_aligned_malloc(size_t size, size_t alignment) {
    size_t rounded = (size + alignment - 1) & ~(alignment - 1);
    if (!size || alignment > 256 || rounded < size || rounded > LARGEST)
        return their_aligned_malloc(size, alignment);
    void *block = our_malloc(rounded);
    if (!block || is_ours(block))
        return block;
    their_free(block);
    return their_aligned_malloc(size, alignment);
}

static void our_aligned_free(void *block) {
    if (is_ours(block))
        give_back(block);
    else
        their_aligned_free(block);
}

static size_t our_msize(void *block) {
    return is_ours(block) ? size_of(block) : their_msize(block);
}

static const struct {
    const char *name;
    void *ours;
    void **theirs;
} functions[] = {
    {"malloc", (void *)our_malloc, (void **)&their_malloc},
    {"free", (void *)our_free, (void **)&their_free},
    {"calloc", (void *)our_calloc, NULL},
    {"realloc", (void *)our_realloc, (void **)&their_realloc},
    {"_aligned_malloc", (void *)our_aligned_malloc, (void **)&their_aligned_malloc},
    {"_aligned_free", (void *)our_aligned_free, (void **)&their_aligned_free},
    {"_msize", (void *)our_msize, (void **)&their_msize},
};

/* Other functions of the C library that take or give blocks. */
static const char *const strange[] = {"_aligned_msize", "_aligned_offset_malloc", "_aligned_offset_realloc",
                                      "_aligned_offset_recalloc", "_aligned_realloc", "_aligned_recalloc",
                                      "_expand", "_recalloc"};

static int among_strange(const char *name) {
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        if (!strcmp(name, strange[i]))
            return 1;
    return 0;
}

/* Exchange what a library imports of the C library's heap; without ``write`` only whether all of it is known. */
static int exchange(char *library, int write) {
    IMAGE_DOS_HEADER *dos = (IMAGE_DOS_HEADER *)library;
    IMAGE_NT_HEADERS *head = (IMAGE_NT_HEADERS *)(library + dos->e_lfanew);
    DWORD place = head->OptionalHeader.DataDirectory[IMAGE_DIRECTORY_ENTRY_IMPORT].VirtualAddress;
    if (!place)
        return 1;
    for (IMAGE_IMPORT_DESCRIPTOR *from = (IMAGE_IMPORT_DESCRIPTOR *)(library + place); from->Name; from++) {
        const char *name = library + from->Name;
        if (_strnicmp(name, "api-ms-win-crt-heap", 19) && _stricmp(name, "ucrtbase.dll"))
            continue;
        DWORD names = from->OriginalFirstThunk ? from->OriginalFirstThunk : from->FirstThunk;
        IMAGE_THUNK_DATA *wanted = (IMAGE_THUNK_DATA *)(library + names);
        void **given = (void **)(library + from->FirstThunk);
        for (; wanted->u1.AddressOfData; wanted++, given++) {
            if (IMAGE_SNAP_BY_ORDINAL(wanted->u1.Ordinal))
                continue;
            const char *function = ((IMAGE_IMPORT_BY_NAME *)(library + wanted->u1.AddressOfData))->Name;
            if (among_strange(function))
                return 0;
            for (size_t i = 0; write && i < sizeof functions / sizeof *functions; i++) {
                DWORD before;
                if (strcmp(function, functions[i].name))
                    continue;
                if (!VirtualProtect(given, sizeof *given, PAGE_READWRITE, &before))
                    return 0;
                *given = functions[i].ours;
                VirtualProtect(given, sizeof *given, before, &before);
            }
        }
    }
    return 1;
}

/* Whether it is done; all libraries that exchange blocks have to be loaded. */
static int use_own_heap(void) {
    HMODULE library = GetModuleHandleA("ucrtbase.dll"), modules[MOST_MODULES];
    HMODULE without[] = {library, GetModuleHandleA(NULL)};
    DWORD bytes;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (functions[i].theirs && !(*functions[i].theirs = (void *)GetProcAddress(library, functions[i].name)))
            return 0;
    for (unsigned i = 1; i <= FINE / 16; i++)
        size_of_class[i] = 16 * (size_t)i;
    for (unsigned i = FINE / 16 + 1; i < CLASSES; i++)
        size_of_class[i] = (size_t)(5 + (i - 65) % 4) << (8 + (i - 65) / 4);
    slot = TlsAlloc();
    range = VirtualAlloc(NULL, RESERVED, MEM_RESERVE, PAGE_READWRITE);
    next_span = committed = range;
    if (slot >= TLS_MINIMUM_AVAILABLE || !range ||
        !K32EnumProcessModules(GetCurrentProcess(), modules, sizeof modules, &bytes) || bytes > sizeof modules)
        return 0;
    for (int write = 0; write < 2; write++)
        for (size_t i = 0; i < bytes / sizeof *modules; i++)
            if (modules[i] != without[0] && modules[i] != without[1] && !exchange((char *)modules[i], write))
                return 0;
    return 1;
}
