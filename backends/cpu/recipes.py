"""Ops of constant recipes that the native runtime evaluates faster, with the results of their references."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from forgec.ir.ops import compressed

from . import native
from .backend import runtime
from .native.quantise import quantise, scales

__all__ = ["recipe_kernels"]


def recipe_kernels() -> Mapping[str, Callable[..., np.ndarray]]:
    """Evaluations by op, called with the operands and all attributes; numpy's where it is to run programs."""
    return {"scales": _scales, "quantise": _quantise}


def _scales(weight: np.ndarray, *, bits: int, group: int) -> np.ndarray:
    if runtime() == "numpy":
        return compressed.scales(weight, bits=bits, group=group)
    return scales(_team(), weight, bits=bits, group=group)


def _quantise(weight: np.ndarray, by: np.ndarray, *, bits: int, group: int) -> np.ndarray:
    if runtime() == "numpy":
        return compressed.quantise(weight, by, bits=bits, group=group)
    return quantise(_team(), weight, by, bits=bits, group=group)


def _team() -> native.Team:
    return native.shared_team(native.threads_default())
