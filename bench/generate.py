"""Tokens per second of language models: forgec, OpenVINO GenAI and llama.cpp, prompt and continuation.

All tools get the same weights, rounded by their own means to the same precision class, the same prompt of
token ids and the same number of threads. Each has a process of its own that keeps the model; they take
turns. A decode step reads all weights once, so the read bandwidth is its limit. It is measured right before
and after each of forgec's turns, because that of a shared machine changes within seconds, and shares are
taken within a round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .client import Worker, WorkerError
from .generating import Generating, Preparing
from .gguf_file import QUANTISATIONS
from .round_robin import Say, turns
from .session import model_label
from .stats import Summary, round_ratios
from .tables import Table, mib, ratio

__all__ = ["MODELS", "NAME", "RATES", "TITLE", "measure", "race", "rate_cells", "tables"]

NAME = "generate"
TITLE = "Language models: tokens per second"
MODELS = ("llama-3.2-1b",)
RATES = (">prefill tokens/s", ">forgec is", ">decode tokens/s", ">forgec is")
"""Columns of rates, and of forgec's over a peer's in the same round."""
_TOOLS = ("forgec", "openvino", "llama.cpp")


def measure(
    models: Sequence[str],
    *,
    weights: Sequence[str],
    prompt: int,
    tokens: int,
    threads: int,
    rounds: int,
    layers: int | None,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Rates by model and format; files are written to ``folder`` where they are not there from before."""
    found, failures = {}, {}
    for model in models:
        for kind in weights:
            label = f"{model_label(model, layers)}, {kind}"
            files, made = _files(model, layers, kind, prompt, tokens, folder, threads, say)
            found[label], failed = race(files, prompt, tokens, threads, rounds, say)
            found[label]["compile"] = made
            failures.update({f"{label}, {tool}": reason for tool, reason in failed.items()})
    return {"models": found, "failures": failures}


def _files(
    model: str,
    layers: int | None,
    weights: str,
    prompt: int,
    tokens: int,
    folder: Path,
    threads: int,
    say: Say,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Each tool's file, made unless it is there from before, and what forgec's compile took then."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{model}-{layers or 'all'}-{weights}".replace(":", "-")
    kind = weights.partition(":")[0]
    ours = folder / f"{stem}-{prompt}-{tokens}.forge"
    theirs = folder / f"{model}-{layers or 'all'}-{QUANTISATIONS[kind]}.gguf"
    record = ours.with_suffix(".json")
    if not record.exists():
        with Worker(Preparing, threads) as worker:
            say(f"{stem}: compiling")
            chosen: dict[str, Any] = {"model": model, "layers": layers, "weights": weights}
            made = worker.call("forgec", **chosen, context=prompt + tokens, chunk=prompt, path=str(ours))
            record.write_text(json.dumps(made), encoding="utf-8")
    if not theirs.exists():
        with Worker(Preparing, threads) as worker:
            say(f"{stem}: writing GGUF")
            worker.call("gguf", model=model, layers=layers, weights=kind, path=str(theirs))
    files = {tool: str(ours if tool == "forgec" else theirs) for tool in _TOOLS}
    return files, json.loads(record.read_text(encoding="utf-8"))


def race(
    files: Mapping[str, str],
    prompt: int,
    tokens: int,
    threads: int,
    rounds: int,
    say: Say,
    tools: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Rates of tools in turns, each with its file, and why others have none; ``tools`` says which tool runs a
    file where its name in ``files`` does not."""
    rng = np.random.default_rng(0)
    workers: dict[str, Worker] = {}
    failures: dict[str, str] = {}
    seconds: dict[str, list[list[float]]] = {}
    resident: dict[str, int] = {}
    reads: list[float] = []
    try:
        for tool, path in files.items():
            workers[tool] = Worker(Generating, threads)
            try:
                workers[tool].call(
                    "load",
                    tool=(tools or {}).get(tool, tool),
                    path=path,
                    threads=threads,
                    context=prompt + tokens,
                )
                before = workers[tool].call("generate", ids=[1] * prompt, tokens=4)
                say(f"{tool}: {before[0]:.2f} s for the prompt")
                seconds[tool], resident[tool] = [], workers[tool].call("resident")
            except WorkerError as error:
                failures[tool] = str(error).splitlines()[0]
                say(f"without {tool}: {error}")
                workers.pop(tool).close()
        for order in turns(list(workers), rounds):
            ids = rng.integers(3, 100, prompt).tolist()  # another one: some tools keep what prompts share
            for tool in order:
                if tool == "forgec":
                    reads.append(workers[tool].call("read_bandwidth", threads=threads))
                seconds[tool].append(workers[tool].call("generate", ids=ids, tokens=tokens))
                if tool == "forgec":
                    reads.append(workers[tool].call("read_bandwidth", threads=threads))
    finally:
        for worker in workers.values():
            worker.close()
    rates = {
        tool: {
            "prefill": [prompt / first for first, _ in times],
            "decode": [(tokens - 1) / rest for _, rest in times],
            "resident": resident[tool],
        }
        for tool, times in seconds.items()
    }
    beside = [(before + after) / 2 for before, after in zip(reads[::2], reads[1::2], strict=True)]
    return {"tools": rates, "read_bytes_per_s": beside}, failures


def rate_cells(found: Mapping[str, Any], tool: str) -> list[str]:
    """A tool's cells under :data:`RATES`."""
    cells = []
    for part in ("prefill", "decode"):
        faster = "-"
        if tool != "forgec" and "forgec" in found:
            pairs = {"forgec": found["forgec"][part], tool: found[tool][part]}
            faster = ratio(round_ratios(pairs, "forgec", tool).median)
        cells += [f"{Summary.of(found[tool][part]).median:.1f}", faster]
    return cells


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model, format and tool."""
    rows, notes = [], []
    for label, model in data["models"].items():
        found = model["tools"]
        bounds = [rate / model["compile"]["read_bytes"] for rate in model["read_bytes_per_s"]]
        for tool, rates in found.items():
            share = "-"
            if tool == "forgec":
                shares = [rate / bound for rate, bound in zip(rates["decode"], bounds, strict=True)]
                share = f"{Summary.of(shares).median:.0%}"
            rows.append((label, tool, *rate_cells(found, tool), share, mib(rates["resident"])))
        made = model["compile"]
        notes.append(
            f"{label}: a decode step of forgec reads {made['read_bytes'] / 1e6:,.0f} MB of weights, a loop "
            f"that only reads does {Summary.of(bounds).median:.1f} times as much a second; compiled in "
            f"{made['compile_s']:.1f} s, written in {made['save_s']:.1f} s."
        )
    notes += [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    notes.append(
        "OpenVINO and llama.cpp run a GGUF file, Q8_0 against int8 and w8a8, Q4_0 against int4 and w4a8."
    )
    columns = ("model, weights", "tool", *RATES, ">of read", ">RSS")
    return [Table("Tokens per second, measured", columns, rows, notes)]
