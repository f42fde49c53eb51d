"""repro: from a model to the folder, and its exit codes."""

from __future__ import annotations

import json

from forgec.backends.cpu import CpuBackend

from forgec.errors import BackendError
from forgec.ir.parser import parse


def test_a_failure_is_written_and_leaves_with_4(forgec, tmp_path, monkeypatch) -> None:
    def compile_all(self, segments, constants, settings):
        if any(instr.op == "attention" for s in segments for instr in s.main.body):
            raise BackendError("the compiler died", "segment 1")
        return [b""] * len(segments)

    monkeypatch.setattr(CpuBackend, "compile_all", compile_all)
    result = forgec(
        "repro", "-m", "gpt2-tiny", "--tokens", 8, "-o", tmp_path / "out", "--format", "json", "-q"
    )
    assert result.exit_code == 4, result.stderr
    document = json.loads(result.stdout)
    assert [instr["op"] for instr in document["instructions"]] == ["attention"]
    assert document["instructions"][0]["source"]
    part = parse((tmp_path / "out" / "program.ir").read_text())
    assert [instr.op for instr in part.main.body] == ["attention"]


def test_a_folder_that_exists_is_refused_before_the_work(forgec, fake_compile, tmp_path) -> None:
    result = forgec("repro", "-m", "toy", "-o", tmp_path)
    assert result.exit_code == 2 and "name a new folder" in result.stderr
    assert not fake_compile.loads and not fake_compile.calls


def test_nothing_fails_and_nothing_is_written(forgec, tmp_path) -> None:
    result = forgec("repro", "-m", "gpt2-tiny", "--tokens", 8, "-o", tmp_path / "out", "-q")
    assert result.exit_code == 0, result.stderr
    assert "there is no failure to show" in result.stdout
    assert not list(tmp_path.iterdir())
