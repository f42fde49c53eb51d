"""The check at the end of a compile: the executable against eager PyTorch on the example inputs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from .capture import Capture
from .errors import FidelityError
from .executable import Executable, Programs, SelfTest
from .executable.pages import worth_holding
from .graph import CapturedGraph
from .report.bounds import (
    CODES,
    COMPRESSED,
    bounds_of,
    compressed,
    formats_of,
    largest,
    least_exact,
    least_exact_precision,
    lowest_precision,
)
from .report.metrics import differences, worst
from .report.report import Fidelity, Phase
from .tensors import as_numpy

__all__ = ["Rounding", "check_against_eager", "checking_together", "find_nan"]

_TOLERANCE = 1e-3
"""Share of the largest reference value by which an f32 result may be off and still be the same function; a
wrong rewrite or a wrong block differs by far more, rounding by far less."""

_LOW_PRECISION = 5e-2
"""The same for programs and models with 16-bit floats, and for devices that compute in them."""

_HINT = (
    "`forgec verify` of a file compiled with check=false (--no-check) finds the first instruction that "
    "differs; FORGEC_PASSES=-name skips a pass; a model of transformers may choose another mask when it is "
    "traced, which attn_implementation='eager' in its configuration prevents"
)
_COMPRESSED_HINT = "keep sensitive layers exact: weights=int4,lm_head=int8; or compile with check=false"

_HALVES = {torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Rounding:
    """How far rounding may put a program's outputs from those of eager PyTorch: that to the ``formats`` of
    its weights, or of activations in the model or in what it is compared with (:data:`CODES`), and that of
    floats, of which some have ``low`` precision."""

    formats: frozenset[str]
    low: bool

    @classmethod
    def of(
        cls, executables: Iterable[Executable], dtypes: Iterable[torch.dtype], codes: bool = False
    ) -> Rounding:
        """For programs of a model that has weights of these types; ``codes`` if the reference rounds."""
        programs = list(executables)
        precisions = {lowest_precision(exe.plan, exe.shared.backend) for exe in programs}
        low = not precisions <= {"f32", CODES} or not _HALVES.isdisjoint(dtypes)
        formats = frozenset[str]().union(*(formats_of(exe.plan.program) for exe in programs))
        return cls(formats | {CODES} if codes or CODES in precisions else formats, low)

    @property
    def compresses(self) -> bool:
        """Whether any weight is compressed."""
        return bool(self.formats - {CODES})

    def require(self, what: str, ours: np.ndarray, theirs: np.ndarray, difference: float, hint: str) -> None:
        """Raises ``FidelityError`` with the sentence's start and the hint if two outputs, whose largest
        difference is known, differ by more."""
        if self.formats:
            self._require_compressed(what, ours, theirs, hint)
            return
        if not np.isfinite(difference):
            raise FidelityError(f"{what} in where it is finite")
        scale = largest(theirs)
        if difference > (_LOW_PRECISION if self.low else _TOLERANCE) * max(scale, 1e-3):
            raise FidelityError(f"{what} by {difference:.2e} (largest value {scale:.2e})", hint=hint)

    def _require_compressed(self, what: str, ours: np.ndarray, theirs: np.ndarray, hint: str) -> None:
        if ours.dtype.kind != "f":
            return
        finite = np.isfinite(theirs)
        if not np.array_equal(finite, np.isfinite(ours)):
            raise FidelityError(f"{what} in where it is finite")
        least = least_exact(self.formats)
        distance = float(np.linalg.norm((ours - theirs)[finite].astype(np.float64)))
        share = distance / max(float(np.linalg.norm(theirs[finite].astype(np.float64))), 1e-30)
        if share > COMPRESSED[least]:
            raise FidelityError(
                f"{what} by {share:.2f} of its norm, more than rounding to {least} explains",
                hint=hint,
            )


def check_against_eager(executable: Executable, captured: Capture) -> Fidelity:
    """Metrics of the executable's outputs against the model's own on the example inputs.

    The model's own outputs become the self-test, the executable's where weights are compressed or the model's
    were computed less exactly. Raises ``FidelityError`` if an output differs by more than
    rounding can explain.
    """
    assert captured.expected is not None
    inputs = [as_numpy(x) for x in captured.inputs]
    plan = executable.plan
    dtypes = (x.dtype for x in captured.graph.constants.values())
    rounding = Rounding.of([executable], dtypes, CODES in captured.precisions)
    if _keeps(executable, rounding):
        results = executable.run_flat(inputs)
        executable.reset()
    else:
        results = executable.run_single(inputs)
    names = [leaf.name for leaf in executable.signature.results]
    expected = [as_numpy(x) for x in captured.expected]
    found = differences(dict(zip(names, expected, strict=True)), dict(zip(names, results, strict=True)))
    hint = _COMPRESSED_HINT if rounding.compresses else _HINT
    for name, ours, theirs in zip(names, results, expected, strict=True):
        what = f"output {name or 'output'} differs from {captured.reference}"
        rounding.require(what, ours, theirs, found[name].max_abs, hint)
    own = rounding.compresses or bool(captured.precisions)
    executable.selftest = SelfTest([x.copy() for x in inputs], results if own else expected)
    precision = lowest_precision(plan, executable.shared.backend)
    precision = least_exact_precision((precision, *captured.precisions))
    bounds = compressed(rounding.formats) if rounding.compresses else bounds_of(precision, expected)
    least = f", weights {least_exact(rounding.formats - {CODES})} here" if rounding.compresses else ""
    return worst(
        found.values(),
        reference=captured.reference + least,
        inputs="example",
        bound_max_abs=bounds.max_abs,
        bound_kl=bounds.kl,
    )


def _keeps(executable: Executable, rounding: Rounding) -> bool:
    """Whether what the first run makes is to be kept: loaded segments and codes, which are dear, and packed
    weights that other programs use too, if memory allows."""
    plan, kept = executable.plan, executable.shared.constants.kept
    if rounding.compresses or any(segment.device != plan.host for segment in plan.segments):
        return True
    return kept.several and worth_holding(sum(c.type.nbytes for c in plan.program.constants.values()))


@contextmanager
def checking_together(programs: Programs) -> Iterator[None]:
    """The phase in which programs of one file are checked together, put into the report of the main one."""
    start = time.perf_counter()
    yield
    report = programs.main.report
    assert report is not None
    report.phases.append(Phase("check_together", (time.perf_counter() - start) * 1e3))


def find_nan(graph: CapturedGraph, counts: dict[str, int]) -> list[str]:
    """A warning for every floating-point constant with NaN in it; ``counts`` has what other programs of the
    model found in constants of the same names.

    One sum per tensor: it is NaN if any element is, and only then are the elements looked at one by one.
    """
    found = []
    for name, tensor in graph.constants.items():
        if name not in counts:
            some = tensor.is_floating_point() and bool(torch.isnan(tensor.sum()))
            counts[name] = int(torch.isnan(tensor).sum()) if some else 0
        if counts[name]:
            found.append(f"weight {name} has {counts[name]} NaN of {tensor.numel()} elements")
    return found
