"""Does a loaded program still give the outputs it gave to the machine that compiled it?"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ArtifactError
from ..report.metrics import max_abs
from .executable import Executable
from .samples import sampled

__all__ = ["TOLERANCE", "SelfTestResult", "run_selftest"]

TOLERANCE = 2.1e-5
"""Largest absolute difference that passes, unless the caller gives another."""


@dataclass(frozen=True)
class SelfTestResult:
    """``max_abs`` has name and largest absolute difference of each output; infinite if one side is nan."""

    max_abs: tuple[tuple[str, float], ...]
    tolerance: float

    @property
    def worst(self) -> float:
        """The largest of all differences; 0 without outputs."""
        return max((difference for _, difference in self.max_abs), default=0.0)

    @property
    def passed(self) -> bool:
        return self.worst <= self.tolerance


def run_selftest(exe: Executable, tolerance: float = TOLERANCE) -> SelfTestResult:
    """Run the stored inputs on a clone, so with initial states, and compare with the stored outputs.

    Raises :class:`ArtifactError` if nothing is stored.
    """
    if exe.selftest is None:
        raise ArtifactError("the file has no self-test", hint="compile again with the check on")
    with exe.clone() as clone:
        outputs = clone.run_flat(exe.selftest.inputs)
    names = [leaf.name or f"output.{leaf.index}" for leaf in exe.signature.results]
    triples = zip(names, outputs, exe.selftest.outputs, strict=True)
    return SelfTestResult(
        tuple((name, max_abs(expected, sampled(got))) for name, got, expected in triples), tolerance
    )
