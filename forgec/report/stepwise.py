"""Run an executable one host instruction at a time: a profile by instruction, and the first that goes wrong.

The program is bound as the executable itself binds it, with the same plan, addresses, constants and backends,
but every instruction on the host device is a segment of its own with a hook around its steps; a segment on
another device stays whole. So what is timed or compared is what a run does, planned memory included; for what
goes wrong inside of a segment see :mod:`.inside`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from forgec.backends.base import Answer, Backend, Memory, Step

from ..executable.executable import Executable
from ..executable.run import BoundProgram
from ..executable.segments import segment_programs
from ..ir.interpreter import Interpreter
from ..ir.op import get
from ..ir.printer import format_instr
from ..ir.program import Instr, Leaf, Program
from ..plan.plan import Plan, Segment
from .inside import culprit, excess

__all__ = ["Divergence", "StepTime", "first_divergence", "interpret", "profile"]

Hook = Callable[[Program, list[Step], Memory], list[Step]]


@dataclass(frozen=True)
class StepTime:
    """Median milliseconds per run of one instruction, or of a segment off the host, measured."""

    op: str
    device: str
    ms: float


@dataclass(frozen=True)
class Divergence:
    """The first instruction whose result differs from the interpreter's; ``index`` counts from 0.

    ``remark`` says how it was found where its segment runs as a whole, or why only a result of that is named.
    """

    index: int
    instr: Instr
    max_abs: float
    remark: str = ""

    def __str__(self) -> str:
        source = f"  # {self.instr.source}" if self.instr.source else ""
        return f"instruction {self.index}: {format_instr(self.instr)}{source}"


def profile(executable: Executable, inputs: Sequence[np.ndarray], repeat: int) -> list[StepTime]:
    """Time of every instruction that runs code, in execution order; ``repeat`` runs after one to warm up.

    ``inputs`` are arrays of the signature's types in its order.
    """
    clocks: list[tuple[Program, list[float]]] = []

    def hook(segment: Program, steps: list[Step], memory: Memory) -> list[Step]:
        times: list[float] = []
        clocks.append((segment, times))
        start = 0.0

        def begin() -> None:
            nonlocal start
            start = perf_counter()

        return [begin, *steps, lambda: times.append(perf_counter() - start)]

    bound = _bind(executable, hook)
    for _ in range(repeat + 1):
        bound.run(inputs)
    return [_step_time(segment, times[1:], executable.plan.host) for segment, times in clocks]


def first_divergence(
    executable: Executable, inputs: Sequence[np.ndarray], bound_max_abs: float
) -> Divergence | None:
    """The first instruction with a result further from the interpreter's than the bound allows, if any.

    The bound is absolute for results below 1 and relative to the largest element above. Each result is read
    right after its instruction, before its place is reused. Needs memory for all intermediate results. A
    segment off the host with a wrong result is compiled again in parts, to name the instruction inside of it.
    """
    plan, backend = executable.plan, executable.shared.backend
    main = plan.program.main
    expected = {r.id: value for r, value in zip(main.params, inputs, strict=True)}

    def keep(path: str, instr: Instr, results: tuple[np.ndarray, ...]) -> None:
        if get(instr.op).view:  # perhaps of a state, which changes
            results = tuple(value.copy() for value in results)
        expected.update((r.id, value) for r, value in zip(instr.results, results, strict=True))

    interpret(executable, inputs, observe=keep)
    found: list[Divergence] = []
    index = {id(instr): i for i, instr in enumerate(main.body)}

    def hook(segment: Program, steps: list[Step], memory: Memory) -> list[Step]:
        def compare() -> None:
            if found:
                return
            for register in segment.main.results:
                instr = next(instr for instr in segment.main.body if register in instr.results)
                precision = backend(instr.device or plan.host).precision
                distance = excess(expected[register.id], memory(register), bound_max_abs, precision)
                if distance is not None:
                    found.append(Divergence(index[id(instr)], instr, distance))
                    return

        return [*steps, compare]

    _bind(executable, hook).run(inputs)
    if not found or (found[0].instr.device or plan.host) == plan.host:
        return found[0] if found else None
    number = next(i for i, segment in enumerate(plan.segments) if segment.stop > found[0].index)
    inside = culprit(executable, number, expected, _initial_states(executable), bound_max_abs)
    if inside.index is None:
        return replace(found[0], remark=inside.remark)
    return Divergence(inside.index, main.body[inside.index], inside.max_abs, inside.remark)


def interpret(
    executable: Executable,
    inputs: Sequence[np.ndarray],
    observe: Callable[[str, Instr, tuple[np.ndarray, ...]], None] | None = None,
) -> list[np.ndarray]:
    """Outputs of the executable's planned program in the reference interpreter, on its stored constants."""
    program = executable.plan.program
    constants = {name: replace(c, recipe=Leaf(name, c.type)) for name, c in program.constants.items()}
    arrays, initial = executable.shared.constants, executable.shared.initial
    interpreter = Interpreter(
        replace(program, constants=constants), lambda name: arrays.get(program.constants[name]), initial
    )
    return interpreter.run(inputs, observe=observe)


def _bind(executable: Executable, hook: Hook) -> BoundProgram:
    shared = executable.shared
    plan = shared.plan
    pieces: list[tuple[Segment, int | None]] = []
    for number, segment in enumerate(plan.segments):
        if segment.device == plan.host:
            pieces += [(Segment(plan.host, i, i + 1), None) for i in range(segment.start, segment.stop)]
        else:
            pieces.append((segment, number))
    fine: Plan = replace(plan, segments=[segment for segment, _ in pieces])
    programs = segment_programs(fine)

    def code(index: int) -> bytes:
        number = pieces[index][1]
        if number is not None:
            return shared.code(number)
        return shared.backend(plan.host).compile(programs[index], shared.constants.once)

    return BoundProgram(
        fine,
        programs,
        code,
        shared.constants,
        _initial_states(executable),
        lambda device: _Hooked(shared.backend(device), hook),
        executable.threads,
    )


class _Hooked(Backend):
    """A backend whose segments get other steps."""

    def __init__(self, inner: Backend, hook: Hook) -> None:
        self.name = inner.name
        self._inner, self._hook = inner, hook

    def available(self) -> str | None:
        return self._inner.available()

    def runnable(self) -> str | None:
        return self._inner.runnable()

    def supports(self, instr: Instr) -> Answer:
        return self._inner.supports(instr)

    def load(self, segment: Program, code: bytes, memory: Memory) -> list[Step]:
        return self._hook(segment, self._inner.load(segment, code, memory), memory)


def _initial_states(executable: Executable) -> dict[str, np.ndarray]:
    types = executable.plan.program.states
    states = {name: np.zeros(t.shape, t.dtype.numpy) for name, t in types.items()}
    for name, value in executable.shared.initial.items():
        states[name][...] = value
    return states


def _step_time(segment: Program, seconds: list[float], host: str) -> StepTime:
    first = segment.main.body[0]
    device = first.device or host
    return StepTime(first.op if device == host else "segment", device, float(np.median(seconds)) * 1000)
