"""Steps that do not run the program are refused, one test per rule; transfers go where they should."""

from __future__ import annotations

import pytest
from plan_programs import Builder

from forgec.errors import PlanError
from forgec.ir.program import Program
from forgec.plan.replay import Copy, Run, Step, replay, transfer_steps


def small() -> Program:
    """0 exp, 1 reshape (a view), 2 tanh of the view, 3 add; r0 is the input."""
    b = Builder()
    x = b("exp", b.param(4, 8))
    y = b("tanh", b("reshape", x, shape=(32,)))
    return b.program(b("add", y, b.const(32)))


def test_steps_in_program_order_change_nothing_but_devices() -> None:
    program = small()
    planned = replay(program, [Run(i, "cpu") for i in range(4)], "cpu")
    for old, new in zip(program.main.body, planned.main.body, strict=True):
        assert (old.op, old.operands, old.results) == (new.op, new.operands, new.results)
        assert new.device == "cpu" and new.attrs is old.attrs


def test_transfers_copy_the_value_once_and_view_it_again() -> None:
    steps = transfer_steps(small(), ["cpu", "", "npu", "cpu"], "cpu")
    assert steps == [
        Run(0, "cpu"), Copy(1, "npu"), Run(1, "npu"), Run(2, "npu"), Copy(3, "cpu"), Run(3, "cpu"),
    ]  # fmt: skip
    planned = replay(small(), steps, "cpu")
    texts = [f"{i.results[0]} {i.op} {i.operands[0]} {i.device}" for i in planned.main.body]
    assert texts == [
        "r1 exp r0 cpu", "r5 copy r1 npu", "r2 reshape r5 npu",
        "r3 tanh r2 npu", "r6 copy r3 cpu", "r4 add r6 cpu",
    ]  # fmt: skip


def test_two_readers_share_a_copy_and_unread_views_go() -> None:
    b = Builder()
    x = b("exp", b.param(4, 8))
    b("reshape", x, shape=(32,))
    program = b.program(b("add", b("tanh", x), b("neg", x)))
    steps = transfer_steps(program, ["cpu", "", "npu", "npu", "npu"], "cpu")
    assert [s for s in steps if isinstance(s, Copy)] == [Copy(1, "npu"), Copy(5, "cpu")]
    assert Run(1, "cpu") not in steps and Run(1, "npu") not in steps
    replay(program, steps, "cpu")


def test_results_come_home() -> None:
    steps = transfer_steps(small(), ["npu"] * 4, "cpu")
    assert steps[0] == Copy(0, "npu") and steps[-1] == Copy(4, "cpu")
    assert replay(small(), steps, "cpu").main.results[0].id == 6


def test_views_of_constants_are_taken_on_each_device() -> None:
    b = Builder()
    w = b("transpose", b.const(8, 4), perm=(1, 0))
    x = b("add", b.param(4, 8), w)
    program = b.program(b("mul", x, w))
    steps = transfer_steps(program, ["", "cpu", "npu"], "cpu")
    assert [s for s in steps if isinstance(s, Run) and s.index == 0] == [Run(0, "cpu"), Run(0, "npu")]
    assert sum(isinstance(s, Copy) for s in steps) == 2
    replay(program, steps, "cpu")


C = "cpu"
BAD: dict[str, tuple[list[Step], str]] = {
    "twice": ([Run(0, C), Run(0, C)], "instruction 0 .exp. runs twice"),
    "view twice": ([Run(0, C), Run(1, C), Run(1, C)], "r2 is defined twice on cpu"),
    "no such": ([Run(4, C)], "no instruction 4"),
    "negative": ([Run(-1, C)], "no instruction -1"),
    "too early": ([Run(1, C)], "reads r1, which is not there"),
    "elsewhere": ([Run(0, C), Run(1, "npu")], "reshape on npu reads r1, which is not there"),
    "never": ([Run(0, C), Run(1, C), Run(2, C)], "instruction 3 .add. never runs"),
    "copy early": ([Copy(1, "npu")], "r1 is copied before it is computed"),
    "copy of nothing": ([Copy(99, "npu")], "r99 is copied before"),
    "copy home": ([Run(0, C), Copy(1, C)], "r1 is defined twice on cpu"),
    "result away": (
        [Run(0, C), Run(1, C), Run(2, C), Copy(3, "npu"), Run(3, "npu")],
        "result r4 is never computed on cpu",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_steps_that_do_not_run_are_refused(name: str) -> None:
    steps, message = BAD[name]
    with pytest.raises(PlanError, match=message):
        replay(small(), steps, "cpu")


def test_state_order_is_kept() -> None:
    b = Builder()
    s = b.state(4, 8)
    old = b("read_state", s)
    b.all("write_state", s, b.param(4, 8))
    program = b.program(old, b("relu", b("reshape", s, shape=(32,))))
    replay(program, [Run(2, C), Run(0, C), Run(1, C), Run(3, C)], "cpu")
    for order in ([1, 0, 2, 3], [0, 2, 3, 1]):
        with pytest.raises(PlanError, match="touches state s0 out of order"):
            replay(program, [Run(i, C) for i in order], "cpu")
