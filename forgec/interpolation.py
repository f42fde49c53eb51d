"""Interpolation along one axis as a constant: indices of elements, or a matrix of their weights.

Every result is a weighted sum of elements, with weights that depend on the sizes alone.
"""

from __future__ import annotations

import numpy as np

__all__ = ["aligned", "centres", "nearest_rows", "weights"]


def centres(size: int, scale: float) -> np.ndarray:
    """Where ``size`` results lie, in coordinates of elements that are ``scale`` times as wide."""
    return (np.arange(size) + 0.5) / scale - 0.5


def aligned(n: int, size: int, width: float | None = None) -> np.ndarray:
    """Where results lie if the first and the last of ``width`` (``size``) are those of the ``n`` elements."""
    last = (size if width is None else width) - 1
    return np.arange(size) * (n - 1) / last if last else np.zeros(size)


def nearest_rows(n: int, at: np.ndarray) -> np.ndarray:
    """Whole coordinates as indices; those over the ends are the ends."""
    return np.clip(at, 0, n - 1).astype(np.int64)


def weights(
    n: int,
    at: np.ndarray,
    mode: str,
    *,
    cubic: float = -0.75,
    shrink: float = 1.0,
    outside: bool = True,
) -> np.ndarray:
    """The matrix f64 [results, n] that interpolates at coordinates ``at``.

    ``mode`` is "linear" or "cubic", with the coefficient ``cubic``. Below 1, ``shrink`` widens what a result
    is made of, against aliasing. Elements over the ends are those at the ends, or, unless ``outside``, left
    out.
    """
    reach = {"linear": 1, "cubic": 2}[mode]
    first = int(np.floor(-reach / shrink)) + 1
    indices = (np.ceil(at).astype(np.int64) - 1)[:, None] + np.arange(first, 2 - first)
    distance = np.abs(indices - at[:, None]) * shrink
    if mode == "linear":
        found = np.clip(1 - distance, 0, 1)
    else:
        near = ((cubic + 2) * distance - (cubic + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * cubic - 4 * cubic
        found = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    if not outside:
        found = np.where((indices >= 0) & (indices < n), found, 0)
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], np.clip(indices, 0, n - 1)), found)
    return matrix / found.sum(1, keepdims=True)
