"""How far a program's results may be from a reference, by what its devices compute in and how its weights are
stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..backends.base import Backend
from ..ir.halves import HALF_FORMATS, holds_all
from ..ir.program import ConstRef, Literal, Program
from ..ir.stored import CODES
from ..ir.types import DType
from ..plan.plan import Plan
from .metrics import BOUND_KL, BOUND_MAX_ABS, Difference

__all__ = [
    "CODES",
    "COMPRESSED",
    "EXACT",
    "Bounds",
    "bounds_of",
    "compressed",
    "formats_of",
    "largest",
    "least_exact",
    "least_exact_precision",
    "lowest_precision",
    "program_precision",
]

_HALF_SHARE = {"f16": 1e-2, "bf16": 5e-2, CODES: 0.1}
_HALF_KL = {"f16": 1e-3, "bf16": 1e-3, CODES: 5e-2}
"""Bounds for less than 32 bits: share of the largest reference value, and KL divergence. Codes that flip add
up with every layer, to 6 % of the largest value for BERT-base quantised for ONNX Runtime, whose own levels of
optimisation are as far apart."""

COMPRESSED = {"fp16": 0.1, "bf16": 0.1, "int8": 0.1, "w8a8": 0.2, "int4": 0.7, "w4a8": 0.7, CODES: 0.1}
"""For compressed weights, by the least exact format in use, as a share of the reference's norm: the distance
that rounding the weights explains, with room for models that have learned nothing. For :data:`CODES` the one
that flipped codes explain."""

_COMPRESSED_KL = {
    **{"fp16": 1e-2, "bf16": 1e-2, "int8": 1e-2, "w8a8": 5e-2, "int4": 0.5, "w4a8": 0.5},
    CODES: _HALF_KL[CODES],
}
"""Bound of the divergence from eager in nats, by the least exact format in use."""

_CODE_FORMATS = {
    **{dtype: (name, name) for name, dtype in HALF_FORMATS.items()},
    **{DType.I8: ("int8", "w8a8"), DType.I4: ("int4", "w4a8")},
}
"""Format of a weight by the type of its codes, without and with rounded activations."""


@dataclass(frozen=True)
class Bounds:
    """``max_abs`` and ``kl`` as in a report; ``relative`` is the share of a value's largest magnitude by
    which an intermediate result may be off."""

    max_abs: float
    kl: float
    relative: float

    def hold(self, found: Difference) -> bool:
        """Whether a difference is within both."""
        return found.within(self.max_abs, self.kl)


EXACT = Bounds(BOUND_MAX_ABS, BOUND_KL, BOUND_MAX_ABS)
"""The project's own, for f32 against eager PyTorch."""


def lowest_precision(plan: Plan, backend: Callable[[str], Backend]) -> str:
    """The element type that the least exact of a plan's devices computes floats in, or what the program
    itself has."""
    devices = {segment.device for segment in plan.segments}
    return least_exact_precision(
        (*(backend(device).precision for device in devices), program_precision(plan.program))
    )


def least_exact_precision(precisions: Iterable[str]) -> str:
    """The precision among these with the widest bounds."""
    return max(precisions, key=lambda precision: (_HALF_SHARE.get(precision, 0.0), precision))


def program_precision(program: Program) -> str:
    """The least exact type of the floats that a program computes, whatever runs it, or :data:`CODES`."""
    if any(instr.op == "round" or instr.attrs.get("dynamic") for instr in program.main.body):
        return CODES
    found = {r.type.dtype.value for instr in program.main.body for r in instr.results}
    return next((low for low in ("bf16", "f16") if low in found), "f32")


def bounds_of(precision: str, expected: Iterable[np.ndarray]) -> Bounds:
    """The bounds for outputs like these, computed in ``precision``."""
    if precision == "f32":
        return EXACT
    whole = max(map(largest, expected), default=0.0)
    share = _HALF_SHARE[precision]
    return Bounds(share * whole, _HALF_KL[precision], share)


def formats_of(program: Program) -> frozenset[str]:
    """The formats that a flat program's weights are rounded to."""
    found = set()
    for instr in program.main.body:
        if instr.op in ("linear_q", "expert_linear_q", "embedding_q"):
            codes = instr.operands[0 if instr.op == "embedding_q" else 1]
            assert codes is not None and not isinstance(codes, Literal)
            if isinstance(codes, ConstRef) and holds_all(program.constants[codes.name].recipe):
                continue
            found.add(_CODE_FORMATS[codes.type.dtype][bool(instr.attrs.get("dynamic"))])
    return frozenset(found)


def least_exact(formats: Iterable[str]) -> str:
    """The one that explains the largest distance; :data:`CODES` is one too."""
    return max(formats, key=lambda name: (COMPRESSED[name], _COMPRESSED_KL[name], name))


def compressed(formats: Iterable[str]) -> Bounds:
    """The bounds of what compressed weights do to the outputs: those of the divergence alone."""
    return Bounds(math.inf, max(_COMPRESSED_KL[name] for name in formats), math.inf)


def largest(x: np.ndarray) -> float:
    """Largest finite magnitude; without a copy where all are finite."""
    found = max(float(x.max(initial=0)), -float(x.min(initial=0))) if x.size else 0.0
    return found if np.isfinite(found) else float(np.abs(x[np.isfinite(x)]).max(initial=0))
