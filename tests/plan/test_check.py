"""The checker accepts what the planner makes and rejects every corruption of it, by rule."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_devices import Device
from plan_programs import Builder, f32, gpt2, random_program

from forgec.errors import PlanError
from forgec.ir.op import get
from forgec.ir.program import Register
from forgec.plan.check import check_plan
from forgec.plan.plan import ArenaPlan, Plan
from forgec.plan.planner import make_plan


def on_cpu(b: Builder, *results: Register) -> Plan:
    return make_plan(b.program(*results), backends=[Device("cpu")], target="cpu")


def move(plan: Plan, r: Register, offset: int) -> None:
    """Put a register elsewhere, consistently and in an arena that is large enough."""
    plan.offsets[r] = offset
    for instr in plan.program.main.body:
        if r in instr.results:
            instr.offsets = tuple(plan.offsets.get(x) for x in instr.results)
    for device, arena in plan.arenas.items():
        top = max(plan.offsets[x] + x.type.nbytes for x in plan.offsets)
        plan.arenas[device] = replace(arena, nbytes=max(arena.nbytes, top))


def used_bytes(plan: Plan) -> dict[Register, tuple[int, int]]:
    """First and last instruction at which bytes of each register with bytes of its own are touched."""
    main = plan.program.main
    owner = {r: r for r in main.params}
    seen = {r: [-1] for r in main.params}
    for i, instr in enumerate(main.body):
        if get(instr.op).view:
            source = instr.operands[0]
            if source in owner:
                owner[instr.results[0]] = owner[source]  # type: ignore[index]
            continue
        for r in instr.registers():
            if r in owner and r.type.nbytes:
                seen[owner[r]].append(i)
        for r in instr.results:
            owner[r], seen[r] = r, [i]
    for r in main.results:
        if r in owner and r.type.nbytes:
            seen[owner[r]].append(len(main.body))
    return {r: (min(times), max(times)) for r, times in seen.items()}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_register_moved_onto_another_live_one_is_rejected(seed: int) -> None:
    rng = random.Random(seed)
    plan = make_plan(random_program(rng, 25), backends=[Device("cpu")], target="cpu")
    check_plan(plan)
    life = used_bytes(plan)
    clashes = [
        (a, b)
        for a in plan.offsets
        for b in plan.offsets
        if plan.offsets[a] != plan.offsets[b]
        and b.type.nbytes >= a.type.nbytes > 0
        and life[a][0] < life[b][0] < life[a][1]
    ]
    if clashes:
        a, b = rng.choice(clashes)
        move(plan, b, plan.offsets[a])
        with pytest.raises(PlanError, match=r"rule [3456]:"):
            check_plan(plan)


def test_read_after_overwritten_names_the_instruction() -> None:
    b = Builder()
    x = b.param(4, 8)
    y = b("softmax", x)
    z = b("softmax", y)
    plan = on_cpu(b, b("add", y, z), x)
    move(plan, z, plan.offsets[x])
    with pytest.raises(PlanError, match=r"rule 4.*r0 is read after r2 was written") as error:
        check_plan(plan)
    assert error.value.where == "the results"


def in_place_plan(make: Callable[[Builder, Register], Register]) -> tuple[Plan, Register, Register]:
    """A plan whose last result is put over the register before it."""
    b = Builder()
    y = b("exp", b.param(8, 8))
    z = make(b, y)
    plan = on_cpu(b, z)
    move(plan, z, plan.offsets[y])
    return plan, y, z


@pytest.mark.parametrize(
    "make",
    [
        lambda b, y: b("softmax", y),
        lambda b, y: b("linear", y, b.const(8, 8), None, y),
        lambda b, y: b("relu", b("transpose", y, perm=(1, 0))),
        lambda b, y: b("add", y, b("transpose", y, perm=(1, 0))),
        lambda b, y: b("relu", b("slice", y, axis=1, start=0, stop=4, step=1)),
        lambda b, y: b("concat", y, y, axis=0),
    ],
    ids=["softmax", "matrix", "permuted", "two views", "part", "larger"],
)
def test_illegal_in_place_is_rejected(make: Callable[[Builder, Register], Register]) -> None:
    plan, _, z = in_place_plan(make)
    with pytest.raises(PlanError, match="rule 6:") as error:
        check_plan(plan)
    assert str(z) in str(error.value.where)


def test_legal_in_place_is_accepted() -> None:
    plan, _, _ = in_place_plan(lambda b, y: b("relu", b("reshape", y, shape=(64,))))
    check_plan(plan)


def test_results_of_one_instruction_may_not_overlap() -> None:
    b = Builder()
    total, normed = b.all("add_rms_norm", b.param(4, 8), b.param(4, 8), None)
    plan = on_cpu(b, total, normed)
    move(plan, normed, plan.offsets[total])
    with pytest.raises(PlanError, match="rule 5"):
        check_plan(plan)


def test_inputs_may_not_overlap() -> None:
    b = Builder()
    x, y = b.param(4, 8), b.param(4, 8)
    plan = on_cpu(b, b("add", x, y))
    move(plan, y, plan.offsets[x])
    with pytest.raises(PlanError, match="rule 5") as error:
        check_plan(plan)
    assert error.value.where == "the inputs"


def two_devices() -> Plan:
    """cpu, npu, cpu, with a state on the npu."""
    b = Builder()
    s = b.state(4, 8)
    x = b("softmax", b.param(4, 8))
    y = b("linear", x, b.const(8, 8), None, None)
    y = b("linear", b("softmax", y), b.const(8, 8), None, None)
    b.all("write_state", s, y)
    y = b("add", y, b("read_state", s))
    z = b("tanh", y)
    npu = Device("npu", lambda i: 1.0, refuses=["tanh"])
    plan = make_plan(b.program(z), backends=[npu, Device("cpu", lambda i: 1e6)], target="npu")
    check_plan(plan)
    return plan


def first(plan: Plan, op: str) -> int:
    return next(i for i, instr in enumerate(plan.program.main.body) if instr.op == op)


def change(plan: Plan, **changes: object) -> Plan:
    return replace(plan, **changes)  # type: ignore[arg-type]


def set_device(plan: Plan, op: str, device: str | None) -> Plan:
    plan.program.main.body[first(plan, op)].device = device
    return plan


def drop_offset(plan: Plan) -> Plan:
    instr = plan.program.main.body[first(plan, "softmax")]
    del plan.offsets[instr.results[0]]
    instr.offsets = (None,)
    return plan


def offset(plan: Plan, value: int) -> Plan:
    instr = plan.program.main.body[first(plan, "softmax")]
    plan.offsets[instr.results[0]] = value
    instr.offsets = (value,)
    return plan


def disagree(plan: Plan) -> Plan:
    plan.program.main.body[first(plan, "softmax")].offsets = (1 << 20,)
    return plan


def twice(plan: Plan) -> Plan:
    body = plan.program.main.body
    body.insert(2, copy.copy(body[1]))
    return plan


def swap(plan: Plan) -> Plan:
    body = plan.program.main.body
    i = first(plan, "linear")
    body[i], body[i + 1] = body[i + 1], body[i]
    return plan


def wrong_host(plan: Plan) -> Plan:
    plan.program.main.results = (plan.program.main.body[first(plan, "add")].results[0],)
    return plan


def segment(plan: Plan, **changes: object) -> Plan:
    plan.segments[0] = replace(plan.segments[0], **changes)  # type: ignore[arg-type]
    return plan


def arena(plan: Plan, **changes: int) -> Plan:
    plan.arenas["npu"] = replace(plan.arenas["npu"], **changes)
    return plan


MUTATIONS: dict[str, tuple[int, Callable[[Plan], Plan]]] = {
    "no device": (1, lambda p: set_device(p, "linear", None)),
    "unknown device": (1, lambda p: set_device(p, "linear", "gpu")),
    "operand elsewhere": (1, lambda p: set_device(p, "linear", "cpu")),
    "no host": (1, lambda p: change(p, host="gpu")),
    "defined twice": (2, twice),
    "used before": (2, swap),
    "no offset": (3, drop_offset),
    "odd offset": (3, lambda p: offset(p, 32)),
    "beyond the arena": (3, lambda p: offset(p, 1 << 30)),
    "negative": (3, lambda p: offset(p, -64)),
    "two offsets": (3, disagree),
    "offset of nothing": (3, lambda p: change(p, offsets={**p.offsets, Register(999, f32(1)): 0})),
    "result elsewhere": (8, wrong_host),
    "segments short": (10, lambda p: change(p, segments=p.segments[:-1])),
    "segment short": (10, lambda p: segment(p, stop=1)),
    "segment device": (10, lambda p: segment(p, device="gpu")),
    "transitions": (10, lambda p: change(p, transitions=p.transitions + 1)),
    "buffers": (10, lambda p: arena(p, buffers=p.arenas["npu"].buffers + 1)),
    "registers": (10, lambda p: arena(p, registers=1)),
    "bound": (10, lambda p: arena(p, lower_bound=p.arenas["npu"].nbytes + 64)),
    "no reuse": (10, lambda p: arena(p, no_reuse=0)),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_rejected_by_its_rule(name: str) -> None:
    rule, mutate = MUTATIONS[name]
    with pytest.raises(PlanError, match=f"rule {rule}:"):
        check_plan(mutate(two_devices()))


def test_state_on_two_devices() -> None:
    b = Builder()
    s = b.state(4, 8)
    y = b("add", b.param(4, 8), s)
    plan = on_cpu(b, b("add", y, s))
    plan.program.main.body[1].device = "npu"
    plan.arenas["npu"] = ArenaPlan(64, 0, 64, 1, 1)
    with pytest.raises(PlanError, match=r"rule \d"):
        check_plan(plan)
    b = Builder()
    s = b.state(4, 8)
    one, two = b("read_state", s), b("read_state", s)
    plan = on_cpu(b, one)
    instr = plan.program.main.body[1]
    instr.device, instr.offsets = "npu", (0,)
    plan.offsets[two] = 0
    plan.arenas["npu"] = ArenaPlan(128, 128, 128, 1, 1)
    with pytest.raises(PlanError, match="rule 9"):
        check_plan(plan)


def test_a_segment_off_the_host_may_not_give_over_what_it_takes() -> None:
    """y goes from one npu segment to the next, which is done with it two instructions before it writes z."""
    b = Builder()
    y = b("linear", b.param(4, 8), b.const(8, 8), None, None)
    t = b("tanh", y)
    u = b("linear", y, b.const(8, 8), None, t)
    z = b("linear", b("softmax", u), b.const(8, 8), None, None)
    npu = Device("npu", lambda i: 1.0, refuses=["tanh"])
    plan = make_plan(b.program(z), backends=[npu, Device("cpu", lambda i: 1e6)], target="npu")
    check_plan(plan)
    assert [s.device for s in plan.segments] == ["npu", "cpu", "npu", "cpu"]
    move(plan, z, plan.offsets[y])
    with pytest.raises(PlanError, match=f"rule 7: it gives {z} over {y}"):
        check_plan(plan)


def test_a_real_program_passes() -> None:
    check_plan(make_plan(gpt2(layers=2), backends=[Device("cpu")], target="cpu"))
