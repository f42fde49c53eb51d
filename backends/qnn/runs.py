"""Runs of the vendor's compiler: what each is told, where it leaves what came of it, and how it failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgec.errors import BackendError

from ..base import Settings
from ..vendor.worker import Job, Outcome, error_of
from .job import job_of
from .process import RESULT

__all__ = ["CONTEXT", "OPTIONS", "Run", "files_of", "job_for", "require", "run_in", "why_none"]

OPTIONS = {"htp_graph_finalization_optimization_mode": "3"}
"""About a tenth fewer cycles than the default for up to half more compile time."""

CONTEXT = "context.onnx"


@dataclass(frozen=True)
class Run:
    """One run of the vendor's compiler: its folder, which is its working directory, and what it is told."""

    what: str
    folder: Path
    task: dict[str, Any]

    def result(self) -> dict[str, Any]:
        """``error`` is what the vendor said, empty if nothing, None if it never came to an end; ``seconds``
        what it took."""
        path = self.folder / RESULT
        found: dict[str, Any] = (
            json.loads(path.read_text()) if path.is_file() else {"error": None, "seconds": 0.0}
        )
        return found

    @property
    def ended(self) -> bool:
        """Whether there is an answer: the vendor's compiler said something, or died."""
        return (self.folder / RESULT).is_file()


def run_in(folder: Path, what: str, soc: int, provider: dict[str, str], context: str | None) -> Run:
    folder.mkdir()
    given = {**OPTIONS, **provider}
    task = {
        "folder": str(folder),
        "model": "../model.onnx",
        "soc": soc,
        "context": context,
        "provider": given,
    }
    return Run(what, folder, task)


def job_for(runs: Sequence[Run], folder: Path | None = None, jobs: int = 1) -> Job:
    """A process for these runs; in the folder of the only one, if there is one."""
    folder = folder or runs[0].folder
    what = runs[0].what if len(runs) == 1 else f"{len(runs)} parts, {runs[0].what} first"
    return job_of(what, [run.task for run in runs], folder, jobs)


def files_of(folder: Path) -> dict[str, bytes]:
    """The vendor's files of one compile, by name."""
    paths = [folder / CONTEXT, *sorted(folder.glob("*.bin"))]
    return {path.name: path.read_bytes() for path in paths if not path.name.endswith("_schematic.bin")}


def require(run: Run | None, job: Job, outcome: Outcome, settings: Settings) -> None:
    """``BackendError`` if a run of a job for several did not end well."""
    said = "" if run is None else run.result()["error"]
    if run is None or said == "":
        return
    if outcome.stopped:
        raise error_of(job, outcome, settings)
    what = f"Qualcomm's compiler failed: {said or 'it died'}"[:300]
    error = BackendError(what, run.what, "compile with fold=off")
    error.log = outcome.log
    raise error


def why_none(run: Run | None, outcome: Outcome | None, settings: Settings) -> str:
    """Why a run for a prediction gave none, in one sentence; empty if there was no such run."""
    if run is None or outcome is None:
        return ""
    said = run.result()["error"]
    if said == "":
        why = "the vendor's model gave no estimate"
    elif said:
        why = f"Qualcomm's compiler failed: {said.splitlines()[0][:200]}"
    elif run.ended or not outcome.stopped:
        why = "Qualcomm's compiler died"
    elif outcome.stopped == "time":
        why = f"it was stopped at the limit of {settings.timeout_s:g} s; raise the option timeout"
    else:
        limit = (settings.memory_bytes or 0) >> 20
        why = f"it was stopped at the limit of {limit} MiB; raise the option memory"
    return f"no prediction, compiling {run.what}: {why}"
