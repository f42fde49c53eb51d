"""Wine is kept running while somebody compiles and a while longer, here a stand-in that waits for its input."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from child_processes import lives, until
from forgec.backends.openvino import wine
from forgec.backends.openvino.toolchain import Toolchain
from forgec.backends.openvino.wine import kept_running

STAND_IN = """#!/bin/sh
echo $$ >> "$PREFIX/started"
exec cat
"""
LINGER_S = 0.8


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toolchain]:
    program = tmp_path / "wine"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    monkeypatch.setattr(wine, "LINGER_S", LINGER_S)
    tools = Toolchain(tmp_path, "stand-in", str(program), {"PREFIX": str(tmp_path)})
    yield tools
    wine._keeper(tools.wine, tuple(tools.environment.items())).end()


def started(tools: Toolchain) -> list[int]:
    """The processes that were started, when there is one at least."""
    path = tools.folder / "started"
    until(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_it_runs_once_for_all_who_want_it_and_a_while_longer(tools: Toolchain) -> None:
    with kept_running(tools):
        with kept_running(tools):
            (pid,) = started(tools)
        assert lives(pid)
        time.sleep(1.5 * LINGER_S)
        assert lives(pid)
    with kept_running(tools):  # at once: the same
        time.sleep(1.5 * LINGER_S)
        assert started(tools) == [pid] and lives(pid)
    until(lambda: not lives(pid))
    with kept_running(tools):
        until(lambda: len(started(tools)) == 2)


@pytest.mark.slow
def test_who_ends_first_does_not_matter(tools: Toolchain) -> None:
    first, second = ExitStack(), ExitStack()
    first.enter_context(kept_running(tools))
    second.enter_context(kept_running(tools))
    (pid,) = started(tools)
    first.close()
    time.sleep(1.5 * LINGER_S)
    assert lives(pid)
    second.close()
    until(lambda: not lives(pid))


def test_one_that_died_is_started_again(tools: Toolchain) -> None:
    with kept_running(tools):
        (pid,) = started(tools)
        psutil.Process(pid).kill()
        until(lambda: not lives(pid))
        with kept_running(tools):
            until(lambda: len(started(tools)) == 2)


def test_an_abandoned_compile_may_be_found_at_any_time(
    tools: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the collector, in the thread that is about to start another one."""
    abandoned = ExitStack()
    abandoned.enter_context(kept_running(tools))
    keeper = wine._keeper(tools.wine, tuple(tools.environment.items()))
    cancel = keeper._cancel
    monkeypatch.setattr(keeper, "_cancel", lambda: (abandoned.close(), cancel()))
    with kept_running(tools):
        (pid,) = started(tools)
        assert lives(pid)
    until(lambda: not lives(pid))


def test_it_ends_with_forgec_however_that_ends(tools: Toolchain) -> None:
    code = f"""
import time
from pathlib import Path
import forgec
from forgec.backends.openvino.toolchain import Toolchain
from forgec.backends.openvino.wine import kept_running
with kept_running(Toolchain(Path({str(tools.folder)!r}), "stand-in", {tools.wine!r}, {tools.environment!r})):
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: (tools.folder / "started").exists())
    (pid,) = started(tools)
    assert lives(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not lives(pid))


def test_without_wine_nothing_is_started_and_a_broken_one_is_no_error_here(tools: Toolchain) -> None:
    with kept_running(None), kept_running(Toolchain(tools.folder, "native")):
        pass
    with kept_running(Toolchain(tools.folder, "broken", str(tools.folder / "absent"))):
        pass
    assert not (tools.folder / "started").exists()
