"""Peak resident memory of a stretch of code in this process, measured.

Linux keeps the high-water mark of the resident set (VmHWM) and lets a process reset its own by writing 5 to
/proc/self/clear_refs: exact and free. Where that is not allowed, a thread samples the resident set every 2 ms
and can miss shorter peaks; the result says which of the two it was.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Rss", "measure"]

_INTERVAL_S = 0.002


@dataclass
class Rss:
    """Resident bytes before the block and at its peak; ``method`` is how the peak was found."""

    before_bytes: int
    peak_bytes: int
    method: str


@contextmanager
def measure() -> Iterator[Rss]:
    """Measure the ``with`` block; ``peak_bytes`` is final when the block has ended.

    One block at a time: an inner one resets the mark of the outer.
    """
    if _reset_mark():
        before = _status_bytes("VmRSS")
        rss = Rss(before, before, "high-water mark")
        try:
            yield rss
        finally:
            rss.peak_bytes = max(before, _status_bytes("VmHWM"))
        return
    before = _resident()
    rss = Rss(before, before, f"sampled every {_INTERVAL_S * 1000:g} ms")
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(_INTERVAL_S):
            rss.peak_bytes = max(rss.peak_bytes, _resident())

    thread = threading.Thread(target=sample, name="forgec-rss", daemon=True)
    thread.start()
    try:
        yield rss
    finally:
        ended.set()
        thread.join()
        rss.peak_bytes = max(rss.peak_bytes, _resident())


def _reset_mark() -> bool:
    """Set VmHWM to the present size; False where the system does not let us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_bytes("VmHWM") > 0
    except OSError:
        return False


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)
