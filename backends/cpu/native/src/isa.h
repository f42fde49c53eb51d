// The instruction sets that this machine can run, and their kernels.
#pragma once

#include <string>
#include <vector>

#include "params.h"

namespace forgec {

// Names, the most capable last; "portable" is always first. Asks the system for the use of AMX where there is some.
std::vector<std::string> instruction_sets();

// Null for an unknown name. The sets that differ only in products of integers or bf16 share their f32 kernels.
const Kernels* kernels_for(const std::string& isa);

}  // namespace forgec
