"""NPU or CPU: the sum of simulated, estimated and copied, and the answer."""

from __future__ import annotations

import pytest
from forgec.backends.base import Backend
from forgec.backends.cpu import CpuBackend
from forgec.backends.null import NullBackend
from forgec.backends.prediction import Prediction

from forgec.ir.parser import parse
from forgec.plan.cost import CostModel
from forgec.plan.plan import Plan
from forgec.plan.planner import make_plan
from forgec.report.verdict import verdict

TEXT = """program @main(r0 "x": f32[128,64]) -> (r3 "y": f32[128,64]) {
  const c0: f32[64,64] = "w"
  r1: f32[128,64] = linear r0, c0
  r2: f32[128,64] = gelu r1
  r3: f32[128,64] = linear r2, c0
  return r3
}
"""
COST = CostModel.load()
NULL = NullBackend(refuses=("gelu",), pretend=True, cost_us=0.0)


def plan(target: Backend) -> Plan:
    cpu = CpuBackend(cost=lambda instr: 1e6)  # so dear that the device is worth every copy
    return make_plan(parse(TEXT), backends=[target, cpu], target=target.name, cost=COST)


def predicted(found: Plan, us: float) -> dict[int, Prediction]:
    return {i: Prediction(us, "m") for i, s in enumerate(found.segments) if s.device == "null"}


def test_a_run_is_what_is_simulated_and_what_the_host_does_and_the_copies() -> None:
    found = plan(NULL)
    host = [i for i in found.program.main.body if i.op == "gelu"]
    instrs = [i for i in found.program.main.body if i.op != "copy"]
    assert found.transfers == 4 and len(predicted(found, 7.0)) == 2
    said = verdict(found, predicted(found, 7.0), NULL, COST)
    assert said is not None
    copies = 4 * COST.transfer_cost(128 * 64 * 4)
    assert said.placed_us == pytest.approx(14.0 + COST.instr_cost(host[0]) + copies)
    assert said.host_us == pytest.approx(sum(map(COST.instr_cost, instrs)))
    assert said.simulated_us == 14.0
    assert "14.0 us simulated on null" in said.sentence and COST.machine in said.sentence


def test_without_a_prediction_the_device_is_estimated() -> None:
    found = plan(NULL)
    said = verdict(found, {}, NULL, COST)
    linears = [i for i in found.program.main.body if i.op == "linear"]
    assert said is not None and said.simulated_us == 0
    assert said.placed_us > sum(map(COST.instr_cost, linears))
    assert " us on null and " in said.sentence and "simulated" not in said.sentence


@pytest.mark.parametrize("us", [1e6, 0.0])
def test_copies_and_a_slow_device_speak_for_the_host(us: float) -> None:
    found = plan(NULL)
    said = verdict(found, predicted(found, us), NULL, COST)
    assert said is not None and said.answer == "cpu" and said.host_us < said.placed_us


def test_the_answer_follows_the_ratio() -> None:
    whole = NullBackend(pretend=True, cost_us=0.0)
    found = plan(whole)
    alone = verdict(found, {}, whole, COST)
    assert alone is not None
    copies = 2 * COST.transfer_cost(128 * 64 * 4)
    for ratio, answer in ((3.0, "null"), (1.1, "either"), (1 / 1.1, "either"), (0.4, "cpu")):
        us = max(alone.host_us / ratio - copies, 0.0)
        if not us:
            continue
        said = verdict(found, predicted(found, us), whole, COST)
        assert said is not None and said.answer == answer, (ratio, said)


def test_the_host_alone_has_no_verdict_and_a_plan_without_the_device_says_so() -> None:
    cpu = CpuBackend()
    on_cpu = make_plan(parse(TEXT), backends=[cpu], target="cpu", cost=COST)
    assert verdict(on_cpu, {}, cpu, COST) is None
    nothing = NullBackend(refuses=("linear", "gelu"), pretend=True)
    said = verdict(plan(nothing), {}, nothing, COST)
    assert said is not None and said.answer == "cpu" and "nothing is worth" in said.sentence
