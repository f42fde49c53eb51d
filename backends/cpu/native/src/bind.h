// Binding: from an op with its tensors and attributes to steps of a program.
//
// An instruction is bound twice: a first time to learn how much working memory it needs, with addresses that
// nobody reads, and again with the real ones. Binding therefore must not look at the elements of a tensor,
// literals excepted.
#pragma once

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "params.h"

namespace forgec {

// This runtime has no kernel for an op of these types; the message says why.
struct Unsupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Attr = std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<int64_t>>;

struct Call {
  std::string op;
  std::vector<std::optional<Tensor>> inputs;
  std::vector<Tensor> outputs;
  std::map<std::string, Attr> attrs;
  int32_t instr = 0;
  std::map<size_t, const void*> packed;  // inputs in the layouts that their kernels want
  std::vector<bool> literal;

  const Tensor& input(size_t i) const;
  bool has(size_t i) const { return i < inputs.size() && inputs[i].has_value(); }
  const Tensor& out() const { return outputs.at(0); }
  // Input i in the layout that its kernel wants, or null if it is only there as it is.
  template <class T>
  const T* packed_input(size_t i) const {
    const auto found = packed.find(i);
    return found == packed.end() ? nullptr : static_cast<const T*>(found->second);
  }
  int64_t integer(const char* name) const;
  double number(const char* name) const;
  bool flag(const char* name) const;
  const std::string& text(const char* name) const;
  const std::vector<int64_t>& integers(const char* name) const;
  bool is_none(const char* name) const;
  // An axis attribute, counted from the front.
  int axis(const char* name, int rank) const;
};

class Binder {
 public:
  // `scratch` is the working memory, or null to measure only.
  Binder(Program& program, const Kernels& kernels, char* scratch)
      : program_(program), kernels_(kernels), base_(scratch) {}

  const Kernels& kernels() const { return kernels_; }
  int threads() const { return program_.threads(); }
  size_t scratch_bytes() const { return most_; }

  void bind(const Call& call);

  // Uninitialised working memory for the rest of this instruction.
  char* take(int64_t bytes);
  float* floats(int64_t count) { return reinterpret_cast<float*>(take(count * 4)); }

  template <class P>
  void emit(Run run, const P& params, bool parallel, bool independent = false) {
    program_.emit(run, params, instr_, parallel, independent);
  }

  // Parameters of the step before, for it to do this instruction too, if it runs `run`; else null.
  template <class P>
  P* last(Run run) const {
    return program_.last<P>(run);
  }

  // A copy of parameters that lives as long as the program.
  template <class P>
  P* keep(const P& params) {
    static_assert(std::is_trivially_copyable<P>::value, "parameters are plain data");
    return reinterpret_cast<P*>(program_.keep(&params, sizeof(P)));
  }

  // A scalar as a tensor of rank 0 that lives as long as the program.
  Tensor scalar(double value, DType dtype);

  // The tensor itself if it is row-major from `first_axis` on, else a copy of it made before what follows.
  Tensor contiguous(const Tensor& t, int first_axis = 0);

  // All axes but the last as one: `*rows` of them, `*step` elements apart; a copy where that is not possible.
  Tensor rows(const Tensor& t, int64_t* count, int64_t* step, bool unit_columns = true);

 private:
  Program& program_;
  const Kernels& kernels_;
  char* base_;
  size_t used_ = 0, most_ = 0;
  int32_t instr_ = 0;
};

using Bind = void (*)(Binder&, const Call&);
using BindTable = std::map<std::string, Bind>;

void add_matrix_binders(BindTable& table);
void add_quant_binders(BindTable& table);
void add_normalisation_binders(BindTable& table);
void add_pointwise_binders(BindTable& table);
void add_movement_binders(BindTable& table);
void add_indexing_binders(BindTable& table);
void add_reduction_binders(BindTable& table);
void add_pooling_binders(BindTable& table);

// A copy of `from` into `to`, both of any strides, equal shape and type.
void bind_copy(Binder& binder, const Tensor& from, const Tensor& to, bool independent = false);

// Lets the point-wise step before make a copy too, where both lie in row-major order; false if it cannot.
bool join_copy(Binder& binder, const Tensor& from, const Tensor& to);

void require_dtype(const Tensor& t, DType dtype, const char* what);

// All of a product with experts but its weight, which is operand 1.
Experts make_experts(Binder& binder, const Call& call);
Act parse_act(const std::string& name);

}  // namespace forgec
