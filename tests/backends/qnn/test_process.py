"""The process that compiles: a fork for every task, so that none sees another's death or memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from child_processes import lives, until
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


def test_what_goes_wrong_in_a_fork_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "compile_one", lambda task: 1 / 0)
    process.run([{"folder": str(tmp_path)}], jobs=1)
    assert json.loads((tmp_path / process.RESULT).read_text()) == {"error": None, "code": 1, "seconds": 0.0}
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_an_answer_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended while it is written, it leaves none."""

    def half(self: Path, text: str) -> int:
        with self.open("w") as file:
            return file.write(text[: len(text) // 2]) + 1 // 0

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(ZeroDivisionError):
        process._write(tmp_path / process.RESULT, {"error": ""})
    assert not (tmp_path / process.RESULT).exists()


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """The starter is killed while a task runs: neither the process nor its fork goes on."""
    (tmp_path / process.TASKS).write_text(json.dumps({"jobs": 1, "tasks": [{"folder": str(tmp_path)}]}))
    work = tmp_path / "work.py"
    work.write_text(
        "import os, runpy, time\n"
        f"real = runpy.run_path({process.__file__!r})\n"
        "def compile_one(task):\n"
        "    open('pids', 'w').write(f'{os.getpid()} {os.getppid()}')\n"
        "    os.rename('pids', 'running')\n"
        "    time.sleep(60)\n"
        "real['main'].__globals__.update(compile_one=compile_one, load=lambda: None)\n"
        "real['main']()\n"
    )
    start = f"import subprocess, sys; subprocess.run([sys.executable, {str(work)!r}], start_new_session=True)"
    starter = subprocess.Popen([sys.executable, "-c", start], cwd=tmp_path)
    try:
        running = tmp_path / "running"
        until(running.exists)
    finally:
        starter.kill()
        starter.wait()
    pids = [int(pid) for pid in running.read_text().split()]
    until(lambda: not any(map(lives, pids)))
