"""Signals that ask the process to end: while a verb runs they unwind its stack, else the process just leaves.

Imports nothing heavy: the entry point heeds signals before it imports the verbs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["EXIT_SIGNAL", "Signalled", "heed_signals", "unwinding"]

EXIT_SIGNAL = 128
"""Exit code of a process that a signal ended, less the signal's number."""

_MESSAGE = b"error: interrupted\n"

_unwinds = 0
"""How many blocks of :func:`unwinding` the process is in."""


class Signalled(KeyboardInterrupt):
    """A signal that asks the process to end; it unwinds the stack as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def heed_signals() -> None:
    """End at Ctrl-C, SIGTERM and SIGHUP, unless the process was started to ignore them."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _end)


@contextmanager
def unwinding() -> Iterator[None]:
    """A block that a signal ends by :class:`Signalled`."""
    global _unwinds
    _unwinds += 1
    try:
        yield
    finally:
        _unwinds -= 1


def _end(number: int, _: Any) -> None:
    if _unwinds:
        raise Signalled(number)
    # There is nothing to clean up, and an exception would pass through whatever is being imported.
    os.write(2, _MESSAGE)
    os._exit(EXIT_SIGNAL + number)
