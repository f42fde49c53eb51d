#include "fork.h"

#include <mutex>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace forgec {

struct ForkedList {
  std::mutex mutex;
  Forked* first = nullptr;

  // Never destroyed: threads may be about when the process ends.
  static ForkedList& all() {
    static ForkedList* const list = new ForkedList;
    return *list;
  }

  ForkedList() {
#if !defined(_WIN32)
    pthread_atfork([] { all().mutex.lock(); }, [] { all().mutex.unlock(); }, [] {
      for (Forked* x = all().first; x != nullptr; x = x->next_) x->renew();
      all().mutex.unlock();
    });
#endif
  }

  void add(Forked* x) {
    const std::lock_guard<std::mutex> lock(mutex);
    x->previous_ = nullptr;
    x->next_ = first;
    if (first != nullptr) first->previous_ = x;
    first = x;
  }

  void remove(Forked* x) {
    const std::lock_guard<std::mutex> lock(mutex);
    (x->previous_ != nullptr ? x->previous_->next_ : first) = x->next_;
    if (x->next_ != nullptr) x->next_->previous_ = x->previous_;
  }
};

Forked::Forked() { ForkedList::all().add(this); }
Forked::~Forked() { ForkedList::all().remove(this); }

}  // namespace forgec
