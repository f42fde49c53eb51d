"""Fit the cost model to this machine: every kernel of the CPU backend over a grid of shapes.

The kernels are timed one after the other in a worker, alone; the fit is ``forgec.plan.cost.fit``. The result
is a calibration that forgec can use, and how far it is from the samples it was fitted on. What it is worth
for whole programs is the business of the ``fusion`` benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import machine
from .client import Worker
from .results import dump
from .round_robin import Say
from .stats import Summary
from .tables import Table

if TYPE_CHECKING:
    from forgec.ir.program import Instr
    from forgec.plan.cost import CostModel

__all__ = ["NAME", "TITLE", "Calibration", "errors", "measure", "rounded", "tables", "text"]

NAME = "calibrate"
TITLE = "Calibration of the cost model"
_DIGITS = 4
"""Significant digits of a rate; more than the timing has."""


class Calibration:
    """What the worker serves: it keeps the samples until they are fitted."""

    def __init__(self) -> None:
        self._samples: list[tuple[Instr, float]] = []

    def kernels(self) -> str:
        """The instruction set of the kernels, or what runs in their place."""
        from forgec.backends.cpu.backend import runtime
        from forgec.backends.cpu.native import isa

        return isa() if runtime() == "native" else "numpy"

    def ops(self) -> dict[str, int]:
        """The ops of the grid, with their number of cases."""
        from .grid import cases

        found: dict[str, int] = {}
        for case in cases():
            found[case.op] = found.get(case.op, 0) + 1
        return found

    def time(self, op: str, every: int, seed: int) -> int:
        """Time every ``every``-th case of an op; the answer is how many the backend runs."""
        import numpy as np

        from forgec import backends

        from .grid import cases
        from .kernel_time import time_case

        backend = backends.get("cpu")
        rng = np.random.default_rng(seed)
        timed = [time_case(case, backend, rng) for case in [c for c in cases() if c.op == op][::every]]
        found = [sample for sample in timed if sample is not None]
        self._samples += found
        return len(found)

    def fit(self, machine: str, date: str) -> dict[str, Any]:
        """The calibration as JSON data, and its errors by family and op."""
        from forgec.plan.cost import fit

        model = fit(self._samples, machine=machine, date=date)
        return {"calibration": model.to_json(), "errors": errors(model, self._samples)}


def errors(model: CostModel, samples: Iterable[tuple[Instr, float]]) -> dict[str, Any]:
    """Relative errors of a model on samples, abs(estimate - measured) / measured, summarised by family."""
    from forgec.plan.cost import family

    by_family: dict[str, list[float]] = {}
    for instr, measured in samples:
        error = abs(model.instr_cost(instr) - measured) / measured
        by_family.setdefault(family(instr.op), []).append(error)
    return {name: Summary.of(values).to_dict() for name, values in by_family.items()}


def measure(*, threads: int, say: Say, every: int = 1, seed: int = 0) -> dict[str, Any]:
    """Time the grid and fit; the data has the ``calibration`` and its ``errors``."""
    with Worker(Calibration, threads) as worker:
        ops = worker.call("ops")
        for number, (op, count) in enumerate(ops.items()):
            timed = worker.call("time", op=op, every=every, seed=seed)
            say(f"{number + 1}/{len(ops)} {op}: {timed} of {count} cases")
        name = f"{machine.cpu_model()}, {threads} threads, {worker.call('kernels')} kernels"
        data: dict[str, Any] = worker.call("fit", machine=name, date=date.today().isoformat())
    data["calibration"] = rounded(data["calibration"])
    return data


def text(data: Mapping[str, Any]) -> str:
    """The calibration as a file that ``CostModel.load`` reads, one line per op."""
    return dump(data["calibration"]) + "\n"


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Error of the fit by family, and the families' rates."""
    calibration = data["calibration"]
    rates = calibration["rates"]
    rows = [
        (
            name,
            str(error["count"]),
            *(f"{100 * error[key]:.0f} %" for key in ("median", "p90", "max")),
            *_rates(rates[name]),
        )
        for name, error in data["errors"].items()
    ]
    return [
        Table(
            "Cost model fitted on timed kernels: errors measured, rates fitted",
            (
                "family",
                ">kernels",
                ">median error",
                ">p90",
                ">max",
                ">GFLOP/s",
                ">GB/s",
                ">us per call",
            ),
            rows,
            [
                f"{calibration['samples']} kernels, median error {100 * calibration['error']:.0f} %, "
                f"{len(rates)} sets of rates; {calibration['machine']}, {calibration['date']}. A dash marks "
                "what limits no kernel of the family."
            ],
        )
    ]


def _rates(rates: Mapping[str, float]) -> Sequence[str]:
    speeds = [rates["flops_per_us"], rates["bytes_per_us"]]
    return (*("-" if x >= 1e9 else f"{x / 1000:.1f}" for x in speeds), f"{rates['overhead_us']:.1f}")


def rounded(value: Any) -> Any:
    """JSON data with as many digits as the samples are worth."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return value


def load(path: Path) -> dict[str, Any]:
    """A calibration file as JSON data."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
