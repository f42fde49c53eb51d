"""Whole plans: real transformer shapes, random programs run in their arenas, growth, errors."""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_devices import Device
from plan_execute import random_tensors, run_flat, run_plan
from plan_programs import Builder, bert, gpt2, llama, random_program, whisper_encoder

from forgec.errors import TargetError
from forgec.ir.op import get
from forgec.ir.program import Program
from forgec.plan.check import check_plan
from forgec.plan.plan import Plan
from forgec.plan.planner import make_plan
from forgec.plan.replay import Copy
from forgec.plan.serialise import from_json, to_json

REAL: dict[str, Callable[[], Program]] = {
    "gpt2": gpt2,
    "gpt2 16 tokens": lambda: gpt2(rows=16),
    "gpt2 with cache": lambda: gpt2(rows=512, cache=True),
    "granite": lambda: llama(24, 128, 1024, 16, 4, 2048, 49155),
    "qwen2": lambda: llama(24, 128, 896, 14, 2, 4864, 151936),
    "qwen2 long, small head": lambda: llama(24, 512, 896, 14, 2, 4864, 1000, cache=True),
    "llama 1b": llama,
    "llama 8b": lambda: llama(32, 128, 4096, 32, 8, 14336, 128256),
    "bert": bert,
    "bert 16 tokens": lambda: bert(rows=16),
    "whisper": whisper_encoder,
}


def on_cpu(program: Program) -> Plan:
    return make_plan(program, backends=[Device("cpu")], target="cpu")


@pytest.mark.parametrize("name", REAL)
def test_arena_of_real_shapes_is_near_the_bound(name: str) -> None:
    program = REAL[name]()
    plan = on_cpu(program)
    check_plan(plan)
    arena = plan.arenas["cpu"]
    assert arena.nbytes <= 1.10 * arena.lower_bound
    assert arena.nbytes < 0.5 * arena.no_reuse
    assert arena.rho > 0.478  # the best of the paper's six models
    assert plan.transitions == plan.transitions_naive == plan.transfers == 0
    assert [i.op for i in plan.program.main.body] == [i.op for i in program.main.body]


def test_lower_bound_is_the_largest_live_sum() -> None:
    """Embedding, sum, norm and a wide product, counted by hand: 64-byte rows, x4 in the product."""
    b = Builder()
    x = b("exp", b.param(16, 16))  # over its input
    y = b.linear(b("softmax", x), 64)  # softmax 1024, then 1024 (x) + 1024 + 4096
    z = b.linear(b("relu", y), 16, residual=x)  # 4096 + 1024
    plan = on_cpu(b.program(z))
    arena = plan.arenas["cpu"]
    assert arena.lower_bound == arena.nbytes == 1024 + 1024 + 4096
    assert arena.no_reuse == 4 * 1024 + 2 * 4096
    assert (arena.registers, arena.buffers) == (6, 3)


def split_devices(rng: random.Random) -> list[Device]:
    ops = ["relu", "tanh", "softmax", "add", "linear", "add_rms_norm", "concat", "copy", "read_state"]
    cpu, npu = rng.choice([5.0, 60.0]), rng.choice([0.5, 5.0])
    return [Device("cpu", lambda i: cpu), Device("npu", lambda i: npu, rng.sample(ops, 3))]


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**6), two=st.booleans())
def test_a_planned_program_computes_what_the_flat_one_does(seed: int, two: bool) -> None:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(1, 35))
    backends = split_devices(rng) if two else [Device("cpu")]
    plan = make_plan(program, backends=backends, target=backends[-1].name)
    check_plan(plan)
    inputs, constants, states = random_tensors(program, seed)
    planned_states = copy.deepcopy(states)
    expected = run_flat(program, inputs, constants, states)
    found = run_plan(plan, inputs, constants, planned_states)
    for a, b in zip([*expected, *states.values()], [*found, *planned_states.values()], strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), two=st.booleans())
