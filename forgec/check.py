"""The check at the end of a compile: the executable against eager PyTorch on the example inputs."""

from __future__ import annotations

import numpy as np
import torch

from .capture import Capture
from .capture.tensors import as_numpy
from .errors import FidelityError
from .executable import Executable, SelfTest
from .graph import CapturedGraph
from .report.metrics import fidelity
from .report.report import Fidelity

__all__ = ["check_against_eager", "find_nan"]

TOLERANCE = 1e-3
"""Share of the largest reference value by which an f32 result may be off and still be the same function; a
wrong rewrite or a wrong block differs by far more, rounding by far less."""

_LOW_PRECISION = 5e-2
"""The same for programs with 16-bit floats, and for devices that compute in them."""

_HALF_SHARE = 1e-2
_HALF_KL = 1e-3
"""Bounds on a device with 16-bit floats: share of the largest reference value, and KL divergence."""


def check_against_eager(executable: Executable, captured: Capture, precision: str = "f32") -> Fidelity:
    """Metrics of the executable's outputs against the model's own on the example inputs, which become its
    self-test.

    ``precision`` is the lowest that a device of the program computes in. Raises ``FidelityError`` if an
    output differs by more than rounding can explain.
    """
    assert captured.expected is not None
    inputs = [as_numpy(x) for x in captured.inputs]
    results = executable.run_flat(inputs)
    executable.reset()
    names = [leaf.name for leaf in executable.signature.results]
    expected = [as_numpy(x) for x in captured.expected]
    low = precision != "f32" or any(
        t.dtype in (torch.float16, torch.bfloat16) for t in captured.graph.constants.values()
    )
    for name, ours, theirs in zip(names, results, expected, strict=True):
        _same_function(name, ours, theirs, _LOW_PRECISION if low else TOLERANCE)
    executable.selftest = SelfTest([x.copy() for x in inputs], expected)
    bounds: dict[str, float] = {}
    if precision != "f32":
        largest = max((float(np.abs(x).max(initial=0.0)) for x in expected), default=0.0)
        bounds = {"bound_max_abs": _HALF_SHARE * largest, "bound_kl": _HALF_KL}
    return fidelity(
        dict(zip(names, expected, strict=True)),
        dict(zip(names, results, strict=True)),
        reference="eager PyTorch",
        inputs="example",
        **bounds,
    )


def _same_function(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    with np.errstate(invalid="ignore"):
        difference, scale = (
            float(np.abs(ours - theirs).max(initial=0.0)),
            float(np.abs(theirs).max(initial=0.0)),
        )
    if not np.isfinite(difference + scale):
        finite = np.isfinite(theirs)
        if not np.array_equal(finite, np.isfinite(ours)):
            raise FidelityError(f"output {name or 'output'} is finite in other places than eager PyTorch's")
        difference = float(np.abs(ours - theirs)[finite].max(initial=0.0))
        scale = float(np.abs(theirs)[finite].max(initial=0.0))
    if difference > tolerance * max(scale, 1e-3):
        raise FidelityError(
            f"output {name or 'output'} differs from eager PyTorch by {difference:.2e} (largest value "
            f"{scale:.2e})",
            hint="`forgec verify` finds the first instruction that differs; FORGEC_PASSES=-name skips a pass",
        )


def find_nan(graph: CapturedGraph) -> list[str]:
    """A warning for every floating-point constant with NaN in it.

    One sum per tensor: it is NaN if any element is, and only then are the elements looked at one by one.
    """
    found = []
    for name, tensor in graph.constants.items():
        if tensor.is_floating_point() and bool(torch.isnan(tensor.sum())):
            count = int(torch.isnan(tensor).sum())
            if count:
                found.append(f"weight {name} has {count} NaN of {tensor.numel()} elements")
    return found
