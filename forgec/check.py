"""The check at the end of a compile: the executable against eager PyTorch on the example inputs."""

from __future__ import annotations

import numpy as np
import torch

from .capture import Capture
from .capture.reference import EAGER
from .capture.tensors import as_numpy
from .errors import FidelityError
from .executable import Executable, SelfTest
from .graph import CapturedGraph
from .report.bounds import COMPRESSED, bounds_of, compressed, largest
from .report.metrics import differences, worst
from .report.report import Fidelity
from .weights import WeightSpec

__all__ = ["LOW_PRECISION", "TOLERANCE", "check_against_eager", "find_nan"]

TOLERANCE = 1e-3
"""Share of the largest reference value by which an f32 result may be off and still be the same function; a
wrong rewrite or a wrong block differs by far more, rounding by far less."""

LOW_PRECISION = 5e-2
"""The same for programs with 16-bit floats, and for devices that compute in them."""


def check_against_eager(
    executable: Executable, captured: Capture, weights: WeightSpec, precision: str = "f32"
) -> Fidelity:
    """Metrics of the executable's outputs against the model's own on the example inputs.

    The model's own outputs become the self-test, with compressed weights the executable's. ``precision`` is
    the lowest that the program or a device of it computes in. Raises ``FidelityError`` if an output differs
    by more than rounding can explain.
    """
    assert captured.expected is not None
    inputs = [as_numpy(x) for x in captured.inputs]
    plan = executable.plan
    if weights.compresses or any(s.device != plan.host for s in plan.segments):
        # packed codes and loaded segments are dear, and kept
        results = executable.run_flat(inputs)
        executable.reset()
    else:
        results = executable.run_single(inputs)
    names = [leaf.name for leaf in executable.signature.results]
    expected = [as_numpy(x) for x in captured.expected]
    if weights.compresses:
        return _check_compressed(
            executable, inputs, dict(zip(names, expected, strict=True)), results, weights, captured.reference
        )
    low = precision != "f32" or any(
        t.dtype in (torch.float16, torch.bfloat16) for t in captured.graph.constants.values()
    )
    found = differences(dict(zip(names, expected, strict=True)), dict(zip(names, results, strict=True)))
    for name, theirs in zip(names, expected, strict=True):
        tolerance = LOW_PRECISION if low else TOLERANCE
        _same_function(name, found[name].max_abs, theirs, tolerance, captured.reference)
    executable.selftest = SelfTest([x.copy() for x in inputs], expected)
    bounds = bounds_of(precision, expected)
    return worst(
        found.values(),
        reference=captured.reference,
        inputs="example",
        bound_max_abs=bounds.max_abs,
        bound_kl=bounds.kl,
    )


def _check_compressed(
    executable: Executable,
    inputs: list[np.ndarray],
    expected: dict[str, np.ndarray],
    results: list[np.ndarray],
    weights: WeightSpec,
    reference: str = EAGER,
) -> Fidelity:
    """The check of a program with compressed weights, which is not meant to be equal."""
    least = weights.least_exact.name
    for (name, theirs), ours in zip(expected.items(), results, strict=True):
        if ours.dtype.kind != "f":
            continue
        _same_finite(name, ours, theirs, reference)
        finite = np.isfinite(theirs)
        difference = float(np.linalg.norm((ours - theirs)[finite].astype(np.float64)))
        norm = float(np.linalg.norm(theirs[finite].astype(np.float64)))
        share = difference / max(norm, 1e-30)
        if share > COMPRESSED[least]:
            raise FidelityError(
                f"output {name or 'output'} differs from {reference} by {share:.2f} "
                f"of its norm, more than rounding weights to {least} explains",
                hint="keep sensitive layers exact: weights=int4,lm_head=int8; or compile with check=false",
            )
    executable.selftest = SelfTest([x.copy() for x in inputs], results)
    found = differences(expected, dict(zip(expected, results, strict=True)))
    bounds = compressed(weights)
    return worst(
        found.values(),
        reference=f"{reference}, weights {least} here",
        inputs="example",
        bound_max_abs=bounds.max_abs,
        bound_kl=bounds.kl,
    )


def _same_finite(name: str, ours: np.ndarray, theirs: np.ndarray, reference: str) -> None:
    if not np.array_equal(np.isfinite(theirs), np.isfinite(ours)):
        raise FidelityError(f"output {name or 'output'} is finite in other places than that of {reference}")


def _same_function(
    name: str, difference: float, theirs: np.ndarray, tolerance: float, reference: str
) -> None:
    if not np.isfinite(difference):
        raise FidelityError(f"output {name or 'output'} is finite in other places than that of {reference}")
    scale = largest(theirs)
    if difference > tolerance * max(scale, 1e-3):
        raise FidelityError(
            f"output {name or 'output'} differs from {reference} by {difference:.2e} (largest value "
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
