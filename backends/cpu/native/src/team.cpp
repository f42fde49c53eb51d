#include "team.h"

#include <chrono>
#include <new>

#if defined(__linux__)
#include <sched.h>
#endif

namespace forgec {
namespace {

constexpr int kSpinsInJob = 6000;    // some 300 microseconds
constexpr int kSpinsBetween = 600;   // some 30 microseconds
constexpr int kSpinsAtStart = 2000;  // some 100 microseconds
#if defined(_WIN32)
constexpr int kNaps = 0;  // none is short there
#else
constexpr int kNaps = 50;  // some 4 milliseconds
#endif

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
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

Team::Team(int threads) : threads_(threads < 1 ? 1 : threads), processors_(static_cast<size_t>(threads_)) {}

Team::~Team() { stop_workers(); }

void Team::stop_workers() {
  stopping_.store(true);
  start_.advance();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
  stopping_.store(false);
}

// In a child these are of threads that it has not: their destructors would wait for them, or take others for them.
void Team::renew() {
  new (&workers_) std::vector<std::thread>;
  new (&start_) Gate;
  new (&passed_) Gate;
  arrived_.store(0);
  next_.store(0);
  busy_.store(false);
}

// Threads start with the first job.
void Team::start_workers() {
  if (static_cast<int>(workers_.size()) + 1 == threads_) return;
  const uint32_t seen = start_.value();
  try {
    for (int t = 1; t < threads_; ++t) workers_.emplace_back([this, t, seen] { work(t, seen); });
  } catch (...) {
    stop_workers();
    throw;
  }
}

void Team::run(Job job, void* argument) {
  job_ = job;
  argument_ = argument;
  start_workers();
  part_ways(0, 0);
  started_.store(1, std::memory_order_relaxed);
  start_.advance();
  job(argument, 0);
  barrier(0);
}

void Team::work(int thread, uint32_t seen) {
  for (;;) {
    start_.wait_beyond(seen, kSpinsBetween);
    ++seen;
    if (stopping_.load()) return;
    part_ways(thread, thread);
    started_.fetch_add(1, std::memory_order_relaxed);
    job_(argument_, thread);
    barrier(thread);
  }
}

// In a virtual machine Linux takes a processor that has been idle for one that its host has taken away, and wakes
// threads where their waker is, where they take turns for a tenth of a second. A thread that starts a job leaves
// the processors of those before it; one that has slept in the job those of all others.
void Team::part_ways(int thread, int before) {
#if defined(__linux__)
  const auto place = [this](int t) -> std::atomic<int>& { return processors_[static_cast<size_t>(t)]; };
  const int own = sched_getcpu();
  place(thread).store(own, std::memory_order_relaxed);
  bool alone = true;
  for (int t = 0; t < before; ++t) alone = alone && (t == thread || place(t).load(std::memory_order_relaxed) != own);
  cpu_set_t allowed;
  if (alone || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t others = allowed;
  for (int t = 0; t < before; ++t) {
    const int taken = place(t).load(std::memory_order_relaxed);
    if (t != thread && taken >= 0 && taken < CPU_SETSIZE) CPU_CLR(static_cast<size_t>(taken), &others);
  }
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof(others), &others) != 0) return;
  sched_setaffinity(0, sizeof(allowed), &allowed);
  place(thread).store(sched_getcpu(), std::memory_order_relaxed);
#else
  (void)thread;
  (void)before;
#endif
}

// Whether a barrier is passed after pauses and some naps. A thread that was woken on this processor has to run here
// before it can go elsewhere; a nap makes room for it, and its end, unlike a wake-up by that thread, puts nobody where
// the other runs.
bool Team::passes_soon(uint32_t before) {
  const auto passed = [&] { return passed_.value() != before; };
  const auto complete = [&] { return started_.load(std::memory_order_relaxed) == threads_; };
  for (int i = 0; i < kSpinsInJob && (i < kSpinsAtStart || complete()); ++i) {
    if (passed()) return true;
    pause();
  }
  for (int i = 0; i < kNaps; ++i) {
    if (passed()) return true;
    std::this_thread::sleep_for(std::chrono::microseconds(10));
  }
  return passed();
}

void Team::barrier(int thread) {
  const uint32_t before = passed_.value();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    passed_.advance();
  } else {
    if (passes_soon(before)) return;
    passed_.wait_beyond(before, 0);
    part_ways(thread, threads_);
  }
}

}  // namespace forgec
