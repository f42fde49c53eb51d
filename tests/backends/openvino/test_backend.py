"""The Intel backend: everything but the compiler fast, and with Intel's own compiler (slow, set up if missing)."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from forgec.backends.base import Memory, No, Settings, Yes
from forgec.backends.openvino import trial
from forgec.backends.openvino.backend import by_rule
from forgec.backends.openvino.compiler import Built, Model, Rejected
from forgec.backends.openvino.container import Code, Compiled
from forgec.backends.openvino.emission import emitted, renumbered
from forgec.backends.openvino.toolchain import Toolchain, find, missing
from worth_a_device import costs_file

import forgec
from forgec import backends
from forgec.errors import BackendError, TargetError
from forgec.executable.selftest import run_selftest
from forgec.ir.parser import parse
from forgec.ir.program import Constant, Instr, Program, Register, StateRef
from forgec.ir.types import DType, TensorType

TOOLS = Toolchain(Path("/nowhere"), "no compiler")
SEGMENT = parse(
    """program @main(r4 "x": f32[2,3]) -> (r9 "y": f32[2,2]) {
  const c0: f32[2,3] = "w"
  r5: f32[2,3] = tanh r4
  r7: f32[2,2] = linear r5, c0, _, _
  r9: f32[2,2] = softmax r7
  return r9
}
"""
)
WEIGHT = np.array([[1, 2, 3], [-1, 0, 1]], np.float32)


def value(constant: Constant) -> np.ndarray:
    return WEIGHT


def memory_of(segment: Program) -> tuple[Memory, dict[Register, np.ndarray]]:
    arrays = {
        r: np.zeros(r.type.shape, r.type.dtype.numpy) for r in (*segment.main.params, *segment.main.results)
    }
    return arrays.__getitem__, arrays  # type: ignore[return-value]


def test_a_segment_runs_emulated_from_its_code() -> None:
    model = emitted(SEGMENT, value, "4000", "segment 1")
    code = Code((Compiled(model.xml, model.weights, b""),), None).to_bytes()
    backend = backends.get("intel-npu4000")
    memory, arrays = memory_of(SEGMENT)
    (step,) = backend.load(SEGMENT, code, memory)
    for x in (np.eye(2, 3, dtype=np.float32), np.full((2, 3), -0.5, np.float32)):
        arrays[SEGMENT.main.params[0]][...] = x
        step()
        scores = np.tanh(x) @ WEIGHT.T
        want = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        np.testing.assert_allclose(arrays[SEGMENT.main.results[0]], want, atol=2e-3)


def test_equal_segments_are_equal_files_wherever_they_stand() -> None:
    other = parse(
        """program @main(r40 "x": f32[2,3]) -> (r90 "y": f32[2,2]) {
  const c0: f32[2,3] = "w"
  r50: f32[2,3] = tanh r40
  r70: f32[2,2] = linear r50, c0, _, _
  r90: f32[2,2] = softmax r70
  return r90
}
"""
    )
    assert renumbered(SEGMENT) == renumbered(other)
    a, b = emitted(SEGMENT, value, "4000", "a"), emitted(other, value, "4000", "b")
    assert a.xml == b.xml and a.weights == b.weights
    assert emitted(SEGMENT, lambda c: WEIGHT + 1, "4000", "a").weights != a.weights


def test_the_culprit_of_a_refused_segment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def build_batch(models: Sequence[Model], *_: object) -> list[Built | Rejected]:
        return [Rejected("no") if b"MatMul" in m.xml else Built(b"", "", b"") for m in models]

    monkeypatch.setattr(trial, "build_batch", build_batch)
    found = trial.culprit(SEGMENT, value, "4000", TOOLS)
    assert found is not None and found.op == "linear"
    monkeypatch.setattr(trial, "build_batch", lambda models, *_: [Built(b"", "", b"")])
    assert trial.culprit(SEGMENT, value, "4000", TOOLS) is None


def test_states_and_empty_tensors_stay_on_the_host() -> None:
    kind, empty = TensorType(DType.F32, (2,)), TensorType(DType.F32, (0, 2))
    no = by_rule(Instr("read_state", (StateRef("s", kind),), (Register(1, kind),)))
    assert isinstance(no, No) and no.code == "op"
    no = by_rule(Instr("neg", (Register(0, empty),), (Register(1, empty),)))
    assert isinstance(no, No) and no.code == "size"
    assert by_rule(Instr("neg", (Register(0, kind),), (Register(1, kind),))) is None


def test_without_a_compiler_the_target_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from forgec.backends.openvino import toolchain

    monkeypatch.setenv("FORGEC_CACHE", str(tmp_path))
    toolchain.find.cache_clear()
    try:
        if (toolchain._openvino_libraries() / toolchain._NATIVE).exists():
            pytest.skip("runs where OpenVINO has no native NPU compiler library, as its packages for Linux")
        backend = backends.get("meteor-lake")
        missing = backend.available()
        assert missing is not None and "forgec toolchain install intel-npu" in missing
        assert backend.runnable() is None and backend.kind in ("emulated", "measured")
        with pytest.raises(TargetError, match="intel-npu3720 is not available"):
            forgec.compile("minilm-tiny", target="intel-npu3720")
    finally:
        toolchain.find.cache_clear()


@pytest.fixture(scope="module")
def compiler() -> Toolchain:
    """Intel's compiler; tests install no system packages, `forgec toolchain install intel-npu` does."""
    tools = find()
    if tools is None:
        pytest.skip(f"{missing()}; it needs Wine, x86-64 Linux and the network")
    return tools


