"""Worker processes: the protocol, and what happens when one goes wrong."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from bench_toy import Toy

from bench.client import Worker, WorkerError
from bench.worker import serve


def test_a_worker_keeps_state_and_its_prints_do_not_disturb() -> None:
    with Worker(Toy, 1, {"TOY": "yes"}) as worker:
        assert worker.call("add", value=2) == 2
        assert worker.call("add", value=3) == 5
        with pytest.raises(WorkerError, match="ValueError: no luck"):
            worker.call("fail")
        assert worker.call("add", value=1) == 6  # a failed call does not end it
        found = worker.call("environment")
        folder = Path(found["folder"])
        assert found == {"threads": "1", "cpus": 1, "extra": "yes", "folder": str(worker.folder)}
    assert not folder.exists()


def test_a_worker_that_dies_says_how_and_what_it_printed() -> None:
    with Worker(Toy, 1) as worker:
        with pytest.raises(WorkerError, match=r"(?s)ended with 7 in die.*last words"):
            worker.call("die")
        with pytest.raises(WorkerError, match="ended with 7"):
            worker.call("add", value=1)


def test_a_worker_that_takes_too_long_is_ended() -> None:
    with Worker(Toy, 1) as worker, pytest.raises(WorkerError, match="ended with -9 in sleep"):
        worker.call("sleep", timeout_s=0.3)


def test_the_server_answers_every_request_and_calls_no_private_method() -> None:
    requests = [{"method": "add", "arguments": {"value": 4}}, {"method": "__class__", "arguments": {}}]
    answers = io.StringIO()
    serve(Toy(), io.StringIO("\n".join(map(json.dumps, requests))), answers)
    first, second = map(json.loads, answers.getvalue().splitlines())
    assert first == {"result": 4}
    assert "not a method" in second["error"]


def test_workers_leave_no_process_behind() -> None:
    with Worker(Toy, 1) as worker:
        pid = worker._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
