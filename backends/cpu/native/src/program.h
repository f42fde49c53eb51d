// A loaded program: a flat array of steps, each a function bound to addresses, strides and parameters.
//
// All threads of the team walk the array together (see team.h). A step is done by all threads, each its share,
// or, when it is too small to share, by thread 0 alone. A barrier separates two steps unless thread 0 does both
// or they are known not to depend on each other. Running allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "memory.h"
#include "team.h"

namespace forgec {

// What went wrong in a run: an index outside its axis, at an instruction.
struct Failure {
  int32_t instr = -1;
  int64_t value = 0;
  int64_t limit = 0;
};

// When a thread worked on a step, in nanoseconds of the steady clock, and how long it waited meanwhile at the
// step's own barriers.
struct Span {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t waited = 0;
};

int64_t now();

// What a step knows about the thread that runs it.
struct Context {
  int thread = 0;
  int threads = 1;
  Team* team = nullptr;
  std::atomic<bool>* failing = nullptr;
  std::atomic<int32_t>* failed_step = nullptr;
  Failure* failure = nullptr;
  int32_t step = 0;
  int32_t instr = 0;
  int64_t next = 0;
  Span* span = nullptr;  // of this step and thread, while tracing

  void barrier() {
    if (team != nullptr) {
      const int64_t before = span != nullptr ? now() : 0;
      team->barrier(thread);
      if (span != nullptr) span->waited += now() - before;
    } else {
      next = 0;
    }
  }

  // The next task that no thread has; each thread takes tasks until they are over the last.
  int64_t claim() { return team != nullptr ? team->claim() : next++; }

  // This thread's part [begin, end) of `count` equal items, in multiples of `grain`.
  void share(int64_t count, int64_t grain, int64_t* begin, int64_t* end) const {
    const int64_t grains = (count + grain - 1) / grain;
    const int64_t first = grains * thread / threads * grain;
    const int64_t last = grains * (thread + 1) / threads * grain;
    *begin = first < count ? first : count;
    *end = last < count ? last : count;
  }

  // Reports an index out of range; the run stops after this step.
  void fail(int64_t value, int64_t limit) {
    if (failing->exchange(true)) return;
    *failure = {instr, value, limit};
    failed_step->store(step);
  }
};

using Run = void (*)(const void* params, Context& context);

struct Step {
  Run run;
  const void* params;
  int32_t instr;
  bool parallel;
  bool after_barrier;
};

// Memory that all steps of a program work in. Programs that share it run one at a time.
struct Working final : Forked {
  Pages pages;
  std::atomic<bool> running{false};

 private:
  void renew() override { running.store(false); }
};

class Program {
 public:
  explicit Program(std::shared_ptr<Team> team, std::shared_ptr<Working> working = std::make_shared<Working>())
      : team_(std::move(team)), working_(std::move(working)) {}

  int threads() const { return team_->threads(); }

  // Adds a step with a copy of its parameters. `independent` steps may run at the same time as the one before.
  template <class P>
  void emit(Run run, const P& params, int32_t instr, bool parallel, bool independent = false) {
    static_assert(std::is_trivially_copyable<P>::value, "parameters are plain data");
    push(run, keep(&params, sizeof(P)), instr, parallel, independent);
  }

  // Memory of its own for a step's constants, as long as the program lives.
  char* keep(const void* bytes, size_t count);

  // Runs all steps. `spans`, if given, has an entry per step and thread. Returns false if the program is running
  // already, or another one on the same working memory. Throws as Team::run() does.
  bool run(Failure* failure, Span* spans);

  // Parameters of the last step, for it to do more, if it runs `run`; else null.
  template <class P>
  P* last(Run run) const {
    return !steps_.empty() && steps_.back().run == run ? static_cast<P*>(last_) : nullptr;
  }

  size_t size() const { return steps_.size(); }
  const Step& step(size_t i) const { return steps_[i]; }

  // Drops the steps after the first `count`.
  void truncate(size_t count) { steps_.resize(count); }

 private:
  struct alignas(64) Block {
    char bytes[64];
  };

  void push(Run run, void* params, int32_t instr, bool parallel, bool independent);
  void walk(Context& context, Span* spans) const;

  std::shared_ptr<Team> team_;
  std::vector<Step> steps_;
  void* last_ = nullptr;  // parameters of the step that was added last
  std::vector<std::unique_ptr<Block[]>> blocks_;
  std::shared_ptr<Working> working_;
};

}  // namespace forgec
