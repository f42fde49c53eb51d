// The part of the extension module that makes and packs compressed weights.
#pragma once

#include <pybind11/pybind11.h>

namespace forgec {

void add_quant_functions(pybind11::module_& m);

}  // namespace forgec
