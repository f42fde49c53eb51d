"""The process that compiles: a fork for every task, so that none sees another's death or memory."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from forgec.backends.qnn import process


def test_a_task_that_dies_is_told_and_the_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_one(task: dict[str, Any]) -> dict[str, Any]:
        if task["model"] == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"error": "", "seconds": 1.0, "pid": os.getpid(), "cwd": os.getcwd()}

    monkeypatch.setattr(process, "compile_one", compile_one)
    tasks = [{"folder": str(tmp_path / name), "model": name} for name in ("a", "bad", "b")]
    for task in tasks:
        Path(task["folder"]).mkdir()
    process.run(tasks, jobs=2)
    a, bad, b = (json.loads((Path(task["folder"]) / process.RESULT).read_text()) for task in tasks)
    assert (bad["error"], bad["code"]) == (None, -signal.SIGKILL)
    assert a["error"] == b["error"] == ""
    assert (a["cwd"], b["cwd"]) == (tasks[0]["folder"], tasks[2]["folder"])
    assert len({a["pid"], b["pid"], os.getpid()}) == 3


def test_no_more_than_so_many_run_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task holds a file while it runs: with one at a time no other ever sees it."""

    def compile_one(task: dict[str, Any]) -> dict[str, Any]:
        held = tmp_path / "held"
        held.touch(exist_ok=False)
        held.unlink()
        return {"error": "", "seconds": 0.0}

    monkeypatch.setattr(process, "compile_one", compile_one)
    tasks = [{"folder": str(tmp_path / str(i)), "model": ""} for i in range(8)]
    for task in tasks:
        Path(task["folder"]).mkdir()
    process.run(tasks, jobs=1)
    found = [json.loads((Path(task["folder"]) / process.RESULT).read_text()) for task in tasks]
    assert [result["error"] for result in found] == [""] * 8
