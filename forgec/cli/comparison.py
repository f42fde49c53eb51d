"""Compare the ways to compute a program: executable, reference interpreter, eager PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import OptionError
from ..executable import Executable, sampled
from ..executable.convert import to_array
from ..report import metrics, units
from ..report.bounds import (
    CODES,
    Bounds,
    bounds_of,
    compressed,
    formats_of,
    least_exact_precision,
    lowest_precision,
    program_precision,
)
from ..report.stepwise import first_divergence, interpret
from .eager import can_widen, eager_precisions, flat_outputs, run_eager
from .subject import Subject

__all__ = ["STORED", "Case", "Comparison", "divergence", "fresh_cases", "sizes", "stored_case"]

STORED = "stored outputs"
_IMPRECISE = 10
"""Times the bound that another tool's f32 may be from float64 without being wrong."""

_TOKEN_INPUTS = ("input_ids", "decoder_input_ids")


@dataclass(frozen=True)
class Comparison:
    """One output of two ways to compute it on the same inputs; metrics as in the report.

    ``note`` says why a difference over the bounds passes: the f32 reference is the imprecise side.
    """

    result: str
    reference: str
    inputs: str
    output: str
    max_abs: float
    kl: float
    cosine: float
    sqnr_db: float
    bound_max_abs: float
    bound_kl: float
    passed: bool
    note: str | None = None


@dataclass(frozen=True)
class Case:
    """One set of inputs; ``outputs`` are by the way that computed them."""

    inputs: list[np.ndarray]
    comparisons: list[Comparison]
    outputs: dict[str, Sequence[np.ndarray]]

    @property
    def executable_differs(self) -> bool:
        """Whether executable and interpreter disagree: a kernel or the plan is wrong."""
        return any(c.reference == "interpreter" and not c.passed for c in self.comparisons)

    @property
    def rewrite_suspect(self) -> bool:
        """Whether executable and interpreter agree, and what the model gives without the compiler differs."""
        wrong = [c for c in self.comparisons if c.result == "interpreter" and not c.passed]
        return any(c.reference != STORED for c in wrong) and not self.executable_differs


def stored_case(executable: Executable) -> Case:
    """The example in the file; :class:`OptionError` if there is none."""
    stored = executable.selftest
    if stored is None:
        raise OptionError("the file stores no example to check", hint="give the model with -m")
    return _compare(executable, list(stored.inputs), "stored", {STORED: list(stored.outputs)})


def fresh_cases(executable: Executable, subject: Subject, seeds: int) -> Iterator[Case]:
    """Eager PyTorch on the inputs of seeds 1 to ``seeds``, or on the only ones that there are."""
    for number in range(1, 2 if subject.fixed else seeds + 1):
        args, kwargs = subject.draw(number)
        inputs = executable.signature.flatten(args, kwargs)

        def eager(wide: bool, args: Any = args, kwargs: Any = kwargs) -> list[np.ndarray]:
            return flat_outputs(executable.signature, run_eager(subject.model, args, kwargs, wide=wide))

        narrow, precisions = {"eager": eager(wide=False)}, {"eager": eager_precisions(subject.model)}
        if subject.reference is not None and not isinstance(found := subject.reference(args, kwargs), str):
            source, results = found
            precisions[source] = subject.reference_precisions
            narrow[source] = [
                to_array(x, leaf.type, leaf.name)
                for x, leaf in zip(results, executable.signature.results, strict=True)
            ]
        label = "example" if subject.fixed else f"seed {number}"
        case = _compare(executable, inputs, label, narrow, precisions)
        # An imported file takes inputs of its own types only.
        widens = can_widen(subject.model) and not (
            subject.reference is not None and any(x.dtype.kind == "f" for x in inputs)
        )
        if widens and not all(c.passed for c in case.comparisons):
            case = _with_wide_reference(case, narrow, eager(wide=True))
        yield case


