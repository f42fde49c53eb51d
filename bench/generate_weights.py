"""Tokens per second of one language model with its weights in one form or another, by forgec alone.

The first form is the measure of the others: f32. Then the model as it is in memory in bf16 and in f16, whose
weights stay so, and formats that are asked for. A mixture of experts is also measured as its code has it,
gathering the weights of the chosen experts, by the same compile without the pass that lets products read them
where they lie. Models have seeded random weights; each file has a process of its own, and they take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import Worker
from .generate import race
from .generating import EXPERTS, Preparing
from .round_robin import Say
from .session import model_label
from .stats import Summary, round_ratios
from .tables import Table, mib, ratio

__all__ = ["FORMS", "MODELS", "NAME", "TITLE", "measure", "tables"]

NAME = "generate-weights"
TITLE = "Language models: forms of weights"
MODELS = ("qwen2-0.5b", EXPERTS)


@dataclass(frozen=True)
class _Form:
    dtype: str = "float32"
    weights: str = "fp32"
    passes: tuple[str, ...] = ()


_GATHERED = "f32, experts gathered"
FORMS = {
    "f32": _Form(),
    _GATHERED: _Form(passes=("-expert_fusion",)),
    "bf16 model": _Form("bfloat16", "auto"),
    "f16 model": _Form("float16", "auto"),
    "int8": _Form(weights="int8"),
    "int4": _Form(weights="int4"),
}


def measure(
    models: Sequence[str],
    *,
    prompt: int,
    tokens: int,
    threads: int,
    rounds: int,
    layers: int | None,
    folder: Path,
    say: Say,
) -> dict[str, Any]:
    """Rates by model and form; files are written to ``folder`` where they are not there from before."""
    folder.mkdir(parents=True, exist_ok=True)
    found, failures = {}, {}
    for model in models:
        label, files = model_label(model, layers), {}
        for name, form in FORMS.items():
            if name == _GATHERED and model != EXPERTS:
                continue
            stem = f"{model}-{layers or 'all'}-{name}".replace(", ", "-").replace(" ", "-")
            path = folder / f"{stem}-{prompt}-{tokens}.forge"
            if not path.exists():
                say(f"{label}, {name}: compiling")
                with Worker(Preparing, threads) as worker:
                    worker.call(
                        "forgec", model=model, layers=layers, weights=form.weights, context=prompt + tokens,
                        chunk=prompt, path=str(path), dtype=form.dtype, passes=form.passes,
                    )  # fmt: skip
            files[name] = str(path)
        found[label], failed = race(
            files, prompt, tokens, threads, rounds, say, tools=dict.fromkeys(files, "forgec")
        )
        found[label]["bytes"] = {name: Path(path).stat().st_size for name, path in files.items()}
        failures.update({f"{label}, {name}": reason for name, reason in failed.items()})
    return {"models": found, "failures": failures}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row per model and form."""
    rows = []
    for label, model in data["models"].items():
        rates = model["tools"]
        for name, found in rates.items():
            cells = []
            for part in ("prefill", "decode"):
                pairs = {form: rates[form][part] for form in ("f32", name)}
                faster = ratio(round_ratios(pairs, name, "f32").median) if name != "f32" else "-"
                cells += [f"{Summary.of(found[part]).median:.1f}", faster]
            rows.append((label, name, *cells, mib(model["bytes"][name])))
    notes = [f"Without {label}: {reason}." for label, reason in data["failures"].items()]
    columns = ("model", "weights", ">prefill tokens/s", ">over f32", ">decode tokens/s", ">over f32", ">file")
    return [Table("Tokens per second, measured", columns, rows, notes)]
