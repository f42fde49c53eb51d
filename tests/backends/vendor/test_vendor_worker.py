"""A vendor's compiler in a worker: every way for it to end badly is an error that names the work."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from child_processes import lives, until
from forgec.backends.base import Settings
from forgec.backends.vendor import worker
from forgec.backends.vendor.worker import Job, Outcome, error_of, run, run_all

from forgec.errors import BackendError

PLENTY = Settings(timeout_s=60)


def job(folder: Path, code: str, what: str = "segment 1") -> Job:
    return Job(what, [sys.executable, "-c", code], folder, {"GREETING": "hello"})


def fails(folder: Path, code: str, settings: Settings = PLENTY) -> tuple[Outcome, BackendError]:
    work = job(folder, code)
    outcome = run(work, settings)
    assert not outcome.ok
    return outcome, error_of(work, outcome, settings)


def test_a_job_runs_in_its_folder_and_its_output_is_kept(tmp_path: Path) -> None:
    outcome = run(
        job(tmp_path, "import os; print(os.environ['GREETING'], os.getcwd()); open('out', 'w')"), PLENTY
    )
    assert outcome.ok and outcome.log == f"hello {tmp_path}\n" and (tmp_path / "out").exists()


def test_over_the_time(tmp_path: Path) -> None:
    outcome, error = fails(tmp_path, "import time; time.sleep(60)", Settings(timeout_s=0.3))
    assert outcome.stopped == "time"
    assert "the limit is 0.3 s" in error.what and error.where == "segment 1" and error.exit_code == 4


def test_over_the_memory(tmp_path: Path) -> None:
    code = "import time; x = bytearray(300 << 20); time.sleep(60)"
    outcome, error = fails(tmp_path, code, Settings(timeout_s=60, memory_bytes=100 << 20))
    assert outcome.stopped == "memory" and outcome.peak_bytes > 100 << 20
    assert "the limit is 100 MiB" in error.what


def test_memory_is_looked_at_where_it_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes reading about every process of the machine."""
    monkeypatch.setattr(worker, "_resident", lambda pid: 1 / 0)
    assert run(job(tmp_path, "import time; time.sleep(0.3)"), PLENTY).ok
    with pytest.raises(ZeroDivisionError):
        run(job(tmp_path, "import time; time.sleep(60)"), Settings(timeout_s=60, memory_bytes=1 << 40))


def test_a_compiler_that_dies(tmp_path: Path) -> None:
    outcome, error = fails(tmp_path, "import os; print('last words', flush=True); os.kill(os.getpid(), 11)")
    assert outcome.code == -11
    assert "SIGSEGV" in error.what and "last words" in (error.hint or "")


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    _, error = fails(tmp_path, "import sys; print('cannot do this'); sys.exit(3)")
    assert "exit code 3: cannot do this" in error.what


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="does not start"):
        run(Job("segment 1", [str(tmp_path / "nothing")], tmp_path), PLENTY)


def test_what_it_started_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    outcome, _ = fails(tmp_path, code, Settings(timeout_s=1.0))
    child = int(outcome.log)
    until(lambda: not lives(child))


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.5, 60.0])
def test_what_serves_others_goes_on(tmp_path: Path, limit: float) -> None:
    """Whether the process ends by itself or is over a bound."""
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', \"import time; time.sleep(1); open('done', 'w')\"])\n"
        f"time.sleep({60 if limit < 1 else 0})"
    )
    work = replace(job(tmp_path, code), serves_others=True)
    assert run(work, Settings(timeout_s=limit)).ok is (limit > 1)
    end = time.monotonic() + 30
    while not (tmp_path / "done").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_cancelling_ends_the_running_and_starts_no_others(tmp_path: Path) -> None:
    cancel = threading.Event()
    threading.Timer(0.4, cancel.set).start()
    jobs = []
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        jobs.append(job(tmp_path / str(i), "import time; time.sleep(60)"))
    outcomes = run_all(jobs, Settings(jobs=1), cancel)
    assert [outcome.stopped for outcome in outcomes] == ["cancelled"] * 3


def test_outcomes_come_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = []
    for i in range(3):
        (tmp_path / str(i)).mkdir()
        jobs.append(job(tmp_path / str(i), f"import time; time.sleep({0.2 * (2 - i)}); print({i})"))
    assert [outcome.log for outcome in run_all(jobs, Settings(jobs=3))] == ["0\n", "1\n", "2\n"]


def test_its_input_ends_with_this_process_and_not_before(tmp_path: Path) -> None:
    code = "import os, select; print(select.select([0], [], [], 0.3)[0])"
    assert run(job(tmp_path, code), PLENTY).log == "[]\n"
