"""Latency, side by side, and what it says about the compile: the Compilation Efficiency Index.

Every tool compiles the model in its own worker. Then they take turns: one run to warm up, a burst of timed
runs, a pause in which its threads stop spinning. Each tool's outputs are compared with eager PyTorch's, so
that nobody is fast by computing something else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import tools
from .cei import attach_cei, cei_rows
from .client import Worker
from .round_robin import Field, Say, open_field, turns, warm_up
from .session import model_label
from .stats import Summary, round_ratios
from .tables import Table, ms, ratio

if TYPE_CHECKING:
    from forgec.report.report import Report

__all__ = ["MODELS", "NAME", "TITLE", "measure", "tables"]

NAME = "latency"
TITLE = "Latency and compilation efficiency"
MODELS = ("gpt2", "bert-base", "minilm")

_PAUSE_S = 0.3
"""Longer than any tool's threads spin after their last job (0.2 s for OpenMP as Intel ships it)."""


def measure(
    models: Sequence[str],
    *,
    tokens: int | None,
    threads: int,
    rounds: int,
    burst: int,
    say: Say,
    layers: int | None = None,
    batch: int = 1,
    names: Sequence[str] = ("forgec", *tools.BASELINES, tools.YARDSTICK),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, Any], list[Report]]:
    """Summaries of ``rounds`` x ``burst`` runs by model and tool, and forgec's reports with the index in.

    The first of ``names`` is what the others are compared with. ``shapes`` are of an ONNX file's inputs.
    """
    found: dict[str, Any] = {}
    reports: list[Report] = []
    for model in models:
        label = model_label(model, layers, batch)
        # Fresh workers for every model: no tool keeps memory or compiled code of the one before.
        with open_field(names, threads, say) as race:
            warm_up(race, model)
            found[label], report = _one_model(
                race, names[0], model, tokens, layers, batch, shapes, rounds, burst, say
            )
            if report is not None:
                reports.append(report)
    return {"models": found}, reports


def _one_model(
    race: Field,
    ours: str,
    model: str,
    tokens: int | None,
    layers: int | None,
    batch: int,
    shapes: Mapping[str, Sequence[int]] | None,
    rounds: int,
    burst: int,
    say: Say,
) -> tuple[dict[str, Any], Report | None]:
    compiled: dict[str, dict[str, Any]] = {}
    differences: dict[str, float | None] = {}
    documents: dict[str, str | None] = {}

    def prepare(name: str, worker: Worker) -> None:
        say(f"{model}: {name} compiles")
        worker.call("load", model=model, tokens=tokens, layers=layers, batch=batch, shapes=shapes)
        compiled[name] = worker.call("compile")
        differences[name] = worker.call("difference")
        documents[name] = worker.call("report")

    race.each(prepare)
    bursts: dict[str, list[list[float]]] = {name: [] for name in race.workers}

    def run(name: str, worker: Worker) -> None:
        bursts[name].append(worker.call("run", count=burst))
        say(
            f"{model} round {len(bursts[name])}/{rounds}: {name} {Summary.of(bursts[name][-1]).median:.1f} ms"
        )
        time.sleep(_PAUSE_S)

    for order in turns(list(race.workers), rounds):
        race.each(run, order)
    whole = {name: found for name, found in bursts.items() if len(found) == rounds}
    medians = {name: [Summary.of(times).median for times in found] for name, found in whole.items()}
    data: dict[str, Any] = {"ours": ours, "tools": {}, "failures": dict(race.failures), "cei": []}
    for name, found in whole.items():
        data["tools"][name] = {
            "latency_ms": Summary.of([t for times in found for t in times]).to_dict(),
            "over_forgec": round_ratios(medians, name, ours).to_dict() if ours in medians else None,
            "compile_ms": round(compiled[name]["ms"], 1),
            "max_abs": differences[name],
            "rows_per_s": round(1000 * batch / Summary.of([t for ts in found for t in ts]).median, 3),
        }
    text = documents.get(ours)
    if text is None or ours not in whole:
        return data, None
    report = _with_cei(text, data["tools"], ours)
    data["cei"] = cei_rows(report)
    return data, report


def _with_cei(text: str, by_tool: Mapping[str, Any], ours: str) -> Report:
    """forgec's report with the index against every other tool, from the medians of per-round ratios."""
    from forgec.report.report import Report

    forgec_ms = by_tool[ours]["latency_ms"]["median"]
    baselines = {
        name: tool["over_forgec"]["median"] * forgec_ms
        for name, tool in by_tool.items()
        if name not in (ours, tools.YARDSTICK)
    }
    compile_s = by_tool[ours]["compile_ms"] / 1000
    return attach_cei(Report.from_json(text), forgec_ms, baselines, compile_s=compile_s)


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Latencies with ratios, and the index."""
    rows, indices, notes = [], [], []
    for label, model in data["models"].items():
        for name, tool in model["tools"].items():
            t, over = tool["latency_ms"], tool["over_forgec"]
            compile_ms = ms(tool["compile_ms"]) if name not in ("eager", tools.YARDSTICK) else "-"
            rows.append(
                (
                    label,
                    name,
                    *(ms(t[key]) for key in ("min", "median", "p90", "p99")),
                    f"{t['p99'] / t['median']:.2f}",
                    ratio(over["median"]) if over and name != model.get("ours", "forgec") else "-",
                    compile_ms,
                    f"{tool['rows_per_s']:.4g}",
                    "-" if tool["max_abs"] is None else f"{tool['max_abs']:.1e}",
                )
            )
        for row in model["cei"]:
            cells = (ratio(row["latency_ratio"]), f"{row['compile_s']:.2f}", f"{row['cei']:.3f}")
            indices.append((label, row["baseline"], *cells))
        notes += [f"{label} without {name}: {reason}." for name, reason in model["failures"].items()]
    return [
        Table(
            "Latency, measured, ms",
            (
                "model",
                "tool",
                ">min",
                ">p50",
                ">p90",
                ">p99",
                ">p99 / p50",
                ">p50 over forgec's",
                ">compile ms",
                ">sequences per s",
                ">max abs from eager",
            ),
            rows,
            notes,
        ),
        Table(
            "Compilation Efficiency Index, from measured latencies",
            ("model", "baseline B", ">L_B / L_forge", ">T_compile s", ">CEI per s"),
            indices,
            ["CEI_B = (L_B / L_forge) / T_compile: latency speed-up over B per second that forgec compiled."],
        ),
    ]
