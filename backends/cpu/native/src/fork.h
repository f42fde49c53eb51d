// What a forked child has to make anew: it inherits memory as other threads of its parent left it, but no such thread.
#pragma once

namespace forgec {

// Objects that are renewed in every forked child before fork() returns there. Elsewhere than on POSIX nothing forks.
class Forked {
 public:
  Forked(const Forked&) = delete;
  Forked& operator=(const Forked&) = delete;

 protected:
  Forked();
  ~Forked();

 private:
  friend struct ForkedList;

  // Runs in the child, which has no other thread yet.
  virtual void renew() = 0;

  Forked *previous_, *next_;
};

}  // namespace forgec
