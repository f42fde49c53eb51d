"""Wine kept running while a compile is under way.

The first program under Wine starts a server and services for it, which takes as long as a small model, and
they stop behind the last one: a program that comes within the second that this takes waits for its end, and
starts them again. A shell that waits for input keeps them running meanwhile. It is started beside other work,
a while before the compiler, and ends with its input as this process does, be it killed.
"""

from __future__ import annotations

import atexit
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import RLock, Timer

from .toolchain import Toolchain

__all__ = ["LINGER_S", "kept_running"]

LINGER_S = 5.0
"""Seconds that Wine runs on after a compile: the next target's or model's may follow."""

_SHELL = (r"C:\windows\system32\cmd.exe", "/q")


@contextmanager
def kept_running(toolchain: Toolchain | None) -> Iterator[None]:
    """While this is open, and for ``LINGER_S`` after it, Wine runs. Does nothing for a toolchain without it;
    a Wine that does not start is left for the compiler's own start to tell of."""
    if toolchain is None or not toolchain.wine:
        yield
        return
    keeper = _keeper(toolchain.wine, tuple(sorted(toolchain.environment.items())))
    keeper.hold()
    try:
        yield
    finally:
        keeper.release()


@cache
def _keeper(wine: str, environment: tuple[tuple[str, str], ...]) -> _Keeper:
    keeper = _Keeper(wine, dict(environment))
    atexit.register(keeper.end)
    return keeper


class _Keeper:
    """The shell of one Wine prefix, and how many compiles want it."""

    def __init__(self, wine: str, environment: dict[str, str]) -> None:
        self._wine, self._environment = wine, environment
        self._lock = RLock()  # the collector may close an abandoned compile while this thread has it
        self._held = 0
        self._shell: subprocess.Popen[bytes] | None = None
        self._timer: Timer | None = None

    def hold(self) -> None:
        with self._lock:
            self._held += 1
            self._cancel()
            if self._shell is not None and self._shell.poll() is not None:
                self._end()
            if self._shell is None:
                self._start()

    def release(self) -> None:
        with self._lock:
            self._held -= 1
            if not self._held and self._shell is not None:
                self._timer = Timer(LINGER_S, self.end, [True])
                self._timer.daemon = True
                self._timer.start()

    def end(self, only_idle: bool = False) -> None:
        """End the shell and wait for that; ``only_idle`` if nobody holds it."""
        with self._lock:
            if only_idle and self._held:
                return
            self._cancel()
            self._end()

    def _start(self) -> None:
        with suppress(OSError):
            self._shell = subprocess.Popen(
                [self._wine, *_SHELL],
                env={**os.environ, **self._environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end(self) -> None:
        if self._shell is None:
            return
        shell, self._shell = self._shell, None
        assert shell.stdin is not None
        shell.stdin.close()
        try:
            shell.wait(1)
        except subprocess.TimeoutExpired:
            shell.kill()
            shell.wait()
