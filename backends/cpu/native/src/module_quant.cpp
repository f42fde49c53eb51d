#include "module_quant.h"

#include <pybind11/numpy.h>

#include "isa.h"
#include "memory.h"
#include "quant.h"

namespace py = pybind11;

namespace forgec {
namespace {

// Row-major codes [n, bytes of a row] as panels, see quant.h. `format` is i8, i4 or bf16.
py::array_t<uint8_t> pack_compressed(const py::array_t<uint8_t>& rows, const std::string& format,
                                     const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  const bool known = format == "i8" || format == "i4" || format == "bf16";
  if (rows.ndim() != 2 || !known || kernels == nullptr || (rows.shape(1) > 1 && rows.strides(1) != 1)) {
    throw std::invalid_argument("pack takes rows of bytes, a format and an instruction set");
  }
  PackCodes p{};
  p.code = format == "i8" ? Code::i8 : format == "i4" ? Code::i4 : Code::bf16;
  p.from = reinterpret_cast<const char*>(rows.data());
  p.n = rows.shape(0);
  p.row_bytes = rows.shape(1);
  p.row_step = rows.strides(0);
  p.k = p.code == Code::i8 ? p.row_bytes : p.code == Code::i4 ? p.row_bytes * 2 : p.row_bytes / 2;
  const int64_t panels = (p.n + kPanel - 1) / kPanel, bytes = panel_bytes(p.code, p.k);
  Pages pages = allocate_pages(static_cast<size_t>(panels * bytes));
  p.to = pages.get();
  const py::capsule owner(pages.release(), [](void* data) { FreePages()(static_cast<char*>(data)); });
  const py::array_t<uint8_t> packed({panels, bytes}, reinterpret_cast<uint8_t*>(p.to), owner);
  const py::gil_scoped_release release;
  Context alone;
  kernels->quant->pack(&p, alone);
  return packed;
}

}  // namespace

void add_quant_functions(py::module_& m) {
  m.def("pack_compressed", &pack_compressed, py::arg("rows"), py::arg("format"), py::arg("isa"));
}

}  // namespace forgec
