"""A compile that does not go through: which instruction, in words of the user's model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from forgec.backends.base import DEFAULTS, RejectedError, Settings, Yes
from forgec.backends.qnn import compiler, container, job, process, runs, trial
from forgec.backends.qnn.backend import FAMILY, KNOWN, QnnBackend
from forgec.backends.qnn.socs import CHIPS, TARGETS
from forgec.backends.qnn.translate import refused_instructions, refused_nodes, vendor_reasons
from forgec.backends.vendor.cache import Cache
from forgec.backends.vendor.support import Support, Trial
from forgec.backends.vendor.support import single as alone
from forgec.backends.vendor.worker import Job, Outcome
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


def test_the_vendors_reasons_are_read_from_the_log() -> None:
    log = "x\n\tREASON : Operators of type `Erf` are not supported by QNN EP.Erf node `r2.erf` will not be assigned to QNN EP.\n"
    log += "\tREASON : QNN.backendValidateOpConfig() failed with code 3110\n"
    reasons = [
        "Operators of type `Erf` are not supported by QNN EP",
        "QNN.backendValidateOpConfig() failed with code 3110",
    ]
    assert vendor_reasons(2 * log) == reasons


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
    qnn._support = Support(
        "t", "a compiler", lambda instrs: [""] * len(instrs), tmp_path / "none", Cache(tmp_path)
    )
    with pytest.raises(RejectedError):
        qnn.compile(ERF, no_constants)
    assert qnn.supports(refused).reason.startswith("mul: ")


VIEWED = parse("""program @main(r0 "x": f32[2,3]) -> (r3 "y": f32[3,2]) {
  r1: f32[6] = reshape r0 {shape=[6]}
  r2: f32[3,2] = reshape r1 {shape=[3,2]}
  r3: f32[3,2] = exp r2
  return r3
}
""")


@pytest.mark.parametrize("number", [None, 1])
def test_a_refusal_that_planning_cannot_mend_is_final(
    number: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names nothing, or a view that nothing reads."""
    alone = replace(VIEWED.main, body=VIEWED.main.body[:2], results=VIEWED.main.body[1].results)
    program = replace(VIEWED, functions={VIEWED.entry: alone})

    def refuse(*_: object) -> list[bytes]:
        raise compiler.Refused("no", None, None, [] if number is None else [alone.body[number]])

    monkeypatch.setattr(compiler, "compile_segments", refuse)
    with pytest.raises(BackendError) as caught:
        QnnBackend(TARGETS[0]).compile(program, no_constants)
    assert not isinstance(caught.value, RejectedError)


def test_what_reads_a_refused_view_goes_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this compile: alone the reader may be taken."""

    def refuse(*_: object) -> list[bytes]:
        raise compiler.Refused("no", None, None, [VIEWED.main.body[0]])

    monkeypatch.setattr(compiler, "compile_segments", refuse)
    qnn, later = (QnnBackend(TARGETS[0]) for _ in range(2))
    for each in (qnn, later):
        each._support = Support(
            "t", "a compiler", lambda instrs: [Trial("")] * len(instrs), tmp_path / "none", Cache(tmp_path)
        )
    with pytest.raises(RejectedError):
        qnn.compile(VIEWED, no_constants)
    reader = VIEWED.main.body[2]
    assert qnn.supports(reader).reason == "exp: Qualcomm's compiler refuses a view that it reads"
    assert isinstance(later.supports(reader), Yes)


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


def test_a_compiler_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in dies of the second of three instructions; the third is asked all the same."""
    script = tmp_path / "process.py"
    script.write_text(
        "import os, runpy\n"
        f"real = runpy.run_path({process.__file__!r})\n"
        "def compile_one(task):\n"
        "    if task['folder'].endswith('1'):\n"
        "        os.abort()\n"
        "    return {'error': '', 'seconds': 0.0}\n"
        "real['main'].__globals__.update(compile_one=compile_one, load=lambda: None)\n"
        "real['main']()\n"
    )
    monkeypatch.setattr(job, "__file__", str(tmp_path / "job.py"))
    x = np.ones((2, 3), np.float32)
    instrs: list[Instr] = [single(op, Sample((x,), {})).program.main.body[0] for op in ("exp", "sin", "cos")]
    found = [answer.reason for answer in trial.try_out(instrs, 77)]
    assert found == ["", "Qualcomm's compiler dies of it", ""]


