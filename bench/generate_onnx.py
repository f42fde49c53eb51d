"""Tokens per second of a language model in an ONNX file: forgec and ONNX Runtime GenAI on the same file.

ONNX Runtime GenAI's own builder writes the file from a checkpoint, with its defaults: f32, or codes of 4 bits
in groups of 32 whose products round activations to 8 bits. forgec compiles that file. Both then read the same
prompts and write tokens greedily, in processes of their own, in turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .client import Worker
from .generate import RATES, race, rate_cells
from .generating import Preparing
from .round_robin import Say
from .session import model_label
from .tables import Table, mib

__all__ = ["MODELS", "NAME", "PRECISIONS", "TITLE", "measure", "tables"]

NAME = "generate-onnx"
TITLE = "Language models in ONNX files: tokens per second"
MODELS = ("qwen2-0.5b",)
PRECISIONS = ("fp32", "int4")
_PEER = "onnxruntime-genai"


def measure(
    models: Sequence[str],
    *,
    precisions: Sequence[str],
    prompt: int,
    tokens: int,
    threads: int,
    rounds: int,
    layers: int | None,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Rates by model and precision; files are written to ``folder`` where they are not there from before."""
    found, failures = {}, {}
    for model in models:
        for precision in precisions:
            label = f"{model_label(model, layers)}, {precision}"
            stem = folder / f"{model}-{layers or 'all'}-genai-{precision}"
            compiled = stem.with_name(f"{stem.name}-{prompt}-{tokens}.forge")
            chosen: dict[str, Any] = {"model": model, "layers": layers, "precision": precision}
            with Worker(Preparing, threads) as worker:
                if not (stem / "model.onnx").exists():
                    say(f"{label}: writing the file")
                    worker.call("genai", **chosen, folder=str(stem))
                if not compiled.exists():
                    say(f"{label}: compiling")
                    sizes = {"context": prompt + tokens, "chunk": prompt}
                    worker.call("forgec_onnx", file=str(stem / "model.onnx"), **sizes, path=str(compiled))
            files = {"forgec": str(compiled), _PEER: str(stem)}
            found[label], failed = race(files, prompt, tokens, threads, rounds, say)
            failures.update({f"{label}, {tool}": reason for tool, reason in failed.items()})
    return {"models": found, "failures": failures}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model, precision and tool."""
    rows = [
        (label, tool, *rate_cells(model["tools"], tool), mib(rates["resident"]))
        for label, model in data["models"].items()
        for tool, rates in model["tools"].items()
    ]
    notes = [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    return [Table("Tokens per second, measured", ("model, file", "tool", *RATES, ">RSS"), rows, notes)]
