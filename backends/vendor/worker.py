"""A vendor's compiler in a process of its own, with bounds on time and memory.

A job is a command and a folder: what goes in and what comes out are files there, nothing is pickled. The
process and all that it starts are one group, which ends together: when it is done, over a bound, or
cancelled; Wine alone starts what other processes wait for. Its input is a pipe without data that closes when
this process ends, be it killed: a process that watches it ends too. Memory is the resident memory of the
group, looked at ten times a second where it has a bound, because some compilers reserve far more address
space than they use. So a compiler that hangs, grows without end or dies never takes forgec with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

import psutil

from forgec.errors import BackendError

from ..base import Settings

__all__ = ["Job", "Outcome", "error_of", "run", "run_all"]

_LOG = "log.txt"
_LOG_BYTES = 1 << 23
"""Bytes of the end of a compiler's output that are kept."""


@dataclass(frozen=True)
class Job:
    """``what`` names the work in errors; ``folder`` is the working directory; ``environment`` is added to
    this process's. A process that ``serves_others`` by what it starts ends without that."""

    what: str
    command: Sequence[str]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    serves_others: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a job ended. ``stopped`` says which bound ended it; ``log`` is the end of what it printed.
    ``peak_bytes`` is 0 where memory has no bound: nobody looked."""

    code: int
    log: str
    seconds: float
    peak_bytes: int
    stopped: Literal["", "time", "memory", "cancelled"] = ""

    @property
    def ok(self) -> bool:
        return self.code == 0 and not self.stopped


def run(job: Job, settings: Settings, cancel: Event | None = None) -> Outcome:
    """Run a job to its end or to a bound. Raises ``BackendError`` if it cannot be started."""
    log = job.folder / _LOG
    start = time.monotonic()
    with open(log, "wb") as output:
        try:
            process = subprocess.Popen(
                list(job.command),
                cwd=job.folder,
                env={**os.environ, **job.environment},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise BackendError(f"{job.command[0]} does not start: {error.strerror}", job.what) from error
    peak, stopped = 0, ""
    try:
        while process.poll() is None:
            used = 0 if settings.memory_bytes is None else _resident(process.pid)
            peak = max(peak, used)
            if cancel is not None and cancel.is_set():
                stopped = "cancelled"
            elif settings.memory_bytes is not None and used > settings.memory_bytes:
                stopped = "memory"
            elif settings.timeout_s is not None and time.monotonic() - start > settings.timeout_s:
                stopped = "time"
            if stopped:
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02 if time.monotonic() - start < 1 else 0.1)
    finally:
        _end(process, job.serves_others)
    return Outcome(process.returncode, _tail(log), time.monotonic() - start, peak, stopped)  # type: ignore[arg-type]


def run_all(jobs: Sequence[Job], settings: Settings, cancel: Event | None = None) -> list[Outcome]:
    """Run independent jobs, ``settings.jobs`` at a time; outcomes in their order.

    An interrupt ends the running ones and starts no others.
    """
    cancel = cancel or Event()
    with ThreadPoolExecutor(max(1, settings.jobs)) as pool:
        futures = [pool.submit(run, job, settings, cancel) for job in jobs]
        try:
            return [future.result() for future in futures]
        except BaseException:
            cancel.set()
            for future in futures:
                future.cancel()
            raise


def error_of(job: Job, outcome: Outcome, settings: Settings, message: str = "") -> BackendError:
    """The error for a job that did not end well; ``message`` is what the compiler said, made readable."""
    error = _error_of(job, outcome, settings, message)
    error.log = outcome.log
    return error


def _error_of(job: Job, outcome: Outcome, settings: Settings, message: str) -> BackendError:
    seconds = f"after {outcome.seconds:.1f} s"
    if outcome.stopped == "time":
        what = f"the compiler was stopped {seconds}: the limit is {settings.timeout_s:g} s"
        return BackendError(what, job.what, "raise the timeout, or compile for another target")
    if outcome.stopped == "memory":
        limit, peak = settings.memory_bytes or 0, outcome.peak_bytes
        what = f"the compiler was stopped {seconds} at {peak >> 20} MiB: the limit is {limit >> 20} MiB"
        return BackendError(what, job.what, "raise the memory limit")
    if outcome.stopped == "cancelled":
        return BackendError(f"the compile was cancelled {seconds}", job.what)
    if outcome.code < 0 and not message:
        name = signal.Signals(-outcome.code).name
        what = f"the vendor's compiler died {seconds} with {name}"
        return BackendError(what, job.what, "place this part on the CPU; the log's end: " + _last(outcome))
    what = message or f"the vendor's compiler ended {seconds} with exit code {outcome.code}: {_last(outcome)}"
    return BackendError(what, job.what)


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process and all below it."""
    total = 0
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total


def _end(process: subprocess.Popen[bytes], alone: bool) -> None:
    """End the whole group, whoever of it is still there, or the process alone."""
    with suppress(ProcessLookupError, PermissionError):
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _tail(path: Path) -> str:
    with suppress(OSError), open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _LOG_BYTES))
        return file.read().decode(errors="replace").replace("\r\n", "\n")
    return ""


def _last(outcome: Outcome) -> str:
    lines = [line.strip() for line in outcome.log.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
