"""The extension module, the instruction sets of this machine, and teams of threads."""

from __future__ import annotations

import difflib
import importlib
import os
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from forgec.errors import OptionError, TargetError
from forgec.processors import require_threads, useful_threads

__all__ = [
    "Team",
    "allocate",
    "available",
    "extension",
    "isa",
    "isas",
    "multiply_adds",
    "peak_flops",
    "peak_integer",
    "read_bandwidth",
    "shared_team",
    "threads_default",
]

_MODULE = "forgec.backends.cpu._native"
ISA_VARIABLE = "FORGEC_ISA"
THREADS_VARIABLE = "FORGEC_THREADS"

_PEAK_RUNS, _PEAK_ROUNDS = 50, 20000
"""Of a loop of multiply-adds, of which the fastest run counts."""


@cache
def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module(_MODULE), None
    except ImportError as error:
        return None, f"the extension module {_MODULE} cannot be imported: {error}"


def available() -> str | None:
    """None if the native runtime can be used, else one sentence that says why not."""
    return _load()[1]


def extension() -> Any:
    """The extension module; :class:`TargetError` if it is not there."""
    module, reason = _load()
    if reason is not None:
        raise TargetError(reason, hint="install forgec from a wheel, or with a C++17 compiler at hand")
    return module


@cache
def isas() -> list[str]:
    """Instruction sets that this machine runs, the most capable last."""
    return list(extension().isas())


def isa() -> str:
    """The instruction set in use: what ``FORGEC_ISA`` says, else the most capable one.

    Raises :class:`OptionError` if that is unknown or the machine lacks it.
    """
    wanted = os.environ.get(ISA_VARIABLE)
    if not wanted:
        return isas()[-1]
    if wanted not in isas():
        near = difflib.get_close_matches(wanted, isas(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise OptionError(f"{ISA_VARIABLE}={wanted}: this machine has {', '.join(isas())}", hint=hint)
    return wanted


def threads_default() -> int:
    """What ``FORGEC_THREADS`` says, else :func:`forgec.processors.useful_threads`.

    Raises :class:`OptionError` unless it is a whole number from 1.
    """
    wanted = os.environ.get(THREADS_VARIABLE)
    if wanted:
        if not wanted.isdecimal() or int(wanted) < 1:
            raise OptionError(f"{THREADS_VARIABLE} is {wanted!r}", hint="a whole number from 1")
        return int(wanted)
    return useful_threads()


class Team:
    """Threads that run native programs, one program at a time.

    A second caller meanwhile runs on its own thread. They start with the first run and sleep between runs.
    """

    def __init__(self, threads: int | None = None) -> None:
        wanted = threads_default() if threads is None else threads
        require_threads(wanted)
        self.native = extension().Team(wanted)

    @property
    def threads(self) -> int:
        return int(self.native.threads)


@cache
def shared_team(threads: int) -> Team:
    """The team of so many threads, which all programs of this process share."""
    return Team(threads)


def allocate(nbytes: int) -> np.ndarray:
    """Zeroed bytes that start at a cache line, in large pages where the system has them."""
    return np.asarray(extension().allocate(nbytes))


def multiply_adds(team: Team, rounds: int) -> float:
    """Floating-point operations that a loop of multiply-adds of f32 in registers did on all threads."""
    return float(extension().multiply_adds(team.native, isa(), rounds))


def peak_flops(threads: int | None = None) -> float:
    """Floating-point operations per second that the multiply-add units reach here, measured for a few ms."""
    team, best = Team(threads), 0.0
    for _ in range(_PEAK_RUNS):
        start = perf_counter()
        done = multiply_adds(team, _PEAK_ROUNDS)
        best = max(best, done / (perf_counter() - start))
    return best


def peak_integer(threads: int | None = None) -> float:
    """Operations per second of sums of products of bytes, from the nearest cache, measured for a few ms."""
    return float(extension().peak_integer(Team(threads).native, isa()))


def read_bandwidth(threads: int | None = None, nbytes: int = 1 << 29) -> float:
    """Bytes per second of a loop that reads so much memory once, in order, on all threads; measured."""
    buffer = allocate(nbytes)
    buffer[:] = 1
    return float(extension().read_bandwidth(Team(threads).native, buffer))
