"""Locks that a forked child can take: it has none of the threads that may hold them in its parent."""

from __future__ import annotations

import os
from threading import Lock
from weakref import WeakSet

__all__ = ["forkable_lock"]

_LOCKS: WeakSet[Lock] = WeakSet()


def forkable_lock() -> Lock:
    """A lock that is free in every child that is forked from now on."""
    lock = Lock()
    _LOCKS.add(lock)
    return lock


def _free_all() -> None:
    for lock in _LOCKS:
        lock._at_fork_reinit()  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)
