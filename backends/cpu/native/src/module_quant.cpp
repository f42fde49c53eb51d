#include "module_quant.h"

#include <pybind11/numpy.h>

#include <algorithm>
#include <array>

#include "isa.h"
#include "memory.h"
#include "quant.h"

namespace py = pybind11;

namespace forgec {
namespace {

// Row-major codes [n, bytes of a row] as panels, see quant.h.
py::array_t<uint8_t> pack_compressed(const py::array_t<uint8_t>& rows, const std::string& format,
                                     const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  const std::array<const char*, kCodes> formats = {"i8", "i4", "bf16", "f16"};
  const auto found = std::find(formats.begin(), formats.end(), format);
  if (rows.ndim() != 2 || found == formats.end() || kernels == nullptr || (rows.shape(1) > 1 && rows.strides(1) != 1)) {
    throw std::invalid_argument("pack takes rows of bytes, a format and an instruction set");
  }
  PackCodes p{};
  p.code = static_cast<Code>(found - formats.begin());
  p.from = reinterpret_cast<const char*>(rows.data());
  p.n = rows.shape(0);
  p.row_bytes = rows.shape(1);
  p.row_step = rows.strides(0);
  p.k = p.code == Code::i8 ? p.row_bytes : p.code == Code::i4 ? p.row_bytes * 2 : p.row_bytes / 2;
  const int64_t panels = (p.n + kCodePanel - 1) / kCodePanel, bytes = panel_bytes(p.code, p.k);
  Pages pages = allocate_pages(static_cast<size_t>(panels * bytes));
  p.to = pages.get();
  const py::capsule owner(pages.release(), [](void* data) { FreePages()(static_cast<char*>(data)); });
  const py::array_t<uint8_t> packed({panels, bytes}, reinterpret_cast<uint8_t*>(p.to), owner);
  const py::gil_scoped_release release;
  Context alone;
  kernels->quant->pack(&p, alone);
  return packed;
}

using Matrix = py::array_t<float>;

// What scales and codes have in common: rows of floats and groups of `group` columns, 0 for whole rows.
Quantise quantising(const Matrix& weight, int64_t group, int bits) {
  if (weight.ndim() != 2 || group < 0 || (bits != 8 && (bits != 4 || weight.shape(1) % 2 != 0)) ||
      (weight.shape(1) > 1 && weight.strides(1) != sizeof(float)) || weight.strides(0) % sizeof(float) != 0) {
    throw std::invalid_argument("quantise takes rows of floats, groups, and 8 bits, or 4 of an even number of codes");
  }
  const int64_t k = weight.shape(1);
  return {weight.data(), weight.shape(0), k, weight.strides(0) / static_cast<int64_t>(sizeof(float)),
          group == 0 ? std::max<int64_t>(k, 1) : group, bits, nullptr, nullptr, nullptr};
}

int64_t groups_of(const Quantise& p) { return (p.k + p.group - 1) / p.group; }

template <class P>
void run_alone(const std::shared_ptr<Team>& team, Run run, const P& params) {
  Program program(team);
  program.emit(run, params, 0, true);
  const py::gil_scoped_release release;
  Failure failure;
  program.run(&failure, nullptr);
}

// Scales [groups, n] of a weight [n, k] for codes of so many bits.
Matrix scales(const std::shared_ptr<Team>& team, const Matrix& weight, int64_t group, int bits, const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  Quantise p = quantising(weight, group, bits);
  if (kernels == nullptr || p.k == 0) throw std::invalid_argument("scales takes columns and an instruction set");
  Matrix made({groups_of(p), p.n});
  p.scales = made.mutable_data();
  run_alone(team, kernels->quant->scales, p);
  return made;
}

// Codes of a weight [n, k] by scales and offsets [groups, n], or no offsets [0, 0]: int8 [n, k], or for 4 bits
// [n, k / 2].
py::array_t<int8_t> quantise(const std::shared_ptr<Team>& team, const Matrix& weight,
                             const py::array_t<float, py::array::c_style>& scales,
                             const py::array_t<float, py::array::c_style>& offsets, int64_t group, int bits,
                             const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  Quantise p = quantising(weight, group, bits);
  const auto fits = [&p](const auto& x) { return x.ndim() == 2 && x.shape(0) >= groups_of(p) && x.shape(1) == p.n; };
  if (kernels == nullptr || !fits(scales) || (offsets.size() > 0 && !fits(offsets))) {
    throw std::invalid_argument("quantise takes scales of each group and row, and an instruction set");
  }
  py::array_t<int8_t> made({p.n, bits == 8 ? p.k : p.k / 2});
  p.scales = const_cast<float*>(scales.data());
  p.codes = made.mutable_data();
  if (offsets.size() > 0) p.offsets = offsets.data();
  run_alone(team, kernels->quant->codes, p);
  return made;
}

// Floats, in order, as the bits of numbers of f16.
py::array_t<uint16_t> narrow(const std::shared_ptr<Team>& team, const py::array_t<float, py::array::c_style>& floats,
                             const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  if (kernels == nullptr) throw std::invalid_argument("narrow takes floats and an instruction set");
  py::array_t<uint16_t> made(floats.size());
  run_alone(team, kernels->quant->narrow, Narrow{floats.data(), floats.size(), reinterpret_cast<char*>(made.mutable_data())});
  return made;
}

struct Read {
  const uint64_t* data;
  int64_t words;
};

// Bytes per second at which all threads together read memory once, in order: the best of some passes.
double read_bandwidth(const std::shared_ptr<Team>& team, const py::array_t<uint8_t>& buffer) {
  const Read whole{reinterpret_cast<const uint64_t*>(buffer.data()), static_cast<int64_t>(buffer.size() / 8)};
  Program program(team);
  program.emit([](const void* p, Context& context) {
    const Read& read = *static_cast<const Read*>(p);
    int64_t begin, end;
    context.share(read.words, 512, &begin, &end);
    uint64_t sums[8] = {};
    for (; begin + 8 <= end; begin += 8) {
      for (int i = 0; i < 8; ++i) sums[i] += read.data[begin + i];
    }
    volatile uint64_t keep = sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
    (void)keep;
  }, whole, 0, true);
  const py::gil_scoped_release release;
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    Failure failure;
    const auto start = std::chrono::steady_clock::now();
    program.run(&failure, nullptr);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(whole.words * 8) / seconds.count());
  }
  return best;
}

