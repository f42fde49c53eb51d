"""Reading a plan that nobody vouches for: every damage is an ArtifactError, nothing else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_devices import Device
from plan_programs import Builder

from forgec.errors import ArtifactError
from forgec.ir.program import Program
from forgec.plan.planner import make_plan
from forgec.plan.serialise import from_json, to_json


def program() -> Program:
    b = Builder()
    x = b("exp", b.param(4, 8))
    y = b("tanh", b("reshape", x, shape=(32,)))
    return b.program(b("linear", b("reshape", y, shape=(4, 8)), b.const(8, 8), None, None))


def record() -> dict[str, Any]:
    npu = Device("npu", lambda i: 1.0, ["tanh"])
    plan = make_plan(program(), backends=[npu, Device("cpu", lambda i: 1e5)], target="npu")
    return json.loads(json.dumps(to_json(plan)))


HUGE = 10**5000
Damage = Callable[[dict[str, Any]], object]
DAMAGE: dict[str, tuple[Damage, str]] = {
    "schema": (lambda r: r.update(schema="forgec.plan/2"), "plan.schema is 'forgec.plan/2'"),
    "huge schema": (lambda r: r.update(schema=HUGE), "plan.schema is this int"),
    "unknown key": (lambda r: r.update(colour=1), "plan has an unknown key 'colour'"),
    "missing key": (lambda r: r.pop("steps"), "plan lacks 'steps'"),
    "steps": (lambda r: r.update(steps={}), "plan.steps must be a list, not dict"),
    "step": (lambda r: r["steps"].append(3), "must be an object, not int"),
    "step key": (lambda r: r["steps"][1].update(x=1), r"plan.steps\[1\] has an unknown key 'x'"),
    "two kinds": (lambda r: r["steps"][1].update(copy=1), r"plan.steps\[1\] has an unknown key 'run'"),
    "step index": (lambda r: r["steps"][1].update(run=5), "must be an integer from 0 to 4, not 5"),
    "bool index": (lambda r: r["steps"][1].update(run=True), "must be an integer from 0 to 4, not True"),
    "float index": (lambda r: r["steps"][1].update(run=1.0), "must be an integer"),
    "huge index": (lambda r: r["steps"][1].update(run=HUGE), "not this int"),
    "copy index": (lambda r: r["steps"][0].update(copy=77), "do not run the program: r77"),
    "device": (lambda r: r["steps"][1].update(on=2), r"plan.steps\[1\].on must be an integer from 0 to 1"),
    "dropped step": (lambda r: r["steps"].pop(), "do not run the program"),
    "repeated step": (lambda r: r["steps"].append(r["steps"][1]), "runs twice"),
    "swapped": (lambda r: r["steps"].reverse(), "do not run the program"),
    "odd offset": (lambda r: r["steps"][1].update(at=[32]), "must be a multiple of 64"),
    "negative": (lambda r: r["steps"][1].update(at=[-64]), "must be an integer"),
    "outside": (lambda r: r["steps"][1].update(at=[1 << 40]), "does not fit plan.arenas"),
    "no offset": (lambda r: r["steps"][1].update(at=[None]), "does not fit the results of exp"),
    "two offsets": (lambda r: r["steps"][1].update(at=[0, 0]), "does not fit the results of exp"),
    "text offset": (lambda r: r["steps"][1].update(at=["0"]), "must be an integer"),
    "view offset": (
        lambda r: next(s for s in r["steps"] if s["at"] == [None]).update(at=[0]),
        "does not fit the results of reshape",
    ),
    "inputs": (lambda r: r.update(inputs=[]), "has 0 offsets for 1 inputs"),
    "input outside": (lambda r: r.update(inputs=[1 << 20]), "does not fit plan.arenas.cpu"),
    "huge arena": (
        lambda r: r["arenas"]["npu"].update(nbytes=1 << 50),
        "arenas.npu.nbytes must be an integer",
    ),
    "small arena": (lambda r: r["arenas"]["npu"].update(nbytes=0), "does not fit plan.arenas.npu of 0 bytes"),
    "bound": (lambda r: r["arenas"]["npu"].update(lower_bound=1 << 20), "lower_bound must be an integer"),
    "arena lost": (lambda r: r["arenas"].pop("npu"), "plan.arenas lacks 'npu'"),
    "arena extra": (lambda r: r["arenas"].update(gpu={}), "unknown key 'gpu'"),
    "host": (lambda r: r.update(host="gpu"), "include the host 'gpu'"),
    "other host": (lambda r: r.update(host="npu"), "do not run|does not fit"),
    "devices twice": (lambda r: r.update(devices=["cpu", "cpu"]), "must be distinct"),
    "many devices": (lambda r: r.update(devices=[str(i) for i in range(99)]), "at most 16"),
    "control sequence": (lambda r: r.update(target="\x1b[2J"), "cannot be printed"),
    "surrogate": (lambda r: r.update(target="\ud800"), "cannot be printed"),
    "long text": (lambda r: r.update(target="x" * 5000), "1 to 4096 characters"),
    "cost": (lambda r: r.update(cost_us=-1), "plan.cost_us must be a number"),
    "nan": (lambda r: r.update(cost_us=float("nan")), "plan.cost_us must be a number"),
    "huge cost": (lambda r: r.update(cost_us=HUGE), "plan.cost_us must be a number"),
    "transitions": (lambda r: r.update(transitions_naive=10**6), "plan.transitions_naive"),
    "reason step": (lambda r: r["reasons"][0].update(step=99), r"plan.reasons\[0\].step"),
    "reason text": (lambda r: r["reasons"][0].update(code=None), r"plan.reasons\[0\].code must be a text"),
    "many reasons": (lambda r: r.update(reasons=r["reasons"] * 50), "plan.reasons has"),
    "deep": (lambda r: r.update(cost_us=[[[]]]), "not this list"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(name: str) -> None:
    damage, message = DAMAGE[name]
    data = record()
    from_json(copy.deepcopy(data), program())
    damage(data)
    with pytest.raises(ArtifactError, match=message):
        from_json(data, program())


@pytest.mark.parametrize("data", [None, 3, [], "plan", {}])
def test_what_is_no_plan_at_all(data: Any) -> None:
    with pytest.raises(ArtifactError):
        from_json(data, program())


def test_a_plan_for_another_program() -> None:
    b = Builder()
    with pytest.raises(ArtifactError):
        from_json(record(), b.program(b("exp", b("exp", b.param(4, 8)))))


NUMBERS = [None, True, -1, 0, 1, 7, 64, 1 << 70, HUGE, 0.5, float("inf")]
JUNK = [*NUMBERS, "", "npu", [], [0], [None], {}, {"run": 0}]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_junk_anywhere_is_accepted_or_refused_but_never_crashes(seed: int) -> None:
    rng = random.Random(seed)
    data: Any = record()
    at = data
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = rng.choice(keys)
        inner = at[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
            at = inner
            continue
        at[key] = rng.choice(JUNK)
        break
    try:
        plan = from_json(data, program())
    except ArtifactError:
        return
    for r, offset in plan.offsets.items():
        assert offset % 64 == 0 and offset + r.type.nbytes <= max(a.nbytes for a in plan.arenas.values())
