"""The command's own parts: flags that benchmarks share, and what happens around a measurement."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer
from rich.console import Console

from . import machine, report
from .results import FOLDER, Result
from .tables import Table

__all__ = ["Job", "Layers", "Models", "Repeat", "Threads", "Tokens", "app", "benchmark", "say"]

app = typer.Typer(no_args_is_help=True, add_completion=False)
_progress = Console(stderr=True)
_NO_TELEMETRY = {"CI": "true"}
"""With this OpenVINO reports nothing of its use, which would take two seconds of a conversion where there is
no network, and processor time of a process of its own anywhere."""

_PIPE_WIDTH = 220
"""Columns of tables that go to a file: enough for every table to keep its rows on one line."""

Models = Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Presets of forgec.models.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of the example inputs.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of every tool.")]
Layers = Annotated[int | None, typer.Option(min=1, help="Another depth than the preset's.")]
Repeat = Annotated[int, typer.Option(min=1, help="Rounds.")]


@dataclass(frozen=True)
class Job:
    """A measurement, and its settings for the record."""

    settings: Mapping[str, Any]
    measure: Callable[[], Mapping[str, Any]]


def _kept(
    save: Annotated[bool, typer.Option("--save", help="Keep the result in bench/results.")] = False,
    label: Annotated[str, typer.Option(help="Added to the name of the result file.")] = "",
    note: Annotated[str, typer.Option(help="What else the machine was doing, for the record.")] = "",
) -> None:
    """What every benchmark takes beside its own flags."""


def benchmark(name: str) -> Callable[[Callable[..., Job]], Callable[..., Job]]:
    """Make a function that says what to measure a command, which measures, prints and keeps it."""

    def register(function: Callable[..., Job]) -> Callable[..., Job]:
        kept = inspect.signature(_kept, eval_str=True).parameters
        own = inspect.signature(function, eval_str=True).parameters

        @wraps(function)
        def run(**given: Any) -> None:
            flags = {flag: given.pop(flag) for flag in kept}
            _run(name, function(**given), **flags)

        parameters = [*own.values(), *kept.values()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(run)
        return function

    return register


def say(text: str) -> None:
    """Print progress."""
    _progress.print(text, style="dim", markup=False, highlight=False)


def _run(name: str, job: Job, save: bool, label: str, note: str) -> None:
    """Measure, print the tables, keep the result if asked."""
    os.environ.update(_NO_TELEMETRY)
    before = machine.load_average()
    cores = machine.describe()["cores"]
    if before > cores / 2:
        say(f"the machine is busy, load average {before} on {cores} cores: ratios may do, times will not")
    result = Result.now(name, job.settings, before, note, job.measure())
    _print(report.tables(result))
    if save:
        say(f"kept as {result.save(FOLDER, label)}")


def _print(tables: Sequence[Table]) -> None:
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=_PIPE_WIDTH)
    for table in tables:
        if table.rows:
            table.print(console)
