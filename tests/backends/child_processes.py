"""Whether processes live, for tests of what ends with what."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest


def lives(pid: int) -> bool:
    """Whether a process runs: one that ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(true: Callable[[], bool]) -> None:
    """Wait for something; the test fails if it takes half a minute."""
    end = time.monotonic() + 30
    while not true():
        if time.monotonic() > end:
            pytest.fail("it never came to be")
        time.sleep(0.02)
