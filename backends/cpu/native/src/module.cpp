// The extension module: numpy arrays in, bound programs out. Nothing here runs once a program is bound.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "bind.h"
#include "isa.h"
#include "module_quant.h"

namespace py = pybind11;

namespace forgec {
namespace {

DType dtype_of(const py::array& array) {
  const char kind = array.dtype().kind();
  const auto size = array.itemsize();
  if (kind == 'f') return size == 8 ? DType::f64 : size == 4 ? DType::f32 : DType::f16;
  if (kind == 'i') return size == 8 ? DType::i64 : size == 4 ? DType::i32 : size == 2 ? DType::i16 : DType::i8;
  if (kind == 'u' && size == 1) return DType::u8;
  if (kind == 'b') return DType::b8;
  if (kind == 'V' && size == 2) return DType::bf16;  // ml_dtypes' bfloat16
  if (kind == 'V' && size == 1) return DType::i4;
  throw std::invalid_argument("numpy type " + std::string(py::str(array.dtype())) + " has no tensor type");
}

Tensor tensor_of(const py::array& array) {
  if (array.ndim() > kMaxRank) throw Unsupported("native kernels take at most " + std::to_string(kMaxRank) + " axes");
  Tensor t;
  t.data = static_cast<char*>(const_cast<void*>(array.data()));
  t.dtype = dtype_of(array);
  t.rank = static_cast<int>(array.ndim());
  for (int i = 0; i < t.rank; ++i) {
    t.shape[i] = array.shape(i);
    if (array.strides(i) % array.itemsize() != 0) throw Unsupported("strides are no multiples of the element size");
    t.strides[i] = array.strides(i) / array.itemsize();
  }
  if (reinterpret_cast<uintptr_t>(t.data) % array.itemsize() != 0) throw Unsupported("the address is not aligned");
  return t;
}

Attr attr_of(const py::handle& value) {
  if (value.is_none()) return std::monostate();
  if (py::isinstance<py::bool_>(value)) return value.cast<bool>();
  if (py::isinstance<py::int_>(value)) return value.cast<int64_t>();
  if (py::isinstance<py::float_>(value)) return value.cast<double>();
  if (py::isinstance<py::str>(value)) return value.cast<std::string>();
  return value.cast<std::vector<int64_t>>();
}

// A program under construction, then bound: calls and the arrays that they use, which it keeps alive.
class Bound {
 public:
  Bound(std::shared_ptr<Team> team, const std::string& isa) : team_(std::move(team)), kernels_(kernels_for(isa)) {
    if (kernels_ == nullptr) throw std::invalid_argument("unknown instruction set " + isa);
  }

  // Raises Unsupported and adds nothing if there is no kernel for the op of these types.
  void add(const std::string& op, const py::list& inputs, const py::list& outputs, const py::dict& attrs,
           const std::vector<bool>& literal, const py::dict& packed) {
    Call call;
    call.op = op;
    call.literal = literal;
    for (const py::handle& x : inputs) {
      if (x.is_none()) {
        call.inputs.emplace_back();
      } else {
        call.inputs.emplace_back(tensor_of(x.cast<py::array>()));
      }
    }
    for (const py::handle& x : outputs) call.outputs.push_back(tensor_of(x.cast<py::array>()));
    for (const auto& item : attrs) call.attrs[item.first.cast<std::string>()] = attr_of(item.second);
    for (const auto& item : packed) call.packed[item.first.cast<size_t>()] = item.second.cast<py::array>().data();
    call.instr = static_cast<int32_t>(calls_.size());
    Program trial(team_);
    Binder binder(trial, *kernels_, nullptr);
    binder.bind(call);
    scratch_ = std::max(scratch_, binder.scratch_bytes());
    calls_.push_back(std::move(call));
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!packed.contains(i)) kept_.append(inputs[i]);  // what is packed stands in for its original
    }
    kept_.append(outputs);
    kept_.append(packed);
    program_.reset();
    working_.reset();
  }

