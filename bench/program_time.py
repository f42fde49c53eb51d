"""What a further program of a language model adds to its compile.

Every round is a new process that imports torch and transformers, makes a model of random weights, and
compiles prefill and then decode. A program's time is the sum of its phases in forgec's own report, from
capture to check; the check of both together, on one text, stands by itself. Writing the weights is no part
of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .client import Worker
from .round_robin import Say
from .stats import Summary
from .tables import Table, ms

__all__ = ["MODELS", "NAME", "TITLE", "Programs", "measure", "tables"]

NAME = "programs"
TITLE = "What a further program adds"
MODELS = ("llama-3.2-1b",)
_TOGETHER = "check together"


class Programs:
    """What the worker serves."""

    def compile(
        self, model: str, weights: str, context: int, chunk: int, layers: int | None, check: bool
    ) -> dict[str, float]:
        """Milliseconds of every program, by its name, and of their check together."""
        from forgec import models
        from forgec.language import compile_language_model

        loaded = models.load(model, layers=layers)
        programs = compile_language_model(
            loaded, context=context, chunks=[chunk], weights=weights, check=check
        )
        found = {_TOGETHER: 0.0}
        for name in programs:
            report = programs[name].report
            assert report is not None
            phases = {phase.name: phase.ms for phase in report.phases}
            found[_TOGETHER] += phases.pop("check_together", 0.0)
            found[name] = sum(phases.values())
        return found


def measure(
    models: Sequence[str],
    *,
    weights: str,
    context: int,
    chunk: int,
    threads: int,
    repeat: int,
    say: Say,
    layers: int | None = None,
) -> dict[str, Any]:
    """Milliseconds by model, with and without the check, and program; one number a round."""
    found: dict[str, Any] = {}
    for model in models:
        rows: dict[str, list[dict[str, float]]] = {"without check": [], "checked": []}
        for number in range(repeat):
            for name, rounds in rows.items():
                with Worker(Programs, threads) as worker:
                    rounds.append(
                        worker.call(
                            "compile",
                            model=model,
                            weights=weights,
                            context=context,
                            chunk=chunk,
                            layers=layers,
                            check=name == "checked",
                        )
                    )
                say(f"round {number + 1}/{repeat}: {model}, {name}: {rounds[-1]}")
        found[model] = {
            name: {key: [round(one[key], 1) for one in rounds] for key in rounds[0]}
            for name, rounds in rows.items()
        }
    return {"weights": weights, "models": found}


def tables(data: Mapping[str, Any]) -> list[Table]:
    """One row for a model with and one without the check; the share is that of decode's own phases."""
    rows = []
    for model, kinds in data["models"].items():
        for name, programs in kinds.items():
            (prefill,) = [times for key, times in programs.items() if key not in ("decode", _TOGETHER)]
            shares = [later / first for later, first in zip(programs["decode"], prefill, strict=True)]
            rows.append(
                (
                    f"{model}, {data['weights']}",
                    name,
                    ms(Summary.of(prefill).median),
                    ms(Summary.of(programs["decode"]).median),
                    ms(Summary.of(programs[_TOGETHER]).median),
                    f"{100 * Summary.of(shares).median:.0f} %",
                )
            )
    columns = (
        "model, weights",
        "compile",
        ">prefill ms",
        ">decode ms",
        ">check together ms",
        ">decode over prefill",
    )
    return [Table("Prefill and decode of a language model compiled, measured", columns, rows)]
