"""Compile time, side by side: from the same ``nn.Module`` in memory, with the same inputs and threads.

Each tool is warm: imported, and a tiny model of the same family compiled before. Rounds go round-robin over
the tools, in rotating order. Two clocks: until the compile call returns, and until the first outputs are
there. forgec's includes its check against eager PyTorch. Peak memory is measured afterwards, each tool in a
fresh process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import tools
from .client import Worker, WorkerError
from .round_robin import Field, Say, open_field, open_tool, turns, warm_up
from .session import model_label
from .stats import Summary, round_ratios
from .tables import Table, mib, ms, ratio, spread

__all__ = ["MODELS", "NAME", "OWN_PHASES", "TITLE", "measure", "tables"]

NAME = "compile"
TITLE = "Compile time"
MODELS = ("gpt2", "bert-base", "qwen2-0.5b")
OWN_PHASES = ("passes", "lowering", "planning", "executable")
"""forgec's phases other than capture, which is mostly torch.export's time, and the check."""


def measure(
    models: Sequence[str],
    *,
    tokens: int,
    threads: int,
    repeat: int,
    say: Say,
    layers: int | None = None,
    names: Sequence[str] = tools.COMPILERS,
    memory: bool = True,
) -> dict[str, Any]:
    """Milliseconds of every compile by model, tool and round; bytes at the peak if ``memory``."""
    found: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with open_field(names, threads, say) as race:
        failures.update(race.failures)
        for model in models:
            label = model_label(model, layers)
            warm_up(race, model)
            found[label] = _one_model(race, model, tokens, layers, repeat, say)
            lost = {name: f"from {label} on, {why}" for name, why in race.failures.items()}
            failures = {**lost, **failures}
    if memory:
        for model in models:
            label = model_label(model, layers)
            for name in found[label]["tools"]:
                say(f"{label}: memory of {name}")
                found[label]["tools"][name]["memory"] = _peak(name, model, tokens, layers, threads)
    return {"models": found, "failures": failures}


def _one_model(
    race: Field, model: str, tokens: int, layers: int | None, repeat: int, say: Say
) -> dict[str, Any]:
    nbytes: list[int] = []
    race.each(
        lambda name, worker: nbytes.append(worker.call("load", model=model, tokens=tokens, layers=layers))
    )
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in race.workers}

    def act(name: str, worker: Worker) -> None:
        runs[name].append(worker.call("compile"))
        say(f"{model} round {len(runs[name])}/{repeat}: {name} {runs[name][-1]['ms'] / 1000:.2f} s")
        worker.call("release")

    for order in turns(list(race.workers), repeat):
        race.each(act, order)
    return {
        "bytes": nbytes[0] if nbytes else 0,
        "tools": {name: _columns(found) for name, found in runs.items() if len(found) == repeat},
    }


def _columns(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rounds as one list per quantity."""
    return {
        "ms": [round(run["ms"], 1) for run in runs],
        "first_run_ms": [round(run["first_run_ms"], 1) for run in runs],
        "stages": {name: [round(run["stages"][name], 1) for run in runs] for name in runs[0]["stages"]},
    }


def _peak(name: str, model: str, tokens: int, layers: int | None, threads: int) -> dict[str, Any] | None:
    try:
        with open_tool(name, threads) as worker:
            worker.call("load", model=f"{model.removesuffix('-tiny')}-tiny", tokens=16)
            worker.call("compile")
            worker.call("load", model=model, tokens=tokens, layers=layers)
            memory: dict[str, Any] = worker.call("compile_memory")
            return memory
    except WorkerError:
        return None


def tables(data: Mapping[str, Any]) -> list[Table]:
    """Compile times with ratios, and where forgec's time goes."""
    rows, shares, stages = [], [], []
    for label, model in data["models"].items():
        by_tool = model["tools"]
        returned = {name: tool["ms"] for name, tool in by_tool.items()}
        finished = {
            name: [a + b for a, b in zip(tool["ms"], tool["first_run_ms"], strict=True)]
            for name, tool in by_tool.items()
        }
        for name, tool in by_tool.items():
            rows.append((label, name, *_times(name, returned, finished), _memory(tool, model["bytes"])))
            if not name.startswith("forgec"):
                stages.append((label, name, _shares(tool["stages"], tool["ms"])))
        if "forgec" in by_tool:
            shares.append((label, *_phase_row(by_tool["forgec"]["stages"])))
    notes = [f"Without {name}: {reason}." for name, reason in data["failures"].items()]
    return [
        Table(
            "Compile time, measured",
            (
                "model",
                "tool",
                ">median ms",
                ">min - max ms",
                ">over forgec",
                ">min - max over forgec",
                ">until first outputs, ms",
                ">first outputs over forgec",
                ">peak memory over before",
            ),
            rows,
            notes,
        ),
        Table(
            "Phases of forgec, measured, median ms",
            (
                "model",
                ">capture",
                *(f">{name}" for name in OWN_PHASES),
                ">own phases",
                ">check",
                ">own with check",
            ),
            shares,
        ),
        Table("Stages of the others, measured, median ms", ("model", "tool", "stages"), stages),
    ]


def _times(
    name: str, returned: Mapping[str, Sequence[float]], finished: Mapping[str, Sequence[float]]
) -> tuple[str, ...]:
    own = Summary.of(returned[name])
    ended = Summary.of(finished[name])
    cells = [ms(own.median), spread(own.min, own.max)]
    if name == "forgec" or "forgec" not in returned:
        return (*cells, "-", "-", ms(ended.median), "-")
    over = round_ratios(returned, name, "forgec")
    over_finished = round_ratios(finished, name, "forgec")
    return (
        *cells,
        ratio(over.median),
        f"{ratio(over.min)} - {ratio(over.max)}",
        ms(ended.median),
        ratio(over_finished.median),
    )


def _memory(tool: Mapping[str, Any], model_bytes: int) -> str:
    memory = tool.get("memory")
    if not memory:
        return "-"
    extra = memory["peak"] - memory["before"]
    return f"{mib(extra)}, {extra / model_bytes:.2f} x weights"


def _shares(stages: Mapping[str, Sequence[float]], whole: Sequence[float]) -> str:
    total = Summary.of(whole).median
    medians = {name: Summary.of(values).median for name, values in stages.items()}
    return ", ".join(f"{name} {ms(value)} ({value / total:.0%})" for name, value in medians.items())


def _phase_row(stages: Mapping[str, Sequence[float]]) -> tuple[str, ...]:
    """Medians by phase; the sums are medians of sums, so they need not add up."""
    whole = [sum(values) for values in zip(*stages.values(), strict=True)]
    total = Summary.of(whole).median

    def cell(*phases: str) -> str:
        values = [sum(parts) for parts in zip(*(stages[name] for name in phases), strict=True)]
        median = Summary.of(values).median
        return f"{ms(median)} ({median / total:.0%})"

    return (
        cell("capture"),
        *(cell(name) for name in OWN_PHASES),
        cell(*OWN_PHASES),
        cell("check"),
        cell(*OWN_PHASES, "check"),
    )
