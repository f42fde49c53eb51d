"""A compile that does not go through: which instruction, in words of the user's model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from forgec.backends.base import DEFAULTS, RejectedError, Settings
from forgec.backends.qnn import compiler, support
from forgec.backends.qnn.backend import QnnBackend
from forgec.backends.qnn.socs import CHIPS, TARGETS
from forgec.backends.qnn.support import Support, signature
from forgec.backends.qnn.translate import refused_instructions, refused_nodes
from forgec.backends.vendor.cache import Cache
from qnn_programs import single

from forgec.errors import BackendError
from forgec.ir.op import Sample
from forgec.ir.parser import parse
from forgec.ir.program import Instr, Source

LOG = """2026 [E:onnxruntime:, qnn_execution_provider.cc] Unsupported nodes in QNN EP: { name: r4.erf, type: Erf } { name: r9.erf, type: Erf }
2026 [W] something else { name: r1.add, type: Add }
"""
ERF = parse("""program @main(r0 "x": f32[2,8]) -> (r2 "y": f32[2,8]) {
  r1: f32[2,8] = mul r0, r0
  r2: f32[2,8] = erf r1
  return r2
}
""")


def no_constants(constant: object) -> np.ndarray:
    raise AssertionError(constant)


def test_refused_nodes_are_read_from_the_log() -> None:
    assert refused_nodes(LOG) == [("r4.erf", "Erf"), ("r9.erf", "Erf")]


def test_refused_nodes_lead_to_the_line() -> None:
    program = parse(
        'program @main(r0 "x": f32[2]) -> (r4 "y": f32[2]) {\n  r4: f32[2] = erf r0\n  return r4\n}\n'
    )
    for instr in program.main.body:
        instr.source = Source("aten.erf", "model.py", 7, "mlp.act")
    found = refused_instructions("", LOG, program)
    assert list(found) == ["Erf, part of erf  # aten.erf, model.py:7, mlp.act", "Erf r9.erf"]
    assert found["Erf, part of erf  # aten.erf, model.py:7, mlp.act"] is program.main.body[0]


def test_the_real_compiler_names_the_instruction(tmp_path: Path) -> None:
    with pytest.raises(compiler.Refused, match="erf") as caught:
        compiler.compile_segments([ERF], no_constants, DEFAULTS, CHIPS["hexagon-v73"], Cache(tmp_path))
    assert [instr.op for instr in caught.value.instrs] == ["erf"]


def test_the_backend_learns_from_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = ERF.main.body[0]

    def refuse(*_: object) -> list[bytes]:
        raise compiler.Refused("no", None, None, [refused])

    monkeypatch.setattr(compiler, "compile_segments", refuse)
    qnn = QnnBackend(TARGETS[0])
    qnn._support = Support("a compiler", 77, Cache(tmp_path))
    with pytest.raises(RejectedError):
        qnn.compile(ERF, no_constants)
    assert qnn.supports(refused).reason.startswith("mul: ")


def test_a_failure_without_names_is_bisected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'program @main(r0 "x": f32[2]) -> (r6 "y": f32[2]) {\n'
    text += "".join(
        f"  r{i + 1}: f32[2] = {op} r{i}\n"
        for i, op in enumerate(["exp", "sin", "cos", "tanh", "neg", "abs"])
    )
    program = parse(text + "  return r6\n}\n")

    def compiles(segment: object, *_: object) -> bool:
        return not any(instr.op == "tanh" for instr in segment.main.body)

    monkeypatch.setattr(compiler, "_compiles", compiles)
    found = compiler._bisect(program, no_constants, DEFAULTS, CHIPS["hexagon-v73"])
    assert found is not None and found.op == "tanh"


def test_a_compile_over_its_time_says_so(tmp_path: Path) -> None:
    case = single("exp", Sample((np.ones((2, 3), np.float32),), {}))
    with pytest.raises(BackendError, match=r"limit is 0\.01 s"):
        compiler.compile_segments(
            [case.program], case.constants, Settings(timeout_s=0.01), CHIPS["hexagon-v73"], Cache(tmp_path)
        )


def test_a_process_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in dies of the second of three instructions; the third is asked in a new process."""
    script = tmp_path / "process.py"
    script.write_text(
        "import json, os, sys\n"
        "for task in json.load(open('tasks.json')):\n"
        "    print('task', task['model'], file=sys.stderr, flush=True)\n"
        "    if task['model'].startswith('1/'):\n"
        "        os.abort()\n"
        "    open('results.jsonl', 'a').write(json.dumps({'error': ''}) + '\\n')\n"
    )
    monkeypatch.setattr(support, "__file__", str(tmp_path / "support.py"))
    x = np.ones((2, 3), np.float32)
    instrs: list[Instr] = [single(op, Sample((x,), {})).program.main.body[0] for op in ("exp", "sin", "cos")]
    assert support.try_out(instrs, 77) == ["", "Qualcomm's compiler dies of it", ""]


def test_signatures_ignore_sizes_and_nothing_else() -> None:
    def of(op: str, *shape: int, **attrs: object) -> str:
        return signature(single(op, Sample((np.ones(shape, np.float32),), attrs)).program.main.body[0])

    assert of("exp", 2, 3) == of("exp", 5, 7)
    assert of("exp", 2, 3) != of("exp", 2, 3, 1)
    assert of("exp", 2, 3) != of("sin", 2, 3)
    assert of("softmax", 2, 3, axis=0) != of("softmax", 2, 3, axis=1)


def test_answers_are_kept_for_the_next_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (instr,) = single("exp", Sample((np.ones((2, 3), np.float32),), {})).program.main.body
    asked = []

    def try_out(instrs: list[Instr], soc: int) -> list[str]:
        asked.append(len(instrs))
        return ["because"] * len(instrs)

    monkeypatch.setattr(support, "try_out", try_out)
    for _ in range(2):
        assert Support("a compiler", 77, Cache(tmp_path)).reasons([instr, instr]) == ["because"] * 2
    assert asked == [1]


def test_what_ships_is_of_known_ops() -> None:
    known = json.loads(support.KNOWN.read_text())
    for answers in known.values():
        assert answers.get("erf(f32/3) {}")
        assert answers["exp(f32/3) {}"] == ""
