"""``verify`` names the wrong instruction inside of a segment that runs as a whole."""

import json
import math

import numpy as np
import pytest
from cli_toy import Wrong, example, toy
from forgec.backends.base import DEFAULTS
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend
from forgec.backends.vendor.legalise import attention_scale

from forgec import backends
from forgec.errors import BackendError
from forgec.executable import SelfTest
from forgec.report.inside import excess
from forgec.report.stepwise import first_divergence

TEXT = """\
program @main(r0 "input_ids": i64[1,4], r1 "bias": f32[4,8]) -> (r15 "logits": f32[1,4,9], r13 "hidden": f32[1,4,8]) {
  const c0: f32[9,8] = "wte"
  const c1: f32[8,8] = transpose("w": f32[8,8]) {perm=[1,0]}
  r2: f32[1,4,8] = embedding c0, r0
  r3: f32[1,4,8] = linear r2, c1                           # aten.linear, model.py:3, query
  r4: f32[1,4,2,4] = reshape r3 {shape=[1,4,2,4]}
  r5: f32[1,2,4,4] = transpose r4 {perm=[0,2,1,3]}
  r6: f32[1,4,2,4] = reshape r2 {shape=[1,4,2,4]}
  r7: f32[1,2,4,4] = transpose r6 {perm=[0,2,1,3]}
  r8: f32[1,2,4,4] = attention r5, r7, r7, _, _ {scale=0.5, causal=true}  # aten.sdpa, model.py:5, attend
  r9: f32[1,4,2,4] = transpose r8 {perm=[0,2,1,3]}
  r10: f32[1,4,2,4] = copy r9
  r11: f32[1,4,8] = reshape r10 {shape=[1,4,8]}
  r12: f32[1,4,8] = add r11, r1
  r13: f32[1,4,8] = gelu r12                               # aten.gelu, model.py:6, act
  r14: f32[1,4,8] = add r13, r2
  r15: f32[1,4,9] = linear r14, c0                         # aten.linear, model.py:9, head
  return r15, r13
}
"""
CACHED = """\
program @main(r0 "input_ids": i64[1,4], r1 "bias": f32[4,8]) -> (r6 "logits": f32[1,4,9], r5 "hidden": f32[1,4,8]) {
  state s0: f32[1,4,8]
  const c0: f32[9,8] = "wte"
  r2: f32[1,4,8] = embedding c0, r0
  r3: f32[1,4,8] = view_state s0
  r4: f32[1,4,8] = add r2, r3
  r5: f32[1,4,8] = gelu r4
  r6: f32[1,4,9] = linear r5, c0
  r7: i64[1,4] = sub r0, r0
  r8: i64[1,1] = slice r7 {axis=1, start=0, stop=1}
  r9: i64[] = reshape r8 {shape=[]}
  write_rows s0, r2, r9
  return r6, r5
}
"""
BOUND = 2.1e-5


class Counted(NullBackend):
    """Computes by the CPU's kernels, or by ``cpu``, and counts compiles of beginnings."""

    def __init__(self, cpu=None):
        super().__init__(pretend=True)
        self._cpu = cpu or CpuBackend()
        self.beginnings = 0

    def compile(self, segment, constants, settings=DEFAULTS):
        self.beginnings += settings.fold == "off"
        return super().compile(segment, constants, settings)


def on(device, target="null", text=TEXT):
    """The program on a device, its host's kernels being dear."""
    host = CpuBackend(cost=lambda instr: 1e6)
    return toy(
        selftest=False, target=target, text=text, backend=lambda name: host if name == "cpu" else device
    )


@pytest.mark.parametrize(
    ("op", "source"),
    [("attention", "model.py:5"), ("gelu", "model.py:6"), ("add", "add"), ("embedding", "embedding")],
)
def test_the_wrong_instruction_in_a_segment_is_named(op, source):
    device = Counted(Wrong(op, 0.01))
    executable = on(device)
    found = first_divergence(executable, example(), BOUND)
    assert found is not None
    body = executable.plan.program.main.body
    assert found.instr is body[found.index] is next(instr for instr in body if instr.op == op)
    assert source in str(found)
    assert found.max_abs == pytest.approx(0.01, rel=0.02)
    assert 0 < device.beginnings <= math.ceil(math.log2(len(body))) + 1
    assert found.remark == f"found by {device.beginnings} compiles of beginnings for null"


