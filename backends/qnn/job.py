"""The job that compiles tasks: :mod:`.process` in a folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..vendor.worker import Job
from .process import TASKS

__all__ = ["job_of"]

_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
"""Numpy is imported there and multiplies nothing; its threads would be made for every fork."""


def job_of(what: str, tasks: Sequence[Mapping[str, Any]], folder: Path, jobs: int = 1) -> Job:
    """Write tasks into ``folder`` and give the job for them, ``jobs`` at a time."""
    (folder / TASKS).write_text(json.dumps({"jobs": jobs, "tasks": list(tasks)}))
    script = Path(__file__).with_name("process.py")
    return Job(what, (sys.executable, "-P", str(script)), folder, _ENVIRONMENT)