constexpr int64_t kPeakRounds = 2000, kPeakWords = 64;  // of a tile whose operands stay in the first-level cache

double tile_products(const Dot& dot, int64_t rounds) {
  alignas(64) char a[kMaxTile * kPeakWords * 8] = {}, b[kPeakWords * kOpenWord] = {};
  alignas(64) int32_t c[kMaxTile * kCodePanel];
  const DotArgs args{kPeakWords, a, b, c, b, 0, nullptr};
  const DotFunction tile = (dot.open != nullptr ? dot.of_rows_opened : dot.of_rows)[dot.rows];
  for (int64_t i = 0; i < rounds; ++i) tile(args);
  return 2.0 * static_cast<double>(rounds * dot.rows * kCodePanel * kPeakWords * 4);
}

double integer_products(const QuantKernels& kernels) {
  return kernels.block_products != nullptr ? kernels.block_products(kPeakRounds) : tile_products(*kernels.dot, kPeakRounds);
}

// Operations per second of all threads in integer tiles that read nothing but the first-level cache.
double peak_integer(const std::shared_ptr<Team>& team, const std::string& isa) {
  const Kernels* kernels = kernels_for(isa);
  if (kernels == nullptr) throw std::invalid_argument("unknown instruction set " + isa);
  Program program(team);
  program.emit([](const void* p, Context&) { integer_products(**static_cast<const QuantKernels* const*>(p)); },
               kernels->quant, 0, true);
  const py::gil_scoped_release release;
  double best = 0;
  for (int i = 0; i < 50; ++i) {
    Failure failure;
    const auto start = std::chrono::steady_clock::now();
    program.run(&failure, nullptr);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, 1.0 / seconds.count());
  }
  return best * integer_products(*kernels->quant) * team->threads();
}

}  // namespace

void add_quant_functions(py::module_& m) {
  m.def("pack_compressed", &pack_compressed, py::arg("rows"), py::arg("format"), py::arg("isa"));
  m.def("scales", &scales, py::arg("team"), py::arg("weight"), py::arg("group"), py::arg("bits"), py::arg("isa"));
  m.def("quantise", &quantise, py::arg("team"), py::arg("weight"), py::arg("scales"), py::arg("offsets"),
        py::arg("group"), py::arg("bits"), py::arg("isa"));
  m.def("narrow", &narrow, py::arg("team"), py::arg("floats"), py::arg("isa"));
  m.def("read_bandwidth", &read_bandwidth, py::arg("team"), py::arg("buffer"));
  m.def("peak_integer", &peak_integer, py::arg("team"), py::arg("isa"));
}

}  // namespace forgec