def _compare(
    executable: Executable,
    inputs: list[np.ndarray],
    label: str,
    expected: Mapping[str, Sequence[np.ndarray]],
    precisions: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> Case:
    """Executable and interpreter against the expected outputs by their source, and against each other;
    ``precisions`` are what sources compute in beside f32."""
    with executable.clone() as clone:
        got = clone.run_flat(inputs)
    reference = interpret(executable, inputs)
    names = [leaf.name or f"output{leaf.index}" for leaf in executable.signature.results]
    sides: list[tuple[str, Sequence[np.ndarray], str, Sequence[np.ndarray]]] = []
    for source, wanted in expected.items():
        sides += [("executable", got, source, wanted), ("interpreter", reference, source, wanted)]
    sides.append(("executable", got, "interpreter", reference))
    comparisons = []
    for result, values, against, wanted in sides:
        bounds = _bounds(executable, result, against, wanted, precisions.get(against, frozenset()))
        for name, value, want in zip(names, values, wanted, strict=True):
            d = metrics.difference(want, value if want.shape == value.shape else sampled(value), name)
            figures = (d.max_abs, d.kl, d.cosine, d.sqnr_db, bounds.max_abs, bounds.kl)
            comparisons.append(Comparison(result, against, label, name, *figures, bounds.hold(d)))
    return Case(inputs, comparisons, {"executable": got, "interpreter": reference})


def _bounds(
    executable: Executable,
    result: str,
    against: str,
    wanted: Sequence[np.ndarray],
    precisions: frozenset[str],
) -> Bounds:
    """The bounds of one way to compute the outputs against another, which computes in ``precisions`` too.

    Compressed weights are in the executable, the interpreter and what the file stores, not in eager. Only the
    executable computes as its devices do; all compute in 16 bits what the program has in them.
    """
    program = executable.plan.program
    precision = program_precision(program)
    if result == "executable":
        precision = lowest_precision(executable.plan, executable.shared.backend)
    formats = formats_of(program)
    if formats and against not in ("interpreter", STORED):
        return compressed(formats | {CODES} if CODES in (precision, *precisions) else formats)
    return bounds_of(least_exact_precision((precision, *precisions)), wanted)


def _with_wide_reference(case: Case, narrow: Mapping[str, list[np.ndarray]], wide: list[np.ndarray]) -> Case:
    """Pass what is within the bounds of float64 although it is not within those of a reference in f32.

    Fully padded positions are an example: eager's own rounding error there can exceed the bound. What else
    computed the model in f32 may be as imprecise; where it differs by more it is not overruled, as float64
    has the error of a wrong import.
    """
    names = list(dict.fromkeys(c.output for c in case.comparisons))
    changed = []
    for c in case.comparisons:
        if not c.passed and c.reference in narrow:
            at = names.index(c.output)
            found = metrics.difference(wide[at], case.outputs[c.result][at], c.output)
            own = metrics.max_abs(wide[at], narrow[c.reference][at])
            imprecise = c.reference == "eager" or own <= _IMPRECISE * metrics.BOUND_MAX_ABS
            if imprecise and found.within(metrics.BOUND_MAX_ABS, metrics.BOUND_KL):
                ours, theirs = units.metric(found.max_abs), units.metric(own)
                note = f"float64 is {ours} from this, {theirs} from {c.reference}"
                c = replace(c, passed=True, note=note)
        changed.append(c)
    return replace(case, comparisons=changed)


def divergence(executable: Executable, inputs: list[np.ndarray]) -> str | None:
    """Where executable and interpreter first differ on the inputs, as text."""
    bounds = bounds_of(lowest_precision(executable.plan, executable.shared.backend), ())
    found = first_divergence(executable, inputs, bounds.relative)
    if found is None:
        return None
    remark = f"; {found.remark}" if found.remark else ""
    return f"{found} (max abs {units.metric(found.max_abs)}{remark})"


def sizes(executable: Executable) -> tuple[int | None, int]:
    """Tokens and batch that the program was compiled for."""
    leaves = executable.signature.inputs
    for leaf in leaves:
        if leaf.name in _TOKEN_INPUTS:
            batch, tokens = leaf.type.shape
            return tokens, batch
    return None, leaves[0].type.shape[0] if leaves and leaves[0].type.shape else 1