@pytest.mark.slow
class TestIntelsCompiler:
    @pytest.mark.parametrize("target", ["intel-npu3720", "intel-npu4000", "intel-npu5010"])
    def test_a_model_from_end_to_end(self, compiler: Toolchain, target: str, tmp_path: Path) -> None:
        exe = forgec.compile("minilm-tiny", target=target, costs=costs_file(tmp_path))
        report = exe.report
        assert report is not None and report.target == target
        (prediction,) = report.predictions
        assert prediction.latency_us > 1 and prediction.kind == "simulated" and prediction.device == target
        assert any("encoder" in layer.source or "attention" in layer.source for layer in prediction.layers)
        assert report.fidelity is not None and report.fidelity.passed and report.fidelity.cosine > 0.999
        exe.save(tmp_path / "m.forge")
        with forgec.load(tmp_path / "m.forge") as again:
            assert run_selftest(again, report.fidelity.bound_max_abs).passed

    def test_a_second_compile_is_the_first_ones_bytes(self, compiler: Toolchain) -> None:
        backend = backends.get("intel-npu4000")
        assert backend.compile(SEGMENT, value) == backend.compile(SEGMENT, value)

    def test_what_the_compiler_refuses_is_answered_in_our_words(self, compiler: Toolchain) -> None:
        backend = backends.get("intel-npu4000")
        kind = TensorType(DType.F32, (4, 2, 2, 2))
        index = Register(2, TensorType(DType.I64, (4,)))
        adding = Instr(
            "scatter",
            (Register(0, kind), Register(1, kind), index),
            (Register(3, kind),),
            {"accumulate": True},
        )
        two = Instr(
            "tanh",
            (Register(0, TensorType(DType.F32, (2, 2))),),
            (Register(1, TensorType(DType.F32, (2, 2))),),
        )
        no, yes = backend.answers([adding, two])
        assert isinstance(no, No) and "a scatter must replace what it finds" in no.reason
        assert isinstance(yes, Yes)

    def test_over_the_time_is_an_error_that_names_the_segment(self, compiler: Toolchain) -> None:
        fresh = WEIGHT * np.float32(np.random.default_rng().random())
        with pytest.raises(BackendError, match=r"the limit is 0\.05 s") as caught:
            backends.get("intel-npu4000").compile(SEGMENT, lambda c: fresh, Settings(timeout_s=0.05))
        assert caught.value.exit_code == 4 and "segment 1 of 1" in str(caught.value)

    def test_it_ends_with_forgec_and_has_a_heap_of_its_own(self, compiler: Toolchain, tmp_path: Path) -> None:
        """Killed in the middle, forgec can end nothing that it started."""
        count = 300  # a tenth of a second each
        model = emitted(SEGMENT, value, "4000", "segment 1")
        for number in range(count):
            (tmp_path / str(number)).mkdir()
            model.write(tmp_path / str(number))
        (tmp_path / "jobs").write_text("".join(f"../{number}\n" for number in range(count)))
        (tmp_path / "process").mkdir()
        code = KILLED.format(folder=str(tmp_path / "process"))
        with subprocess.Popen([sys.executable, "-c", code]) as forgec_process:
            wait_until(lambda: (tmp_path / "1" / "model.blob").exists())
            forgec_process.kill()
        wait_until(lambda: not working_in(tmp_path))
        assert not (tmp_path / str(count - 1) / "taken").exists()
        if compiler.wine:
            assert "@heap own" in (tmp_path / "process" / "log.txt").read_text(errors="replace")


KILLED = """
from pathlib import Path
from forgec.backends.base import Settings
from forgec.backends.openvino.toolchain import find
from forgec.backends.vendor.worker import Job, run
tools = find()
command = tools.command("NPU", "../jobs", {{"NPU_COMPILER_TYPE": "PLUGIN", "NPU_PLATFORM": "4000"}})
run(Job("models", command, Path({folder!r}), tools.environment), Settings())
"""


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def working_in(folder: Path) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process.pid)
    return found