  // The same program with what it has in the arrays `from` in those of `to` instead, each of the size of the one
  // that it stands for. Both have one working memory, so that they run one at a time.
  std::unique_ptr<Bound> moved(const std::vector<py::array>& from, const std::vector<py::array>& to) {
    if (program_ == nullptr) finish();
    auto other = std::make_unique<Bound>(*this, to);
    for (size_t i = 0; i < from.size(); ++i) {
      const Move move{address_of(from[i]), address_of(from[i]) + from[i].nbytes(), address_of(to.at(i))};
      if (to[i].nbytes() != from[i].nbytes()) throw std::invalid_argument("an array moves to one of another size");
      for (size_t k = 0; k < calls_.size(); ++k) {
        const Call& call = calls_[k];
        for (size_t j = 0; j < call.outputs.size(); ++j) move(call.outputs[j], &other->calls_[k].outputs[j]);
        for (size_t j = 0; j < call.inputs.size(); ++j) {
          if (call.inputs[j]) move(*call.inputs[j], &*other->calls_[k].inputs[j]);
        }
      }
    }
    other->finish();
    return other;
  }

  // Instruction, index and limit of an index out of range, or None.
  py::object run() {
    Failure failure;
    execute(&failure, nullptr);
    if (failure.instr < 0) return py::none();
    return py::make_tuple(failure.instr, failure.value, failure.limit);
  }

  // Runs once; for every step its instruction and [threads][begin, end, waited] in nanoseconds, zeros for a
  // thread that had no part in it.
  py::tuple trace() {
    if (program_ == nullptr) finish();
    const auto steps = static_cast<py::ssize_t>(program_->size());
    const py::array_t<int64_t> times({steps, static_cast<py::ssize_t>(team_->threads()), py::ssize_t{3}});
    std::vector<int32_t> instrs;
    for (py::ssize_t i = 0; i < steps; ++i) instrs.push_back(program_->step(i).instr);
    static_assert(sizeof(Span) == 3 * sizeof(int64_t), "spans are rows of the array");
    auto* spans = reinterpret_cast<Span*>(const_cast<int64_t*>(times.data()));
    std::fill(spans, spans + times.size() / 3, Span{});
    Failure failure;
    execute(&failure, spans);
    return py::make_tuple(instrs, times);
  }

  // How many steps a run has: some instructions have several, and some share one.
  size_t steps() {
    if (program_ == nullptr) finish();
    return program_->size();
  }
  size_t scratch_bytes() const { return scratch_; }

  void finish() {
    if (working_ == nullptr) {
      working_ = std::make_shared<Working>();
      working_->pages = allocate_pages(scratch_);
    }
    program_ = std::make_unique<Program>(team_, working_);
    Binder binder(*program_, *kernels_, working_->pages.get());
    for (const Call& call : calls_) binder.bind(call);
  }

  // What `other` is before it is bound, and it also keeps `arrays` alive.
  Bound(const Bound& other, const std::vector<py::array>& arrays)
      : team_(other.team_),
        kernels_(other.kernels_),
        calls_(other.calls_),
        kept_(other.kept_.attr("copy")()),
        scratch_(other.scratch_),
        working_(other.working_) {
    for (const py::array& array : arrays) kept_.append(array);
  }

 private:
  static char* address_of(const py::array& array) { return static_cast<char*>(const_cast<void*>(array.data())); }

  struct Move {
    char *begin, *end, *to;

    void operator()(const Tensor& before, Tensor* after) const {
      if (before.data >= begin && before.data < end) after->data = to + (before.data - begin);
    }
  };

  void execute(Failure* failure, Span* spans) {
    if (program_ == nullptr) finish();
    const bool ran = [&] {
      const py::gil_scoped_release release;
      return program_->run(failure, spans);
    }();
    if (!ran) throw std::runtime_error("the program is running in another thread; give each thread a clone");
  }

