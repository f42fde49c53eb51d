"""The check at the end of a compile: the executable against eager PyTorch on the example inputs."""

from __future__ import annotations

import math

import numpy as np
import torch

from .capture import Capture
from .capture.tensors import as_numpy
from .errors import FidelityError
from .executable import Executable, SelfTest
from .graph import CapturedGraph
from .report.metrics import fidelity
from .report.report import Fidelity
from .weights import WeightSpec

__all__ = ["check_against_eager", "find_nan"]

TOLERANCE = 1e-3
"""Share of the largest reference value by which an f32 result may be off and still be the same function; a
wrong rewrite or a wrong block differs by far more, rounding by far less."""

_LOW_PRECISION = 5e-2
"""The same for programs with 16-bit floats."""


_COMPRESSED = {"bf16": 0.1, "int8": 0.1, "w8a8": 0.2, "int4": 0.7}
"""The same for compressed weights, by the least exact format in use, as a share of the reference's norm: the
distance that rounding the weights explains, with room for models that have learned nothing."""

_COMPRESSED_KL = {"bf16": 1e-2, "int8": 1e-2, "w8a8": 5e-2, "int4": 0.5}
"""Bound of the divergence from eager in nats, by the least exact format in use."""


def check_against_eager(executable: Executable, captured: Capture, weights: WeightSpec) -> Fidelity:
    """Metrics of the executable's outputs against the model's own on the example inputs.

    The model's own outputs become the self-test, with compressed weights the executable's. Raises
    ``FidelityError`` if an output differs by more than rounding can explain.
    """
    assert captured.expected is not None
    inputs = [as_numpy(x) for x in captured.inputs]
    results = executable.run_flat(inputs)
    executable.reset()
    names = [leaf.name for leaf in executable.signature.results]
    expected = [as_numpy(x) for x in captured.expected]
    if weights.compresses:
        return _check_compressed(
            executable, inputs, dict(zip(names, expected, strict=True)), results, weights
        )
    low = any(t.dtype in (torch.float16, torch.bfloat16) for t in captured.graph.constants.values())
    for name, ours, theirs in zip(names, results, expected, strict=True):
        _same_function(name, ours, theirs, _LOW_PRECISION if low else TOLERANCE)
    executable.selftest = SelfTest([x.copy() for x in inputs], expected)
    return fidelity(
        dict(zip(names, expected, strict=True)),
        dict(zip(names, results, strict=True)),
        reference="eager PyTorch",
        inputs="example",
    )


def _check_compressed(
    executable: Executable,
    inputs: list[np.ndarray],
    expected: dict[str, np.ndarray],
    results: list[np.ndarray],
    weights: WeightSpec,
) -> Fidelity:
    """The check of a program with compressed weights, which is not meant to be equal."""
    least = weights.least_exact.name
    for (name, theirs), ours in zip(expected.items(), results, strict=True):
        if ours.dtype.kind != "f":
            continue
        _same_finite(name, ours, theirs)
        finite = np.isfinite(theirs)
        difference = float(np.linalg.norm((ours - theirs)[finite].astype(np.float64)))
        norm = float(np.linalg.norm(theirs[finite].astype(np.float64)))
        share = difference / max(norm, 1e-30)
        if share > _COMPRESSED[least]:
            raise FidelityError(
                f"output {name or 'output'} differs from eager PyTorch by {share:.2f} "
                f"of its norm, more than rounding weights to {least} explains",
                hint="keep sensitive layers exact: weights=int4,lm_head=int8; or compile with check=false",
            )
    executable.selftest = SelfTest([x.copy() for x in inputs], results)
    return fidelity(
        expected,
        dict(zip(expected, results, strict=True)),
        reference=f"eager PyTorch, weights {least} here",
        inputs="example",
        bound_max_abs=math.inf,
        bound_kl=_COMPRESSED_KL[least],
    )


def _same_finite(name: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    if not np.array_equal(np.isfinite(theirs), np.isfinite(ours)):
        raise FidelityError(f"output {name or 'output'} is finite in other places than eager PyTorch's")


def _same_function(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    with np.errstate(invalid="ignore"):
        difference, scale = (
            float(np.abs(ours - theirs).max(initial=0.0)),
            float(np.abs(theirs).max(initial=0.0)),
        )
    if not np.isfinite(difference + scale):
        _same_finite(name, ours, theirs)
        finite = np.isfinite(theirs)
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
