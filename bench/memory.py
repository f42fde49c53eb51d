"""Peak resident memory of what forgec does: compile, save, load, run. Each step in a fresh process.

Peaks are the kernel's high-water mark of the resident set, less what was resident before the step. A model's
weights are in memory before a compile or a save, so a step that needs them once more shows as 1 x weights. A
load maps the file: its pages count as resident once a run has read them, though the system can drop them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .client import Worker, WorkerError
from .round_robin import Say
from .session import model_inputs, model_label
from .tables import Table, mib

__all__ = ["MODELS", "NAME", "TITLE", "Compiling", "Running", "measure", "tables"]

NAME = "memory"
TITLE = "Memory"
MODELS = ("gpt2", "bert-base", "minilm", "qwen2-0.5b")
STEPS = ("compile without check", "compile", "save", "load", "first run")


class Compiling:
    """What the worker serves that compiles and saves."""

    def compile(
        self, model: str, tokens: int, layers: int | None, threads: int, check: bool
    ) -> dict[str, Any]:
        """Bytes before and at the peak of one compile, after one of the tiny model to warm up."""
        import torch

        import forgec
        from forgec import models

        torch.set_num_threads(threads)
        tiny = models.load(f"{model.removesuffix('-tiny')}-tiny")
        forgec.compile(tiny.module, (), model_inputs(tiny, 16, 0)).close()
        loaded = models.load(model, layers=layers)
        inputs = model_inputs(loaded, tokens, 0)

        def compile_it() -> None:
            self._executable = forgec.compile(loaded.module, (), inputs, check=check)

        found = _watched(compile_it)
        report = self._executable.report
        assert report is not None
        return {**found, "model": report.rss.model_bytes, "arena": report.memory.arena_bytes}

    def save(self, path: str) -> dict[str, Any]:
        """The same of writing the artifact, and its size."""
        found = _watched(lambda: self._executable.save(path))
        return {**found, "file": Path(path).stat().st_size}


class Running:
    """What the worker serves that loads and runs: a process without PyTorch."""

    def load(self, path: str) -> dict[str, Any]:
        """Bytes before and at the peak of opening the artifact, digests checked."""
        import forgec
        from forgec import backends
        from forgec.ir import ops  # noqa: F401  (imports are not part of the step)

        backends.get("cpu")

        def load_it() -> None:
            self._executable = forgec.load(path)

        return _watched(load_it)

    def first_run(self) -> dict[str, Any]:
        """The same of the first run, on inputs of ones."""
        import sys

        import numpy as np

        types = [leaf.type for leaf in self._executable.signature.inputs]
        inputs = [np.ones(t.shape, t.dtype.numpy) for t in types]
        found = _watched(lambda: self._executable.run_flat(inputs))
        return {**found, "torch": "torch" in sys.modules}


def _watched(act: Callable[[], Any]) -> dict[str, Any]:
    import gc

    from forgec.report import rss

    gc.collect()
    with rss.measure() as memory:
        act()
    return {"before": memory.before_bytes, "peak": memory.peak_bytes, "method": memory.method}


def measure(
    models: Sequence[str], *, tokens: int, threads: int, say: Say, layers: int | None = None
) -> dict[str, Any]:
    """Bytes by model and step; ``failures`` has the models that did not get through, with the reason."""
    found: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for model in models:
        label = model_label(model, layers)
        say(f"{label}: memory")
        try:
            found[label] = _one_model(model, tokens, layers, threads)
        except WorkerError as error:
            failures[label] = str(error).splitlines()[0]
    return {"models": found, "failures": failures}


def _one_model(model: str, tokens: int, layers: int | None, threads: int) -> dict[str, Any]:
    steps: dict[str, Any] = {}
    arguments: dict[str, Any] = {"model": model, "tokens": tokens, "layers": layers, "threads": threads}
    with Worker(Compiling, threads) as worker:
        steps["compile"] = worker.call("compile", check=True, **arguments)
    with Worker(Compiling, threads) as worker:
        steps["compile without check"] = worker.call("compile", check=False, **arguments)
        path = str(worker.folder / "model.forge")
        steps["save"] = worker.call("save", path=path)
        with Worker(Running, threads) as runner:
            steps["load"] = runner.call("load", path=path)
            steps["first run"] = runner.call("first_run")
    return {
        "model": steps["compile"].pop("model"),
        "arena": steps["compile"].pop("arena"),
        "file": steps["save"].pop("file"),
        "steps": {name: {key: steps[name][key] for key in ("before", "peak", "method")} for name in STEPS},
        "torch_at_run": steps["first run"]["torch"],
    }


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model, one column per step."""
    rows = []
    for label, model in data["models"].items():
        steps = model["steps"]
        extra = [steps[name]["peak"] - steps[name]["before"] for name in STEPS]
        cells = [f"{mib(value)}, {value / model['model']:.2f} x" for value in extra]
        rows.append((label, mib(model["model"]), *cells, mib(model["arena"]), mib(model["file"])))
    notes = ["Peak resident memory over that before the step, absolute and as a multiple of the weights."]
    notes += [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    columns = ("model", ">weights", *(f">{name}" for name in STEPS), ">arena", ">file")
    return [Table("Peak memory of each step, measured", columns, rows, notes)]
