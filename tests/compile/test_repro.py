"""Failures of a vendor's compiler, made small."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from forgec.backends.base import DEFAULTS, Constants, Settings
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend
from forgec.backends.vendor.portion import portion, smallest

from forgec.errors import BackendError, InternalError, OptionError
from forgec.executable import Executable
from forgec.executable.archive import Info
from forgec.executable.executable import compile_together
from forgec.executable.signature import Signature
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.program import Program
from forgec.ir.verifier import verify
from forgec.plan.planner import make_plan
from forgec.repro import SCHEMA, find_repro

TEXT = """\
program @main(r0 "x": f32[2,4]) -> (r7 "y": f32[2,4]) {
  const c0: f32[4,4] = "w"
  const c1: f32[4] = "b"
  r1: f32[2,4] = linear r0, c0
  r2: f32[2,4] = sigmoid r1
  r3: f32[2,4] = add r2, c1      # aten.add, model.py:7
  r4: f32[2,4] = tanh r3
  r5: f32[2,4] = mul r4, r2
  r6: f32[2,4] = exp r5
  r7: f32[2,4] = linear r6, c0
  return r7
}
"""
WEIGHTS = {"w": np.eye(4, dtype=np.float32), "b": np.arange(4, dtype=np.float32)}


class Failing(NullBackend):
    """A device whose compiler fails at programs with all of ``ops`` in them."""

    def __init__(self, *ops: str, emits: bool = True) -> None:
        super().__init__(pretend=True)
        self._ops = set(ops)
        self._emits = emits

    def compile_all(
        self, segments: Sequence[Program], constants: Constants, settings: Settings = DEFAULTS
    ) -> list[bytes]:
        assert settings.timeout_s == 5.0
        if any(self._ops <= {instr.op for instr in s.main.body} for s in segments):
            error = BackendError("the compiler died", "segment 1")
            error.log = "assertion failed"
            raise error
        return super().compile_all(segments, constants, settings)

    def model_files(self, segment: Program, constants: Constants) -> dict[str, bytes]:
        if not self._emits:
            raise InternalError("no emission")
        return {"model.txt": b"a model"}


def executable(backend: Failing) -> Executable:
    program = parse(TEXT)
    plan = make_plan(program, backends=[backend, CpuBackend()], target="null")

    def leaf(name: str) -> dict:
        return {"kind": "tensor", "index": 0, "name": name, "type": "f32[2,4]"}

    signature = Signature(
        {"kind": "tuple", "items": [leaf("x")]}, {"kind": "dict", "items": {}}, leaf("y"), ("x",)
    )
    return Executable(program, plan, signature, WEIGHTS.__getitem__, backend=lambda name: backend)


def test_an_error_says_whose_program_it_is_about() -> None:
    settings = Settings(timeout_s=5.0)
    first, second = executable(Failing("add")), executable(Failing("add"))
    first.shared.info, second.shared.info = Info("prefill"), Info("decode")
    with pytest.raises(BackendError) as error:
        compile_together([first.shared, second.shared], settings)
    assert error.value.where is not None and error.value.where == "prefill, decode: segment 1"
    with pytest.raises(BackendError) as error:
        second.shared.compile_segments(settings)
    assert error.value.where is not None and error.value.where == "decode: segment 1"


def test_the_smallest_part_is_written_with_all_that_shows_the_failure(tmp_path) -> None:
    settings = Settings(timeout_s=5.0)
    exe = executable(Failing("add", "mul"))
    found = find_repro(lambda: exe.shared.compile_segments(settings), settings)
    assert found is not None and found.whole == 7
    files = found.write(tmp_path / "new" / "repro")
    assert files == ["log.txt", "model.txt", "program.ir", "repro.json", "weights.npz"]
    part = parse((tmp_path / "new" / "repro" / "program.ir").read_text())
    verify(part)
    assert [instr.op for instr in part.main.body] == ["add", "tanh", "mul"]
    weights = np.load(tmp_path / "new" / "repro" / "weights.npz")
    assert {name: weights[name].tolist() for name in weights} == {"c1": [0.0, 1.0, 2.0, 3.0]}
    document = json.loads((tmp_path / "new" / "repro" / "repro.json").read_text())
    assert (document["schema"], document["target"], document["of"]) == (SCHEMA, "null", 7)
    assert document["error"]["what"] == "the compiler died" and document["versions"]["forgec"]
    assert document["instructions"][0] == {"op": "add", "source": "aten.add, model.py:7"}
    assert 0 < document["trials"] < 8
    assert (tmp_path / "new" / "repro" / "log.txt").read_text() == "assertion failed"
    with pytest.raises(OptionError, match="exists"):
        found.write(tmp_path / "new" / "repro")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["repro"]


def test_what_cannot_be_emitted_or_written(tmp_path) -> None:
    settings = Settings(timeout_s=5.0)
    exe = executable(Failing("exp", emits=False))
    found = find_repro(lambda: exe.shared.compile_segments(settings), settings)
    assert found is not None and [instr.op for instr in found.program.main.body] == ["exp"]
    assert "model.txt" not in found.write(tmp_path / "repro")
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match="cannot be written"):
        found.write(tmp_path / "file" / "repro")


def test_nothing_fails() -> None:
    settings = Settings(timeout_s=5.0)
    exe = executable(Failing("softmax"))
    assert find_repro(lambda: exe.shared.compile_segments(settings), settings) is None


@pytest.mark.parametrize("needed", [{0}, {6}, {2, 4}, {0, 6}, {3}, {1, 2, 5}])
def test_the_smallest_run_of_instructions(needed: set[int]) -> None:
    program = parse(TEXT)
    results = [instr.results[0].id for instr in program.main.body]
    asked = []

    def fails(part: Program) -> bool:
        asked.append(part)
        return needed <= {results.index(instr.results[0].id) for instr in part.main.body}

    part = smallest(program, fails)
    kept = [results.index(instr.results[0].id) for instr in part.main.body]
    assert kept == list(range(min(needed), max(needed) + 1))
    assert len(asked) <= 6


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (0, 3), (2, 5), (4, 7), (3, 4)])
def test_a_portion_computes_what_it_does_in_the_whole(start: int, stop: int) -> None:
    program = parse(TEXT)
    part = portion(program, start, stop)
    verify(part)
    values = {0: np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}
    whole = portion(program, 0, 7)
    for end in range(1, 8):
        beginning = portion(whole, 0, end)
        outputs = Interpreter(beginning, WEIGHTS.__getitem__).run([values[0]])
        values.update(zip((r.id for r in beginning.main.results), outputs, strict=True))
    got = Interpreter(part, WEIGHTS.__getitem__).run([values[r.id] for r in part.main.params])
    for register, array in zip(part.main.results, got, strict=True):
        np.testing.assert_allclose(array, values[register.id], atol=1e-6)
