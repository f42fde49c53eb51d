"""How forgec's own phases grow with the depth of the model: times, and calls counted.

The model is a narrow Llama, so that weights cost nothing and what is left is the compiler. Times are the
lowest of several rounds. Beside them stands the number of Python function calls of each phase, which no busy
machine can disturb: it comes from one more compile under a profiler.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from .client import Worker
from .compile_time import OWN_PHASES
from .round_robin import Say, turns
from .stats import growth_exponent, slope_ratio
from .tables import Table, ms

if TYPE_CHECKING:
    from forgec.models import LoadedModel

__all__ = ["DEPTHS", "MODEL", "NAME", "TITLE", "Scaling", "measure", "tables"]

NAME = "scaling"
TITLE = "Growth with depth"
MODEL = "llama-3.2-1b-tiny"
DEPTHS = (24, 48, 96)
MODES = ("blocks", "full")
PHASES = ("capture", *OWN_PHASES, "check")


class Scaling:
    """What the worker serves."""

    def __init__(self) -> None:
        self._models: dict[int, LoadedModel] = {}

    def load(self, model: str, depths: Sequence[int], threads: int) -> None:
        """Put the model in memory at every depth, and compile once to warm up."""
        import torch

        from forgec import models

        torch.set_num_threads(threads)
        self._models = {depth: models.load(model, layers=depth) for depth in depths}
        self.compile(min(depths), "blocks", 16)

    def compile(self, depth: int, mode: str, tokens: int) -> dict[str, float]:
        """Milliseconds by phase of one compile, and what it made."""
        report = self._compile(depth, mode, tokens, None)
        return {
            **{phase.name: phase.ms for phase in report.phases},
            "instructions": report.graph.instructions,
            "nodes": report.graph.nodes_captured,
        }

    def calls(self, depth: int, mode: str, tokens: int) -> dict[str, int]:
        """Calls of Python functions by phase of one compile."""
        with counted_calls() as counter:
            self._compile(depth, mode, tokens, lambda name, done, of: counter.begin(name))
        return {name: counter.calls[name] for name in PHASES}

    def _compile(self, depth: int, mode: str, tokens: int, progress: Any) -> Any:
        import forgec

        model = self._models[depth]
        inputs = model.example_inputs(tokens=tokens)[1]
        gc.collect()
        return forgec.compile(model.module, (), inputs, capture=mode, progress=progress).report


class CallCounter:
    """Counts by phase; a phase lasts until the next begins."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self._phase = ""

    def begin(self, phase: str) -> None:
        self._phase = phase
        self.calls.setdefault(phase, 0)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and self._phase:
            self.calls[self._phase] += 1


@contextmanager
def counted_calls() -> Iterator[CallCounter]:
    """Count the calls of Python functions in this thread during the ``with`` block."""
    counter = CallCounter()
    sys.setprofile(counter)
    try:
        yield counter
    finally:
        sys.setprofile(None)


def measure(
    *,
    model: str = MODEL,
    depths: Sequence[int] = DEPTHS,
    modes: Sequence[str] = MODES,
    tokens: int,
    threads: int,
    repeat: int,
    say: Say,
) -> dict[str, Any]:
    """Lowest milliseconds and calls by capture mode, depth and phase."""
    found: dict[str, Any] = {mode: {} for mode in modes}
    with Worker(Scaling, threads) as worker:
        worker.call("load", model=model, depths=list(depths), threads=threads)
        for mode in modes:
            runs: dict[int, list[dict[str, float]]] = {depth: [] for depth in depths}
            for number, order in enumerate(turns([str(depth) for depth in depths], repeat)):
                for depth in map(int, order):
                    runs[depth].append(worker.call("compile", depth=depth, mode=mode, tokens=tokens))
                say(f"{mode} round {number + 1}/{repeat}")
            for depth in depths:
                counted = worker.call("calls", depth=depth, mode=mode, tokens=tokens)
                found[mode][str(depth)] = _summary(runs[depth], counted)
                say(f"{mode}, {depth} layers: own phases {found[mode][str(depth)]['ms']['own']:.0f} ms")
    return {"model": model, "modes": found}


def _summary(runs: Sequence[Mapping[str, float]], counted: Mapping[str, int]) -> dict[str, Any]:
    """The lowest of each phase; ``own`` is the lowest sum of one run, not the sum of the lowest."""
    least = {name: round(min(run[name] for run in runs), 2) for name in PHASES}
    own = round(min(sum(run[name] for name in OWN_PHASES) for run in runs), 2)
    return {
        "ms": {**least, "own": own},
        "calls": {**counted, "own": sum(counted[name] for name in OWN_PHASES)},
        "instructions": int(runs[0]["instructions"]),
        "nodes": int(runs[0]["nodes"]),
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One table of times and one of calls, with the growth exponents."""
    names = (*PHASES, "own")
    return [
        Table(
            f"{data['model']} by depth: {title}",
            ("capture by", ">layers", ">nodes", ">instructions", *(f">{_heading(name)}" for name in names)),
            [row for mode, depths in data["modes"].items() for row in _rows(mode, depths, kind, names)],
            notes,
        )
        for kind, title, notes in (
            ("ms", "lowest ms, measured", [_NOTE]),
            ("calls", "calls of Python functions, counted", [_CALLS_NOTE]),
        )
    ]


_NOTE = (
    "The exponent k is the slope in log(value) = k log(layers) + c: 1 grows as the layers do, 2 would be "
    "quadratic. Own phases are " + ", ".join(OWN_PHASES) + "."
)
_CALLS_NOTE = (
    "Slope ratio: calls per layer between the last two depths over those between the first two. 1 is linear "
    "whatever the fixed cost."
)


def _heading(name: str) -> str:
    return "own phases" if name == "own" else name


def _rows(mode: str, depths: Mapping[str, Any], kind: str, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for depth, values in depths.items():
        cells = [ms(values[kind][name]) if kind == "ms" else str(values[kind][name]) for name in names]
        yield mode, depth, str(values["nodes"]), str(values["instructions"]), *cells
    if len(depths) > 1:
        sizes = [int(depth) for depth in depths]
        growth = [growth_exponent(sizes, [v[kind][name] for v in depths.values()]) for name in names]
        yield mode, "exponent", "", "", *(f"{k:.2f}" for k in growth)
    if len(depths) > 2 and kind == "calls":
        slopes = [slope_ratio(sizes, [v[kind][name] for v in depths.values()]) for name in names]
        yield mode, "slope ratio", "", "", *(f"{x:.2f}" for x in slopes)
