"""Finding out what Intel's compiler takes: instructions tried alone, and the culprit in a refused segment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from forgec.errors import BackendError, InternalError
from forgec.ir.program import Constant, Instr, Program
from forgec.ir.types import TensorType

from ..base import Constants, Settings
from ..vendor.portion import failing_beginning, portion
from ..vendor.support import Trial, single
from .compiler import Model, Rejected, build_batch
from .emission import emitted
from .toolchain import Toolchain

__all__ = ["culprit", "try_out"]

_BOUND = Settings(timeout_s=600.0)
_START_S, _EACH_S = 60.0, 20.0
"""Seconds that a process of trials may take: to start, and for each."""


def try_out(instrs: Sequence[Instr], platform: str, toolchain: Toolchain) -> list[Trial]:
    """Compile each instruction alone; the reason where that fails, empty where it does not."""
    models: dict[int, Model] = {}
    trials: dict[int, Trial] = {}
    for index, instr in enumerate(instrs):
        try:
            models[index] = emitted(single(instr), filling, platform, "single instructions")
        except (BackendError, InternalError) as error:
            trials[index] = Trial(error.what)
    bound = Settings(timeout_s=_START_S + _EACH_S * len(models))
    results = build_batch(list(models.values()), platform, toolchain, bound)
    for index, result in zip(models, results, strict=True):
        if isinstance(result, Rejected):
            trials[index] = Trial(result.reason, result.silent)
        else:
            trials[index] = Trial("")
    return [trials[index] for index in range(len(instrs))]


def filling(constant: Constant) -> np.ndarray:
    """Values for a constant of a trial: small, different from each other, legal as indices."""
    t: TensorType = constant.type
    if not t.dtype.is_float:
        return np.zeros(t.array_shape, t.dtype.numpy)
    return np.resize(np.linspace(0.1, 0.9, 251, dtype=np.float32), t.shape).astype(t.dtype.numpy)


def culprit(segment: Program, constants: Constants, platform: str, toolchain: Toolchain) -> Instr | None:
    """The instruction at which a refused segment begins to be refused; None if none can be told.

    Bisection over the segment's beginnings: about log2(instructions) compiles.
    """

    def refused(part: Program) -> bool:
        model = emitted(part, constants, platform, "bisection")
        (result,) = build_batch([model], platform, toolchain, _BOUND)
        return isinstance(result, Rejected)

    body = segment.main.body
    return body[failing_beginning(segment, refused) - 1] if refused(portion(segment, 0, len(body))) else None