  std::shared_ptr<Team> team_;
  const Kernels* kernels_;
  std::vector<Call> calls_;
  py::list kept_;
  size_t scratch_ = 0;
  std::shared_ptr<Working> working_;
  std::unique_ptr<Program> program_;
};

py::array_t<uint8_t> array_of(Pages pages, size_t bytes) {
  char* data = pages.release();
  const py::capsule owner(data, [](void* pages) { FreePages()(static_cast<char*>(pages)); });
  return py::array_t<uint8_t>({static_cast<py::ssize_t>(bytes)}, {1}, reinterpret_cast<uint8_t*>(data), owner);
}

// Zeroed bytes in large pages; the array owns them.
py::array_t<uint8_t> allocate(size_t bytes) { return array_of(allocate_pages(bytes), bytes); }

// A weight [out, in] as panels [out / 48][in][48].
py::array_t<float> pack(const py::array_t<float>& weight, const std::string& isa) {
  const Tensor w = tensor_of(weight);
  const Kernels* kernels = kernels_for(isa);
  if (w.rank != 2 || kernels == nullptr) throw std::invalid_argument("pack takes a matrix and an instruction set");
  const int64_t n = w.shape[0], k = w.shape[1], panels = (n + kPanel - 1) / kPanel;
  const size_t size = panels * k * kPanel * sizeof(float);
  const py::array_t<uint8_t> bytes = array_of(allocate_pages(size, false), size);
  float* out = reinterpret_cast<float*>(const_cast<uint8_t*>(bytes.data()));
  py::array_t<float> packed({panels, k, static_cast<int64_t>(kPanel)}, out, bytes);
  const py::gil_scoped_release release;
  kernels->pack_panels(w.as<const float>(), w.strides[1], w.strides[0], k, n, 0, panels, out);
  return packed;
}

struct Loop {
  const Kernels* kernels;
  int64_t rounds;
};

// Floating-point operations that all threads together did in a loop without memory accesses.
double multiply_adds(const std::shared_ptr<Team>& team, const std::string& isa, int64_t rounds) {
  const Kernels* kernels = kernels_for(isa);
  if (kernels == nullptr) throw std::invalid_argument("unknown instruction set " + isa);
  Program program(team);
  program.emit([](const void* p, Context&) {
    const auto* loop = static_cast<const Loop*>(p);
    loop->kernels->multiply_adds(loop->rounds);
  }, Loop{kernels, rounds}, 0, true);
  const py::gil_scoped_release release;
  Failure failure;
  program.run(&failure, nullptr);
  return static_cast<double>(rounds) * kernels->multiply_adds(1) * team->threads();
}

}  // namespace
}  // namespace forgec

PYBIND11_MODULE(_native, m) {
  using namespace forgec;
  m.doc() = "Native CPU kernels; the Python face is forgec.backends.cpu.native.";
  py::register_exception<Unsupported>(m, "Unsupported");
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const std::system_error& error) {
      PyErr_SetString(PyExc_OSError, error.what());
    }
  });
  py::class_<Team, std::shared_ptr<Team>>(m, "Team")
      .def(py::init<int>(), py::arg("threads"))
      .def_property_readonly("threads", &Team::threads);
  py::class_<Bound>(m, "Program")
      .def(py::init<std::shared_ptr<Team>, const std::string&>(), py::arg("team"), py::arg("isa"))
      .def("add", &Bound::add)
      .def("moved", &Bound::moved, py::arg("from"), py::arg("to"))
      .def("finish", &Bound::finish)
      .def("run", &Bound::run)
      .def("trace", &Bound::trace)
      .def_property_readonly("steps", &Bound::steps)
      .def_property_readonly("scratch_bytes", &Bound::scratch_bytes);
  m.def("isas", &instruction_sets);
  m.def("allocate", &allocate, py::arg("bytes"));
  m.def("pack", &pack, py::arg("weight"), py::arg("isa"));
  add_quant_functions(m);
  m.def("multiply_adds", &multiply_adds, py::arg("team"), py::arg("isa"), py::arg("rounds"));
}
