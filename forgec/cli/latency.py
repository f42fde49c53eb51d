"""Latency of a call, measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from ..report import units

__all__ = ["Latency", "measure"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds over ``runs`` runs, each timed alone after one run to warm up; p99 is the nearest rank."""

    runs: int
    min_ms: float
    median_ms: float
    p99_ms: float
    kind: str = "measured"

    def __str__(self) -> str:
        low, middle, high = (
            units.duration_us(1000 * ms) for ms in (self.min_ms, self.median_ms, self.p99_ms)
        )
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        return f"min {low}, median {middle}, p99 {high} ({self.kind}, {runs})"


def measure(call: Callable[[], Any], repeat: int, kind: str = "measured") -> Latency:
    """Time ``repeat`` calls; ``kind`` is what the times are."""
    call()
    times = []
    for _ in range(repeat):
        start = perf_counter()
        call()
        times.append((perf_counter() - start) * 1000)
    times.sort()
    return Latency(repeat, times[0], statistics.median(times), times[math.ceil(0.99 * repeat) - 1], kind)