def test_one_without_an_answer_hangs_only_if_it_had_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is up at the second of three, which is slow; the third hangs."""
    x = np.ones((2, 3), np.float32)
    instrs: list[Instr] = [single(op, Sample((x,), {})).program.main.body[0] for op in ("exp", "sin", "cos")]
    asked: list[int] = []

    def answering(tasks: list[dict[str, str]], folder: Path) -> Outcome:
        asked.append(len(tasks))
        for task in tasks[: {3: 1, 2: 1, 1: 0}[len(tasks)]]:
            (Path(task["folder"]) / process.RESULT).write_text('{"error": ""}')
        return Outcome(-9, "", 120.0, 0, "time")

    monkeypatch.setattr(trial, "_run", answering)
    assert [answer.reason for answer in trial.try_out(instrs, 77)] == ["", "", "Qualcomm's compiler hangs"]
    assert asked == [3, 2, 1]


def test_code_is_kept_for_the_same_look_ups(tmp_path: Path) -> None:
    """Ids of an embedding are checked at run time, those of a gather are not; the ONNX model is the same."""
    texts = [
        f"""program @main(r0 "x": i64[2]) -> (r1 "y": f32[2,3]) {{
  const c0: f32[5,3] = "table"
  r1: f32[2,3] = {look_up}
  return r1
}}
"""
        for look_up in ("embedding c0, r0", "gather c0, r0 {axis=0}")
    ]
    works = [
        compiler._prepare(
            compiler.Wanted(parse(text), lambda c: np.ones(c.type.shape, np.float32)),
            tmp_path / str(i),
            CHIPS["hexagon-v73"],
            Cache(tmp_path / "cache"),
            "segment",
            DEFAULTS,
        )
        for i, text in enumerate(texts)
    ]
    assert len({work.emitted.path.read_bytes() for work in works}) == 1
    assert works[0].estimate_key == works[1].estimate_key and works[0].build_key != works[1].build_key


def test_kept_code_has_the_places_of_this_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a prediction that was stopped is asked for again, where one that the compiler died of is not."""
    program = parse(
        'program @main(r0 "x": f32[2]) -> (r1 "y": f32[2]) {\n  r1: f32[2] = exp r0\n  return r1\n}\n'
    )
    (instr,) = program.main.body
    stored = {"cycles": [1, 2, 3], "us": 1.0, "ddr_bytes": 0, "spill_bytes": 0, "vtcm_bytes": None}
    stored |= {"code_bytes": 0, "uncosted": ["r1.exp ()"], "layers": [["r1.exp", "HVX", 0.0, 1.0, ""]]}
    answers: dict[str, str] = {}
    stops: dict[str, Literal["", "time"]] = {"estimate": "time"}

    def run_all(jobs: list[Job], settings: Settings) -> list[Outcome]:
        for each in jobs:
            if each.folder.name in answers:
                (each.folder / process.RESULT).write_text(answers[each.folder.name])
            (each.folder / "context.onnx").write_bytes(b"context")
        return [Outcome(0, "", 1.0, 0, stops.get(each.folder.name, "")) for each in jobs]

    def read_profile(folder: Path, sources: dict[int, str], size: int) -> dict | None:
        done = folder.parent / "estimate" / process.RESULT
        said = json.loads(done.read_text())["error"] if done.exists() else None
        return compiler.prediction.placed(stored, sources) if said == "" else None

    monkeypatch.setattr(compiler, "run_all", run_all)
    monkeypatch.setattr(compiler.prediction, "read_profile", read_profile)

    def compiled(line: int, settings: Settings = DEFAULTS) -> container.Container:
        instr.source = Source("aten.exp", "model.py", line)
        (code,) = compiler.compile_segments(
            [program], no_constants, settings, CHIPS["hexagon-v73"], Cache(tmp_path)
        )
        return container.unpack(code)

    done = '{"error": "", "seconds": 1.0}'
    answers["build"] = done
    stopped = compiled(1)
    assert stopped.prediction is None and stopped.unpredicted == (
        "no prediction, compiling segment 0 for QCS9100, v73: it was stopped at the limit of 600 s; raise the "
        "option timeout"
    )
    answers.clear()
    assert (
        compiled(1, Settings(predict=False)).unpredicted == ""
    )  # the code is kept for whoever wants no more
    answers["build"] = done
    answers["estimate"] = done
    first = compiled(2).prediction
    assert first is not None and first["layers"][0][-1] == "aten.exp, model.py:2"
    answers.clear()  # nothing compiles from here on
    again = compiled(3).prediction
    assert again is not None and again["layers"][0][-1] == "aten.exp, model.py:3"
    assert again["uncosted"] == ["r1.exp (aten.exp, model.py:3)"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ('{"error": "", "seconds": 1.0}', "the vendor's model gave no estimate"),
        ('{"error": null, "seconds": 1.0}', "Qualcomm's compiler died"),
        ('{"error": "bad\\nworse", "seconds": 1.0}', "Qualcomm's compiler failed: bad"),
    ],
)
def test_a_prediction_that_failed_says_why(answer: str, why: str, tmp_path: Path) -> None:
    (tmp_path / process.RESULT).write_text(answer)
    run = runs.Run("a part for a chip", tmp_path, {})
    said = runs.why_none(run, Outcome(0, "", 1.0, 0), DEFAULTS)
    assert said == f"no prediction, compiling a part for a chip: {why}"


def test_a_lost_prediction_is_told_by_whole_and_by_folded_code() -> None:
    plain = container.pack(container.Container("a compiler", 60, (), (), {}, None, {}, "it was stopped"))
    folded = container.pack_folded(container.Folded(b"", (plain,), None, "a part was stopped"))
    qnn = QnnBackend(TARGETS[0])
    assert [qnn.unpredicted(code) for code in (plain, folded, b"")] == [
        "it was stopped",
        "a part was stopped",
        "",
    ]


def test_what_ships_is_of_known_ops() -> None:
    known = json.loads(KNOWN.read_text())
    for answers in known[FAMILY].values():
        assert answers.get("erf(f32/3) {}")
        assert answers["exp(f32/3) {}"] == ""


def test_an_instruction_on_constants_alone_gets_an_input() -> None:
    x = np.ones((2, 3), np.float32)
    instr = single("mul", Sample((2.0, x), {}), frozenset({1})).program.main.body[0]
    assert [r.type.shape for r in alone(instr).main.params] == [(2, 3)]