def test_a_state_is_read_as_it_was_before_it_is_written():
    class Host(Counted):
        def __init__(self):
            super().__init__(Wrong("gelu", 0.01))
            self._refuses = ("view_state", "write_rows")

    found = first_divergence(on(Host(), text=CACHED), example(), BOUND)
    assert found is not None
    assert found.instr.op == "gelu"
    assert found.remark.startswith("found by")


def test_what_a_device_cannot_hold_is_compared_as_its_largest():
    want, got = (np.array([low, 1], np.float32) for low in (-3.4e38, -np.inf))
    assert excess(want, got, 1e-2, "f16") is None
    assert excess(want, got, 1e-2, "f32") == math.inf
    assert excess(want, np.array([-np.inf, np.nan], np.float32), 1e-2, "f16") == math.inf


def test_a_right_segment_is_not_compiled_again():
    device = Counted()
    assert first_divergence(on(device), example(), BOUND) is None
    assert device.beginnings == 0


def test_an_error_in_the_last_instruction_is_confirmed_by_a_compile_of_the_whole():
    class Head(Wrong):
        def _spoil(self, instr, memory):
            return super()._spoil(instr, memory) if instr.results[0].type.shape[-1] == 9 else lambda: None

    device = Counted(Head("linear", 0.5))
    found = first_divergence(on(device), example(), BOUND)
    assert found is not None
    assert "model.py:9, head" in str(found)
    assert found.max_abs == pytest.approx(0.5, rel=0.01)


def test_a_compile_that_fails_ends_the_search_at_what_is_known():
    class Failing(Counted):
        def compile(self, segment, constants, settings=DEFAULTS):
            code = super().compile(segment, constants, settings)
            if self.beginnings > 1:
                raise BackendError("out of order")
            return code

    found = first_divergence(on(Failing(Wrong("attention", 0.01))), example(), BOUND)
    assert found is not None
    first, last = (int(word) for word in found.remark.replace(":", "").split() if word.isdigit())
    assert first <= 6 <= last < 13
    assert found.remark.endswith("the search ended as out of order")
    assert found.instr.op == "gelu"  # the first wrong result of the segment


def test_what_no_beginning_shows_is_said():
    class Stale(Counted):
        """Only what was compiled in the usual way is wrong."""

        def compile(self, segment, constants, settings=DEFAULTS):
            self._cpu = Wrong("gelu", 0.01) if settings.fold != "off" else CpuBackend()
            return super().compile(segment, constants, settings)

    found = first_divergence(on(Stale()), example(), BOUND)
    assert found is not None
    assert found.remark == "compiled anew and unfolded the segment is right"


def test_memory_that_two_share_is_no_instructions_fault():
    executable = on(Counted())
    plan = executable.plan
    logits, hidden = plan.program.main.results
    made = {r: instr for instr in plan.program.main.body for r in instr.results}
    inner = [made[r].operands[0] if made[r].op == "copy" else r for r in (logits, hidden)]
    plan.offsets[inner[0]] = plan.offsets[inner[1]]
    found = first_divergence(executable, example(), BOUND)
    assert found is not None
    assert found.remark.startswith("on the interpreter's inputs the segment is right")


@pytest.mark.parametrize("target", ["intel-npu4000", "hexagon-v73"])
def test_a_wrong_rule_for_a_vendors_compiler_is_named(target, forgec, tmp_path, monkeypatch):
    device = backends.get(target)
    if (missing := device.available()) is not None:
        pytest.skip(missing)

    def outcome(name):
        executable = on(device, target)
        executable._shared.selftest = SelfTest(example(), toy(text=TEXT).run_flat(example()))
        executable.save(tmp_path / name)
        result = forgec("verify", tmp_path / name, "--format", "json")
        return result.exit_code, json.loads(result.stdout)["first_divergence"]

    assert outcome("right.forge") == (0, None)
    times = attention_scale._times
    monkeypatch.setattr(attention_scale, "_times", lambda build, of, factor: times(build, of, 2 * factor))
    code, text = outcome("wrong.forge")
    assert code == 1
    assert "= attention " in text
    assert "# aten.sdpa, model.py:5, attend (max abs " in text
    assert f"compiles of beginnings for {target})" in text
