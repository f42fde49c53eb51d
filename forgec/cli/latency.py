"""Latency of a call, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

__all__ = ["Latency", "measure"]


@dataclass(frozen=True)
class Latency:
    """Milliseconds over ``runs`` runs, each timed alone after one run to warm up."""

    runs: int
    min_ms: float
    median_ms: float
    p99_ms: float
    kind: str = "measured"

    def __str__(self) -> str:
        return (
            f"min {self.min_ms:.3f} ms, median {self.median_ms:.3f} ms, p99 {self.p99_ms:.3f} ms "
            f"({self.kind}, {self.runs} {'run' if self.runs == 1 else 'runs'})"
        )


def measure(call: Callable[[], Any], repeat: int) -> Latency:
    """Time ``repeat`` calls."""
    call()
    times = []
    for _ in range(repeat):
        start = perf_counter()
        call()
        times.append((perf_counter() - start) * 1000)
    return Latency(repeat, min(times), float(np.median(times)), float(np.percentile(times, 99)))
