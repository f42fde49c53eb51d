// A team of threads that runs one job at a time, all threads the same code (single program, multiple data).
//
// The caller is thread 0; the others sleep between jobs. Synchronisation is by atomics; a waiting thread spins
// (within a job, where the others are about to come, for longer than any sleep and wake-up takes, with some naps behind;
// between jobs for some microseconds) and then sleeps on a condition variable, so an idle team costs nothing. No lock
// is taken unless a thread has gone to sleep or must be woken.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "fork.h"

namespace forgec {

// A counter that threads wait on until it moves.
class Gate {
 public:
  uint32_t value() const { return value_.load(std::memory_order_acquire); }
  // Spins for so many pauses, some 50 ns each, then sleeps.
  void wait_beyond(uint32_t old, int spins);
  void advance();

 private:
  std::atomic<uint32_t> value_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable moved_;
};

class Team final : Forked {
 public:
  using Job = void (*)(void* argument, int thread);

  explicit Team(int threads);
  ~Team();

  int threads() const { return threads_; }

  // Takes the team for one job; false if another caller has it. Every success needs one release().
  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }
  void release() { busy_.store(false, std::memory_order_release); }

  // Runs job(argument, t) for every thread t and returns when all are done. Throws std::system_error if there are no
  // threads to be had.
  void run(Job job, void* argument);

  // Called by all threads of a running job: nobody leaves before everybody came. Resets claim().
  void barrier(int thread);

  // The next number 0, 1, 2, ... that no thread has taken since the last barrier.
  int64_t claim() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void start_workers();
  void stop_workers();
  void renew() override;
  void work(int thread, uint32_t seen);
  // A thread that runs on the processor of one of the threads below `before` goes to another one.
  void part_ways(int thread, int before);
  // Waits as long as that is quicker than to sleep; whether the barrier was passed meanwhile.
  bool passes_soon(uint32_t before);

  const int threads_;
  std::atomic<bool> busy_{false};
  std::atomic<bool> stopping_{false};
  Job job_ = nullptr;
  void* argument_ = nullptr;
  std::vector<std::thread> workers_;
  std::vector<std::atomic<int>> processors_;  // where each thread was when it last looked
  Gate start_;
  Gate passed_;
  std::atomic<int> started_{0};  // threads in the job
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int64_t> next_{0};
};

}  // namespace forgec
