#include "program.h"

#include <chrono>
#include <cstring>

namespace forgec {
namespace {

constexpr int32_t kNever = INT32_MAX;

}  // namespace

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

char* Program::keep(const void* bytes, size_t count) {
  blocks_.push_back(std::make_unique<Block[]>((count + 63) / 64));
  char* copy = blocks_.back()[0].bytes;
  std::memcpy(copy, bytes, count);
  return copy;
}

void Program::push(Run run, void* params, int32_t instr, bool parallel, bool independent) {
  bool barrier = false;
  if (!steps_.empty()) {
    const Step& last = steps_.back();
    const bool alone = !parallel && !last.parallel;
    barrier = !alone && !(independent && last.instr == instr && parallel == last.parallel);
  }
  steps_.push_back({run, params, instr, parallel, barrier});
  last_ = params;
}

void Program::walk(Context& context, Span* spans) const {
  const int32_t count = static_cast<int32_t>(steps_.size());
  for (int32_t i = 0; i < count; ++i) {
    const Step& step = steps_[i];
    if (step.after_barrier) {
      context.span = nullptr;
      context.barrier();
      // Every thread compares with the same bound, so all of them leave at the same step.
      if (context.failed_step->load() < i) break;
    } else if (context.thread == 0 && !step.parallel && context.failed_step->load() < i) {
      continue;  // thread 0 alone: skip to the next barrier, where all leave
    }
    if (!step.parallel && context.thread != 0) continue;
    Span* span = spans == nullptr ? nullptr : spans + i * threads() + context.thread;
    if (span != nullptr) span->begin = now();
    if (step.parallel) {
      context.step = i;
      context.instr = step.instr;
      context.span = span;
      step.run(step.params, context);
    } else {
      Context alone = context;  // a team of one: its barriers are no barriers
      alone.threads = 1;
      alone.team = nullptr;
      alone.next = 0;
      alone.step = i;
      alone.instr = step.instr;
      step.run(step.params, alone);
    }
    if (span != nullptr) span->end = now();
  }
}

bool Program::run(Failure* failure, Span* spans) {
  if (working_->running.exchange(true, std::memory_order_acquire)) return false;
  const auto rest = [](Working* working) { working->running.store(false, std::memory_order_release); };
  const std::unique_ptr<Working, decltype(rest)> run(working_.get(), rest);
  std::atomic<bool> failing{false};
  std::atomic<int32_t> failed_step{kNever};
  *failure = Failure{};
  Context context;
  context.failing = &failing;
  context.failed_step = &failed_step;
  context.failure = failure;
  bool shared = false;
  for (const Step& step : steps_) shared = shared || step.parallel;
  if (shared && team_->threads() > 1 && team_->try_acquire()) {
    struct Job {
      const Program* program;
      Context context;
      Span* spans;
    };
    const auto release = [](Team* team) { team->release(); };
    const std::unique_ptr<Team, decltype(release)> taken(team_.get(), release);
    context.team = team_.get();
    context.threads = team_->threads();
    Job job{this, context, spans};
    team_->run(
        [](void* argument, int thread) {
          const Job& shared_job = *static_cast<Job*>(argument);
          Context own = shared_job.context;
          own.thread = thread;
          shared_job.program->walk(own, shared_job.spans);
        },
        &job);
  } else {
    walk(context, spans);  // alone, or another program has the team: this thread does everything
  }
  return true;
}

}  // namespace forgec
