"""How many processors this process may use, and how many threads of arithmetic they are worth.

Two logical processors of one core share its multiply-add units and caches, so that a second thread there
adds little and disturbs the first. Cores of half the speed, as laptops have for a machine at rest, keep the
others waiting at the end of every kernel. A container's share of time is a limit too: threads beyond it are
stopped for the rest of a period, all of them, in the midst of a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from numbers import Integral
from pathlib import Path

from .errors import OptionError

__all__ = ["allowed", "one_per_core", "quota", "require_threads", "useful_threads"]

_MOST_THREADS = 1024
"""Of a run: more than any machine has processors for."""

_SLOW = 0.6
"""Of the fastest core's highest frequency. By Intel's data sheets low-power cores of laptops have 0.44 to
0.56, efficient ones 0.75 to 0.83."""


def allowed() -> list[int]:
    """Numbers of the logical processors that this process may use, by its affinity if the system has that."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def one_per_core(system: Path = Path("/")) -> list[int]:
    """The first allowed logical processor of every core, as Linux lists cores; all allowed ones elsewhere."""
    cores: dict[str, int] = {}
    for number in allowed():
        cores.setdefault(_core(system, number), number)
    return list(cores.values())


@cache
def quota(system: Path = Path("/")) -> float | None:
    """Processors' worth of time that Linux control groups (version 2 or 1) allow; None without a limit.

    As it was when it was first asked for.
    """
    limits = []
    for path in _control_groups(system):
        if path.name == "cpu.max":
            most, _, period = _text(path).partition(" ")
        else:
            most, period = _text(path), _text(path.with_name("cpu.cfs_period_us"))
        if most.isdecimal() and period.isdecimal() and int(period) > 0:  # else "max", -1 or no such file
            limits.append(int(most) / int(period))
    return min(limits, default=None)


def require_threads(threads: object) -> None:
    """:class:`OptionError` unless a run can have so many."""
    if not isinstance(threads, Integral) or not 1 <= int(threads) <= _MOST_THREADS:
        raise OptionError(f"threads must be at least 1 and at most {_MOST_THREADS}, not {threads!r}")


def useful_threads(system: Path = Path("/")) -> int:
    """Threads of a run: one for every core that is not slow, within the quota."""
    rates = [_frequency(system, number) for number in one_per_core(system)]
    slow = sum(0 < rate < _SLOW * max(rates) for rate in rates)
    cores, most = len(rates) - slow, quota(system)
    return cores if most is None else max(1, min(cores, int(most)))


@cache
def _core(system: Path, number: int) -> str:
    siblings = _text(system / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
    return siblings or f"of {number}"


@cache
def _frequency(system: Path, number: int) -> int:
    """The highest, in kHz; zero if the system does not say."""
    found = _text(system / f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq")
    return int(found) if found.isdecimal() else 0


def _control_groups(system: Path) -> Iterator[Path]:
    """Files with a limit for this process: of its group and of those around it.

    A container that sees its own group as the root has the path of the host in /proc, which is not there;
    what is there is the root.
    """
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = system / "sys/fs/cgroup", "cpu.max"
        elif "cpu" in controllers.split(","):
            root, name = system / "sys/fs/cgroup/cpu", "cpu.cfs_quota_us"
        else:
            continue
        own = root / group.lstrip("/")
        yield from (folder / name for folder in (own, *own.parents) if folder.is_relative_to(root))


def _text(path: Path) -> str:
    """What the file has, or nothing if it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
