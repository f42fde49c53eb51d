"""Affinity scheduling against all topological orders of small graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from plan_programs import Builder, random_program

from forgec.ir.program import Program
from forgec.plan.plan import Segment
from forgec.plan.replay import Run, replay, transfer_steps
from forgec.plan.schedule import order, predecessors, segments, transitions


def assigned(program: Program, rng: random.Random, names: tuple[str, ...] = ("cpu", "npu")) -> Program:
    """The program with random devices and its transfers."""
    devices = [rng.choice(names) for _ in program.main.body]
    return replay(program, transfer_steps(program, devices, "cpu"), "cpu")


def topological_orders(before: list[set[int]]) -> Iterator[list[int]]:
    def extend(found: list[int], done: set[int]) -> Iterator[list[int]]:
        if len(found) == len(before):
            yield found
        for i, needed in enumerate(before):
            if i not in done and needed <= done:
                yield from extend([*found, i], done | {i})

    return extend([], set())


def legal(found: list[int], before: list[set[int]]) -> bool:
    at = {i: k for k, i in enumerate(found)}
    return len(at) == len(before) and all(at[j] < at[i] for i, needed in enumerate(before) for j in needed)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_two_devices_get_the_fewest_transitions_there_are(seed: int) -> None:
    rng = random.Random(seed)
    program = assigned(random_program(rng, rng.randint(3, 5), states=False), rng)
    body = program.main.body
    if len(body) > 9:
        return
    before = predecessors(program)
    found = order(program)
    assert legal(found, before)
    best = min(transitions(body[i] for i in o) for o in topological_orders(before))
    assert transitions(body[i] for i in found) == best


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_order_is_legal_and_no_worse_than_the_programs(seed: int) -> None:
    rng = random.Random(seed)
    b = random_program(rng, 30, states=False)
    program = assigned(b, rng, ("cpu", "npu", "gpu"))
    found = order(program)
    assert legal(found, predecessors(program))
    two = assigned(b, rng)
    body = two.main.body
    assert transitions(body[i] for i in order(two)) <= transitions(body)


def test_one_device_keeps_the_program_order() -> None:
    program = random_program(random.Random(3), 30)
    single = replay(program, [Run(i, "cpu") for i in range(len(program.main.body))], "cpu")
    assert order(single) == list(range(len(single.main.body)))


def test_two_interleaved_chains_are_unravelled() -> None:
    b = Builder()
    x, y = b.const(4, 8), b.const(4, 8)
    left, right = b("exp", b("reshape", x, shape=(32,))), b("exp", b("reshape", y, shape=(32,)))
    for _ in range(5):
        left, right = b("tanh", left), b("exp", right)
    program = b.program(b("add", left, right))
    for instr in program.main.body:
        instr.device = "npu" if instr.op == "tanh" else "cpu"
    program.main.body[-1].device = "npu"
    body = program.main.body
    assert transitions(body) == 11
    assert transitions(body[i] for i in order(program)) == 1


def test_state_accesses_keep_their_order() -> None:
    """A read, a write, two reads and a write, on alternating devices, with no value between them."""
    b = Builder()
    s, x = b.state(4, 8), b.param(4, 8)
    one = b("read_state", s)
    b.all("write_state", s, x)
    two = b("read_state", s)
    three = b("relu", b("transpose", s, perm=(1, 0)))
    b.all("write_state", s, x)
    program = b.program(one, two, three)
    for i, instr in enumerate(program.main.body):
        instr.device = ("cpu", "npu")[i % 2]
    assert predecessors(program) == [set(), {0}, {1}, set(), {1, 3}, {1, 2, 4}]
    found = order(program)
    assert [i for i in found if i != 3 and i not in (2, 4)] == [0, 1, 5]
    assert legal(found, predecessors(program))


def test_views_do_not_count_as_transitions() -> None:
    b = Builder()
    x = b("exp", b.param(4, 8))
    y = b("tanh", b("reshape", x, shape=(32,)))
    body = b.program(y).main.body
    for instr, device in zip(body, ("cpu", "npu", "cpu"), strict=True):
        instr.device = device
    assert transitions(body) == 0
    assert segments(body) == [Segment("cpu", 0, 1), Segment("npu", 1, 2), Segment("cpu", 2, 3)]
    assert transitions([]) == 0 and segments([]) == []
