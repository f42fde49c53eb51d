"""Compiling and running segments as the backend does, in the vendor's emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from forgec.backends.base import DEFAULTS
from forgec.backends.qnn import compiler, container, session
from forgec.backends.qnn.edge import F16_LIMIT
from forgec.backends.qnn.socs import CHIPS
from forgec.backends.vendor.cache import Cache
from qnn_programs import Case

from forgec.ir.interpreter import Interpreter

__all__ = ["assert_close", "compiled", "emulated"]

CHIP = CHIPS["hexagon-v73"]


def compiled(case: Case, folder: Path) -> bytes:
    (code,) = compiler.compile_segments(
        [case.program], case.constants, DEFAULTS, CHIP, Cache(folder / "cache")
    )
    return code


def emulated(case: Case, code: bytes) -> list[np.ndarray]:
    outputs = [np.full(r.type.shape, 7, r.type.dtype.numpy) for r in case.program.main.results]
    (step,) = session.steps(container.unpack(code), case.inputs, outputs, "the test")
    step()
    return outputs


def assert_close(case: Case, found: list[np.ndarray], tolerance: float = 1e-2) -> None:
    """Within a share of the largest value of what the reference interpreter gives."""
    expected = Interpreter(case.program, case.tensors.__getitem__).run(case.inputs)
    for register, ours, theirs in zip(case.program.main.results, found, expected, strict=True):
        if not register.type.dtype.is_float:
            np.testing.assert_array_equal(ours, theirs, err_msg=str(register))
            continue
        theirs = np.clip(theirs, -F16_LIMIT, F16_LIMIT)
        scale = max(float(np.abs(theirs).max()), 1e-3)
        worst = float(np.abs(ours - theirs).max()) / scale
        assert worst <= tolerance, f"{register} is off by {worst:.1e} of its largest value"
