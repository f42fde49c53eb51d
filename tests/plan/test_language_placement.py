"""Language models on a device that keeps no state: the whole decoder is one segment between two of the host."""

from __future__ import annotations

import pytest
from forgec.backends.base import Backend
from plan_devices import Device
from tiers import slow_after

import forgec
from forgec.executable.segments import segment_programs
from forgec.ir.in_place import flatten
from forgec.ir.op import get
from forgec.ir.parser import parse
from forgec.ir.program import Program, StateRef
from forgec.plan.check import check_plan
from forgec.plan.plan import Plan
from forgec.plan.planner import make_plan

REFUSED = ["read_state", "write_state", "write_rows", "update_rows", "cache_mask", "aten"]


def planned(flat: Program, npu_us: float = 1e-3) -> Plan:
    devices: list[Backend] = [Device("npu", lambda i: npu_us, REFUSED), Device("cpu", lambda i: 100.0)]
    plan = make_plan(flat, backends=devices, target="npu")
    check_plan(plan)
    return plan


@pytest.mark.parametrize(
    "name", slow_after(1, ["llama-3.2-1b-tiny", "qwen2-0.5b-tiny", "gpt2-tiny", "lfm2-2.6b-tiny"])
)
def test_a_decoder_is_one_segment(name: str) -> None:
    programs = forgec.compile_language_model(name, context=32, chunks=[8], check=False)
    for entry in programs.values():
        plan = planned(flatten(entry.program, off_host=True))
        assert [segment.device for segment in plan.segments] == ["cpu", "npu", "cpu"], name
        body = plan.program.main.body
        there = {instr.op for instr in body if instr.device == "npu"}
        assert "attention" in there and not there.intersection(REFUSED)
        assert not there & {"cos", "sin"}, "rotary tables follow from the position, which is the host's"
        positional = [body[i].op for i, reason in plan.reasons.items() if reason.code == "position"]
        assert "cache_mask" in positional
        _, middle, _ = segment_programs(plan)
        assert not any(isinstance(x, StateRef) for instr in middle.main.body for x in instr.operands)


CACHED = """program @main(r0 "q": f32[1,2,1,4], r1 "at": i64[], r2 "ids": i64[1]) -> (r9 "y": f32[1,2,1,4]) {
  const c0: f32[9,4] = "table"
  state s0: f32[1,2,8,4]
  r3: f32[1,2,8,4] = read_state s0
  r4: f32[1,2,8,4] = update_rows r3, r0, r1
  r5: i64[] = add r1, 1
  r6: i64[] = mul r5, 3
  r7: f32[1,4] = embedding c0, r2
  r8: f32[1,2,1,4] = add r0, r7
  r9: f32[1,2,1,4] = attention r8, r4, r4, _, r5 {scale=0.5}
  write_state s0, r4
  return r9
}
"""


def test_only_what_follows_from_the_position_is_pinned() -> None:
    plan = planned(flatten(parse(CACHED), off_host=True))
    body = plan.program.main.body
    where = {instr.op: instr.device for instr in body if not get(instr.op).view and instr.op != "copy"}
    assert where["mul"] == where["cache_mask"] == where["write_rows"] == "cpu"
    assert where["embedding"] == where["attention"] == where["concat"] == "npu"
    codes = {body[i].op: reason.code for i, reason in plan.reasons.items()}
    assert codes["mul"] == codes["cache_mask"] == "position" and codes["write_rows"] == "state"


def test_a_device_reads_a_state_where_it_lies() -> None:
    plan = planned(flatten(parse(CACHED), off_host=True))
    copied = [instr for instr in plan.program.main.body if instr.op == "copy"]
    assert all(instr.results[0].type.numel < 2 * 8 * 4 for instr in copied), "a cache was transferred"
    number = next(i for i, segment in enumerate(plan.segments) if segment.device == "npu")
    segment = segment_programs(plan)[number]
    caches = [r for r in segment.main.params if r.type.shape == (1, 2, 8, 4)]
    assert len(caches) == 1
    assert not any(instr.op == "view_state" for instr in segment.main.body)


def test_the_host_writes_after_all_have_read() -> None:
    plan = planned(flatten(parse(CACHED), off_host=True))
    ops = [instr.op for instr in plan.program.main.body]
    assert ops.index("write_rows") > ops.index("attention") > ops.index("view_state")


def test_an_expensive_device_leaves_all_to_the_host() -> None:
    plan = planned(flatten(parse(CACHED), off_host=True), npu_us=1e6)
    assert {segment.device for segment in plan.segments} == {"cpu"}


def test_other_counts_of_the_caller_are_the_hosts_too() -> None:
    text = CACHED.replace('r2 "ids": i64[1]', 'r2 "ids": i64[1], r10 "count": i64[]')
    text = text.replace('(r9 "y": f32[1,2,1,4])', '(r9 "y": f32[1,2,1,4], r11 "z": i64[])')
    text = text.replace("  return r9", "  r11: i64[] = neg r10\n  return r9, r11")
    body = planned(flatten(parse(text), off_host=True)).program.main.body
    assert {instr.op: instr.device for instr in body}["neg"] == "cpu"
