"""Where the time of a run goes: every kernel of every thread, timed by the runtime itself.

The program is bound as a call binds it and runs at full speed; the runtime reads a clock before and after
each kernel on each thread, some 50 ns a time. Of several runs the fastest is kept. What no thread spends in
a kernel (barriers between kernels, copies of inputs and outputs) is the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from forgec.backends.base import Span, Step

from ..executable.executable import Executable
from ..executable.run import BoundProgram
from ..ir.printer import format_instr
from ..ir.program import Instr
from ..plan.cost import work
from .trace import bar

__all__ = ["KernelTime", "RunTrace", "chrome_trace", "summary", "trace"]


@dataclass(frozen=True)
class RunTrace:
    """One run from ``begin_ns`` to ``end_ns``, with what its threads did in execution order, measured."""

    begin_ns: int
    end_ns: int
    spans: list[Span]
    threads: int

    @property
    def ms(self) -> float:
        return (self.end_ns - self.begin_ns) / 1e6


@dataclass(frozen=True)
class KernelTime:
    """All kernels of one op and shape in a run.

    ``ms`` is wall time: of each kernel from its first thread's begin to its last one's end. ``waited_ms`` is
    the part that a thread, on average, spent waiting inside it or had finished before the others.
    ``gflops`` counts multiply and add, ``gbytes`` what the kernel must touch, both per second of ``ms``.
    """

    op: str
    what: str
    count: int
    ms: float
    waited_ms: float
    gflops: float
    gbytes: float
    kind: str = "measured"


def trace(executable: Executable, inputs: Sequence[np.ndarray], repeat: int) -> RunTrace:
    """The fastest of ``repeat`` runs after one to warm up; ``inputs`` in order of the signature."""
    shared = executable.shared
    states = {name: np.zeros(t.shape, t.dtype.numpy) for name, t in shared.plan.program.states.items()}
    bound = BoundProgram(
        shared.plan,
        shared.segments,
        shared.code,
        shared.constants,
        states,
        shared.backend,
        executable.threads,
    )
    runs: list[RunTrace] = []
    for _ in range(repeat + 1):
        for name, state in states.items():
            state[...] = shared.initial.get(name, 0)
        spans: list[Span] = []

        def call(step: Step, spans: list[Span] = spans) -> None:
            traced = getattr(step, "trace", None)
            if traced is None:
                step()
            else:
                spans += traced()

        begin = perf_counter_ns()
        bound.run(inputs, call)
        threads = 1 + max((span.thread for span in spans), default=0)
        runs.append(RunTrace(begin, perf_counter_ns(), spans, threads))
    return min(runs[1:], key=lambda run: run.ms)


def summary(run: RunTrace) -> list[KernelTime]:
    """Kernels by op and shape, the longest first."""
    groups: dict[tuple[str, str], list[tuple[Instr, list[Span]]]] = {}
    for instr, spans in _by_instruction(run.spans):
        groups.setdefault((instr.op, _what(instr)), []).append((instr, spans))
    rows = []
    for (op, what), kernels in groups.items():
        wall = busy = flops = nbytes = 0.0
        for instr, spans in kernels:
            wall += _wall_ns(spans)
            busy += sum(s.end_ns - s.begin_ns - s.waited_ns for s in spans)
            needed = work(instr)
            if needed is not None:
                flops += needed.flops
                nbytes += needed.nbytes
        waited = max(0.0, wall - busy / run.threads)
        per_ns = max(wall, 1.0)
        rows.append(
            KernelTime(op, what, len(kernels), wall / 1e6, waited / 1e6, flops / per_ns, nbytes / per_ns)
        )
    return sorted(rows, key=lambda row: -row.ms)


def chrome_trace(run: RunTrace, name: str) -> dict[str, Any]:
    """The run as JSON data for chrome://tracing, a row per thread; microseconds from its start."""
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": 1, "tid": 1, "args": {"name": f"forgec run {name}"}}
    ]
    for span in run.spans:
        arguments = {"instruction": format_instr(span.instr), "waited us": span.waited_ns / 1000}
        start, length = (span.begin_ns - run.begin_ns) / 1000, (span.end_ns - span.begin_ns) / 1e6
        events.append(bar(span.instr.op, "kernel", start, length, arguments, span.thread + 1))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _by_instruction(spans: Iterable[Span]) -> list[tuple[Instr, list[Span]]]:
    found: dict[int, tuple[Instr, list[Span]]] = {}
    for span in spans:
        found.setdefault(id(span.instr), (span.instr, []))[1].append(span)
    return list(found.values())


def _wall_ns(spans: Sequence[Span]) -> int:
    """Nanoseconds that at least one thread was in the instruction: one step after the other."""
    total, reached = 0, 0
    for span in sorted(spans, key=lambda s: s.begin_ns):
        total += max(0, span.end_ns - max(span.begin_ns, reached))
        reached = max(reached, span.end_ns)
    return total


def _what(instr: Instr) -> str:
    """Types of operands and the activation, as short as they still tell kernels apart."""
    types: list[Any] = [getattr(x, "type", None) for x in instr.operands]
    shapes = " ".join("x".join(map(str, t.shape)) for t in types if t is not None and t.shape)
    act = instr.attrs.get("act")
    return f"{shapes} {act}" if act else shapes
