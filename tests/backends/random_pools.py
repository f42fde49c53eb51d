"""Random attributes of ``pool`` on random inputs, for the tests of everything that computes it."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["random_pool"]


def random_pool(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
    """An f32 input of rank 3 or 4 and all attributes; a few windows do not fit, and a few inputs are empty."""
    spatial = int(rng.integers(1, 3))
    average = bool(rng.random() < 0.5)

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(n) for n in rng.integers(low, high, spatial))

    kernel = sizes(1, 6)
    shape = (*(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 4, 2)), *sizes(1, 24))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    attrs = {
        "kind": "average" if average else "max",
        "kernel": kernel,
        "stride": sizes(1, 5),
        "padding": padding,
        "dilation": (1,) * spatial if average else sizes(1, 4),
        "ceil": bool(rng.random() < 0.5),
        "include_padding": average and bool(rng.random() < 0.5),
    }
    return rng.standard_normal(shape).astype(np.float32), attrs
