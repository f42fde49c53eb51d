"""The instruction inside of a segment at which its results go wrong.

A device runs a segment as a whole. So its beginnings are compiled again, each with what is read after it as
its results, and run on the interpreter's values: bisection, one compile a step, log2(instructions) of them
and at most one more. Where an error vanishes on its way and another follows, one of the two is found. Values
that a device of 16-bit floats cannot hold are compared as the largest that it can. A view is no result of a
segment, so one that goes wrong shows in the instruction that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from forgec.backends.base import DEFAULTS

from ..errors import ForgecError
from ..executable.executable import Executable
from ..executable.run import BoundProgram
from ..executable.segments import segment_programs
from ..ir.op import get
from ..ir.program import Program
from ..plan.plan import ALIGNMENT, ArenaPlan, Plan, Segment
from . import metrics
from .bounds import largest

__all__ = ["Culprit", "culprit", "excess"]

_F16_LARGEST = float(np.finfo(np.float16).max)
_ALONE = replace(DEFAULTS, fold="off", predict=False)


@dataclass(frozen=True)
class Culprit:
    """What the search found: ``remark`` says how, or why it ended early.

    ``index`` counts the instructions of the plan, None where none can be named; ``max_abs`` is how far its
    result is from the interpreter's.
    """

    index: int | None
    max_abs: float
    remark: str


def excess(want: np.ndarray, got: np.ndarray, relative: float, precision: str) -> float | None:
    """The largest distance, if over the bound: absolute for values below 1, else a share of the largest."""
    if precision == "f16" and want.dtype.kind == "f":
        want, got = (np.clip(x, -_F16_LARGEST, _F16_LARGEST) for x in (want, got))
    distance = metrics.max_abs(want, got)
    return distance if distance > relative * max(1.0, largest(want)) else None


def culprit(
    executable: Executable,
    number: int,
    values: Mapping[int, np.ndarray],
    states: Mapping[str, np.ndarray],
    relative: float,
) -> Culprit:
    """The first instruction of segment ``number`` after which a result is over the bound.

    ``values`` are the interpreter's by number of register. A compile that fails ends the search at what is
    known so far.
    """
    return _Search(executable, number, values, states, relative).run()


class _Search:
    def __init__(
        self,
        executable: Executable,
        number: int,
        values: Mapping[int, np.ndarray],
        states: Mapping[str, np.ndarray],
        relative: float,
    ) -> None:
        self._shared = executable.shared
        self._threads = executable.threads
        self._plan, self._number = executable.plan, number
        self._segment = executable.plan.segments[number]
        self._backend = self._shared.backend(self._segment.device)
        self._values, self._states, self._relative = values, states, relative
        self._compiles = 0

    def run(self) -> Culprit:
        stop = self._segment.stop
        body = self._plan.program.main.body
        # A beginning that ends with a view has the results of the one before it.
        cuts = [i + 1 for i in range(self._segment.start, stop) if not get(body[i].op).view]
        good, bad = -1, len(cuts) - 1
        try:
            whole = self._off(stop, self._shared.code(self._number))
            if whole is None:
                remark = "on the interpreter's inputs the segment is right: its memory or its inputs are not"
                return Culprit(None, 0.0, remark)
            distance, anew = whole, False
            if (missing := self._backend.available()) is not None:
                return Culprit(None, distance, f"the segment cannot be searched: {missing}")
            while bad - good > 1:
                middle = (good + bad) // 2
                found = self._off(cuts[middle])
                if found is None:
                    good = middle
                else:
                    bad, distance, anew = middle, found, True
            if not anew:
                found = self._off(stop)
                if found is None:
                    return Culprit(None, distance, "compiled anew and unfolded the segment is right")
                distance = found
        except ForgecError as error:
            first = self._segment.start if good < 0 else cuts[good]
            remark = f"it is one of instructions {first} to {cuts[bad] - 1}: the search ended as {error.what}"
            return Culprit(None, 0.0, remark)
        device, count = self._segment.device, self._compiles
        return Culprit(cuts[bad] - 1, distance, f"found by {count} compiles of beginnings for {device}")

    def _off(self, stop: int, code: bytes | None = None) -> float | None:
        """How far the results of the beginning up to an instruction are off; None if they are right."""
        part = self._beginning(stop)
        if not part.main.results:
            return None
        if code is None:
            self._compiles += 1
            code = self._backend.compile(part, self._shared.constants.once, _ALONE)
        bound = BoundProgram(
            _apart(part, self._segment.device, self._plan.host),
            [part],
            lambda _: code,
            self._shared.constants,
            {name: value.copy() for name, value in self._states.items()},
            self._shared.backend,
            self._threads,
        )
        got = bound.run([self._values[r.id] for r in part.main.params])
        over = (
            excess(self._values[r.id], x, self._relative, self._backend.precision)
            for r, x in zip(part.main.results, got, strict=True)
        )
        return max((x for x in over if x is not None), default=None)

    def _beginning(self, stop: int) -> Program:
        number, whole = self._number, self._segment
        cut = [replace(whole, stop=stop)]
        if stop < whole.stop:
            cut.append(replace(whole, start=stop))
        segments = self._plan.segments
        fine = replace(self._plan, segments=[*segments[:number], *cut, *segments[number + 1 :]])
        return segment_programs(fine)[number]


def _apart(part: Program, device: str, host: str) -> Plan:
    """A plan for one segment alone, in which no two registers share bytes."""
    offsets = {}
    ends = dict.fromkeys((host, device), 0)
    homes = [(host, r) for r in part.main.params]
    homes += [(device, r) for instr in part.main.body if not get(instr.op).view for r in instr.results]
    for place, register in homes:
        offsets[register] = ends[place]
        ends[place] += -(-register.type.nbytes // ALIGNMENT) * ALIGNMENT
    arenas = {name: ArenaPlan(end, end, end, 0, 0) for name, end in ends.items()}
    return Plan(
        part, [Segment(device, 0, len(part.main.body))], offsets, arenas, 0, 0, target=device, host=host
    )
