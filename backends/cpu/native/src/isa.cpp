#include "isa.h"

#include <map>

#include "quant.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace forgec {

#if defined(__x86_64__)

static bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 4 & 1) != 0;
}

#if defined(__linux__)

// Whether this process may use AMX: the processor has it, the system saves tiles, and lets us have them when asked.
static bool may_use_amx() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;  // leaf 7, edx
  constexpr unsigned kTileState = 3u << 17;                                 // of XCR0: configuration and data
  constexpr long kRequestPermission = 0x1023, kTileData = 18;               // of arch_prctl, Linux 5.16
  unsigned a, b, c, d;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) return false;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return false;
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#else

static bool may_use_amx() { return false; }

#endif

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names = {"portable"};
  for (const bool has : {__builtin_cpu_supports("avx2") != 0, __builtin_cpu_supports("fma") != 0,
                         __builtin_cpu_supports("f16c") != 0}) {
    if (!has) return names;
  }
  names.push_back("avx2");
  if (has_avx_vnni()) names.push_back("avxvnni");
  for (const bool has : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512dq") != 0,
                         __builtin_cpu_supports("avx512bw") != 0, __builtin_cpu_supports("avx512vl") != 0}) {
    if (!has) return names;
  }
  names.push_back("avx512");
  if (!__builtin_cpu_supports("avx512vnni")) return names;
  names.push_back("avx512vnni");
  if (!__builtin_cpu_supports("avx512bf16")) return names;
  names.push_back("avx512bf16");
  if (may_use_amx()) names.push_back("amx");
  return names;
}

static std::map<std::string, Kernels> all_kernels() {
  Kernels bf16 = kAvx512;
  bf16.attention_bf16 = kAttentionAvx512Bf16;
  Kernels amx = bf16;
  amx.linear = kProductsAmx.linear;
  amx.matmul = kProductsAmx.matmul;
  amx.conv = kProductsAmx.conv;
  amx.product_floats = kProductsAmx.product_floats;
  amx.attention_bf16 = kAttentionAmx;
  amx.bf16_rows = kMostAttentionRows;
  return {{"portable", kPortable}, {"avx2", kAvx2},         {"avxvnni", kAvx2}, {"avx512", kAvx512},
          {"avx512vnni", kAvx512}, {"avx512bf16", bf16}, {"amx", amx}};
}

#else

std::vector<std::string> instruction_sets() { return {"portable"}; }

static std::map<std::string, Kernels> all_kernels() { return {{"portable", kPortable}}; }

#endif

const Kernels* kernels_for(const std::string& isa) {
  static const std::map<std::string, Kernels> table = [] {
    std::map<std::string, Kernels> kernels = all_kernels();
    for (auto& [name, entry] : kernels) entry.quant = quant_kernels_for(name.c_str());
    return kernels;
  }();
  const auto found = table.find(isa);
  return found == table.end() ? nullptr : &found->second;
}

}  // namespace forgec
