"""Is the estimated Fusion Gain Ratio the measured one?

FGR = cost(fusion 0) / cost(fusion 1) in the cost model (Forge-UGC, arXiv 2604.16498). Here the same two
programs also run, taking turns, so that both sides of the ratio are measured too, and the cost model's
absolute latencies beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .client import Worker, WorkerError
from .round_robin import Say
from .session import model_inputs, model_label
from .stats import Summary
from .tables import Table, ms

if TYPE_CHECKING:
    import numpy as np

    from forgec import Executable

__all__ = ["MODELS", "NAME", "TITLE", "Fusion", "measure", "tables"]

NAME = "fusion"
TITLE = "Fusion gain, estimated and measured"
MODELS = ("gpt2", "bert-base", "minilm", "qwen2-0.5b")
LEVELS = (0.0, 1.0)


class Fusion:
    """What the worker serves: one model compiled at both levels."""

    def __init__(self) -> None:
        self._executables: list[Executable] = []
        self._inputs: list[np.ndarray] = []

    def load(self, model: str, tokens: int, layers: int | None, attn: str, threads: int) -> None:
        """Compile a model with fusion 0 and 1."""
        import torch

        import forgec
        from forgec import models

        torch.set_num_threads(threads)
        loaded = models.load(model, layers=layers, attn=attn)
        inputs = model_inputs(loaded, tokens, 0)
        self._executables = [forgec.compile(loaded.module, (), inputs, fusion=level) for level in LEVELS]
        self._inputs = self._executables[0].signature.flatten((), inputs)

    def estimate(self, calibration: dict[str, Any] | None) -> list[float]:
        """Microseconds of each in a cost model; the default calibration if None."""
        from forgec.plan.cost import CostModel

        cost = CostModel.load() if calibration is None else CostModel.from_json(calibration)
        return [cost.program_cost(executable.plan.program) for executable in self._executables]

    def instructions(self) -> list[int]:
        """Instructions of each."""
        return [len(executable.plan.program.main.body) for executable in self._executables]

    def run(self, rounds: int) -> list[list[float]]:
        """Milliseconds of ``rounds`` runs of each, in turn, after one to warm up; one pair per round."""
        for executable in self._executables:
            executable.run_flat(self._inputs)
        return [[self._timed(executable) for executable in self._executables] for _ in range(rounds)]

    def _timed(self, executable: Executable) -> float:
        start = perf_counter()
        executable.run_flat(self._inputs)
        return (perf_counter() - start) * 1000


def measure(
    models: Sequence[str],
    *,
    tokens: int,
    threads: int,
    rounds: int,
    say: Say,
    layers: int | None = None,
    attentions: Sequence[str] = ("sdpa", "eager"),
    calibration: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Estimates and latencies by model and attention implementation."""
    cases: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for model in models:
        for attn in attentions:
            label = model_label(model, layers)
            say(f"{label}, {attn}")
            try:
                with Worker(Fusion, threads) as worker:
                    worker.call("load", model=model, tokens=tokens, layers=layers, attn=attn, threads=threads)
                    pairs = worker.call("run", rounds=rounds)
                    estimates = worker.call("estimate", calibration=calibration)
                    counts = worker.call("instructions")
            except WorkerError as error:
                failures[f"{label}, {attn}"] = str(error).splitlines()[0]
                continue
            cases.append({"label": label, "attn": attn, "instructions": counts, **_summary(pairs, estimates)})
    return {"cases": cases, "failures": failures, "calibration": _source(calibration)}


def _summary(pairs: Sequence[Sequence[float]], estimates: Sequence[float]) -> dict[str, Any]:
    unfused, fused = zip(*pairs, strict=True)
    return {
        "estimated_ms": [round(us / 1000, 4) for us in estimates],
        "measured_ms": [Summary.of(unfused).to_dict(), Summary.of(fused).to_dict()],
        "fgr_estimated": round(estimates[0] / estimates[1], 4),
        "fgr_measured": Summary.of([a / b for a, b in pairs]).to_dict(),
    }


def _source(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        from forgec.plan.cost import CostModel

        calibration = CostModel.load().to_json()
    return f"{calibration['machine']}, {calibration['date']}, {calibration['method']}"


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Both ratios, and both latencies."""
    rows = []
    for case in data["cases"]:
        gain = case["fgr_measured"]
        times = [
            f"{ms(estimate)} / {ms(measured['median'])}"
            for estimate, measured in zip(case["estimated_ms"], case["measured_ms"], strict=True)
        ]
        rows.append(
            (
                case["label"],
                case["attn"],
                " -> ".join(map(str, case["instructions"])),
                f"{case['fgr_estimated']:.3f}",
                f"{gain['median']:.3f}",
                f"{100 * (case['fgr_estimated'] / gain['median'] - 1):+.0f} %",
                *times,
            )
        )
    notes = [
        f"FGR = cost(fusion 0) / cost(fusion 1). Cost model: {data['calibration']}. Measured ratios are the "
        "medians of ratios within a round."
    ]
    notes += [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    return [
        Table(
            "Fusion Gain Ratio and latencies, estimated and measured",
            (
                "model",
                "attention",
                ">instructions",
                ">FGR estimated",
                ">FGR measured",
                ">error",
                ">fusion 0 ms, estimated / measured",
                ">fusion 1 ms, estimated / measured",
            ),
            rows,
            notes,
        )
    ]