def test_a_plan_survives_its_file(seed: int, two: bool) -> None:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(1, 25))
    backends = split_devices(rng) if two else [Device("cpu")]
    plan = make_plan(program, backends=backends, target=backends[-1].name)
    assert from_json(json.loads(json.dumps(to_json(plan))), program) == plan


def test_two_devices_on_a_real_program() -> None:
    program = llama(4, 128, 896, 14, 2, 4864, 1000)
    refuses = ["rope", "cos", "sin", "embedding"]
    cpu, npu = Device("cpu", lambda i: 500.0), Device("npu", lambda i: 50.0, refuses)
    plan = make_plan(program, backends=[npu, cpu], target="npu")
    check_plan(plan)
    assert plan.transitions < plan.transitions_naive
    assert plan.cost_us <= plan.cost_naive_us
    body = plan.program.main.body
    assert {body[i].op for i in plan.reasons} == set(refuses)
    assert all(body[i].device == "cpu" for i in plan.reasons)
    copies = [i for i, s in enumerate(plan.steps) if isinstance(s, Copy)]
    assert plan.transfers == len(copies)
    assert plan.transfer_bytes == sum(body[i].results[0].type.nbytes for i in copies)
    assert all(arena.nbytes <= 1.10 * arena.lower_bound for arena in plan.arenas.values())
    on_target = [i for i in body if not get(i.op).view and i.device == "npu"]
    assert len(on_target) > 0.5 * len(program.main.body) * 0.5


def test_the_input_program_is_left_alone() -> None:
    program = gpt2(layers=1, rows=4, width=64, heads=2, vocabulary=32)
    before = copy.deepcopy(program)
    on_cpu(program)
    assert program == before


def test_a_result_that_is_an_input_and_an_empty_body() -> None:
    b = Builder()
    x = b.param(4, 8)
    for backends in ([Device("cpu")], [Device("cpu"), Device("npu")]):
        plan = make_plan(b.program(x, x), backends=backends, target=backends[-1].name)
        check_plan(plan)
        assert plan.segments == [] and plan.arenas["cpu"].nbytes == 128


def test_registers_of_no_bytes() -> None:
    b = Builder()
    x = b("relu", b("exp", b.param(0, 8)))
    plan = on_cpu(b.program(b("concat", x, b.const(2, 8), axis=0)))
    check_plan(plan)
    assert plan.arenas["cpu"].nbytes == 64 and plan.arenas["cpu"].buffers == 1


def test_a_target_without_a_cpu_is_its_own_host() -> None:
    plan = make_plan(gpt2(layers=1), backends=[Device("npu")], target="npu")
    check_plan(plan)
    assert (plan.host, set(plan.arenas)) == ("npu", {"npu"})


def test_unknown_and_missing_targets() -> None:
    program = gpt2(layers=1)
    with pytest.raises(TargetError, match="no target 'gpu'") as error:
        make_plan(program, backends=[Device("cpu"), Device("npu")], target="gpu")
    assert error.value.hint == "one of: cpu, npu"
    npu = Device("npu", missing="there is no vendor compiler")
    with pytest.raises(TargetError, match="npu is not available: there is no vendor compiler"):
        make_plan(program, backends=[Device("cpu"), npu], target="npu")
    make_plan(program, backends=[Device("cpu"), npu], target="cpu")


def lines_run(work: Callable[[], object]) -> int:
    """Lines of Python that a call executes: a count of operations that no busy machine changes."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("two", [False, True], ids=["one device", "two devices"])
@pytest.mark.parametrize("cache", [False, True], ids=["plain", "cache"])
def test_no_quadratic_growth(cache: bool, two: bool) -> None:
    """Twice the layers may cost at most 2.2 times the operations."""
    cpu, npu = Device("cpu", lambda i: 500.0), Device("npu", lambda i: 50.0, ["rope"])

    def operations(layers: int) -> int:
        program = llama(layers, 16, 64, 4, 2, 128, 100, cache=cache)
        backends = [cpu, npu] if two else [cpu]

        def work() -> None:
            check_plan(make_plan(program, backends=backends, target=backends[-1].name))

        return lines_run(work)

    small, large = operations(8), operations(16)
    assert large <= 2.2 * small
