#include "team.h"

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace forgec {
namespace {

constexpr int kSpinsInJob = 6000;   // some 300 microseconds
constexpr int kSpinsBetween = 600;  // some 30 microseconds

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

long process_id() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

}  // namespace

void Gate::wait_beyond(uint32_t old, int spins) {
  for (int i = 0; i < spins; ++i) {
    if (value() != old) return;
    pause();
  }
  // Sequential consistency between these two and the two in advance(): one side sees the other.
  sleepers_.fetch_add(1);
  {
    std::unique_lock<std::mutex> lock(mutex_);
    moved_.wait(lock, [&] { return value_.load() != old; });
  }
  sleepers_.fetch_sub(1);
}

void Gate::advance() {
  value_.fetch_add(1);
  if (sleepers_.load() == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  moved_.notify_all();
}

Team::Team(int threads) : threads_(threads < 1 ? 1 : threads) {}

Team::~Team() {
  if (process_ != process_id()) {  // a forked child has no workers to join
    for (std::thread& worker : workers_) worker.detach();
    return;
  }
  stopping_.store(true);
  start_.advance();
  for (std::thread& worker : workers_) worker.join();
}

// Threads start with the first job, and again in a forked child, which inherits none.
void Team::start_workers() {
  const long here = process_id();
  if (process_ == here) return;
  for (std::thread& worker : workers_) worker.detach();
  workers_.clear();
  process_ = here;
  arrived_.store(0);
  next_.store(0);
  const uint32_t seen = start_.value();
  for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t, seen] { work(t, seen); });
}

void Team::run(Job job, void* argument) {
  job_ = job;
  argument_ = argument;
  start_workers();
  start_.advance();
  job(argument, 0);
  barrier();
}

void Team::work(int thread, uint32_t seen) {
  for (;;) {
    start_.wait_beyond(seen, kSpinsBetween);
    ++seen;
    if (stopping_.load()) return;
    job_(argument_, thread);
    barrier();
  }
}

void Team::barrier() {
  const uint32_t before = passed_.value();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    passed_.advance();
  } else {
    passed_.wait_beyond(before, kSpinsInJob);
  }
}

}  // namespace forgec
