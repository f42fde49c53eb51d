"""Minimum-cut placement against every assignment of small programs, priced on the program that results."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_devices import Device
from plan_programs import Builder, gpt2, random_program

from forgec.errors import BackendError, PlanError
from forgec.ir.op import get
from forgec.ir.program import Instr, Program, Source
from forgec.plan.cost import CostModel
from forgec.plan.placement import Placement, place
from forgec.plan.replay import replay, transfer_steps

COST = CostModel.load()


def real_cost(program: Program, devices: list[str], prices: dict[str, dict[str, float]]) -> float:
    """Cost of the program with its transfers written out; infinite for a refused op, or one that takes a
    state away from the host."""
    planned = replay(program, transfer_steps(program, devices, "cpu"), "cpu")
    total = 0.0
    original = {id(i.attrs) for i in program.main.body}
    for instr in planned.main.body:
        assert instr.device is not None
        if get(instr.op).view:
            continue
        if instr.device != "cpu" and any(getattr(x, "name", "") in program.states for x in instr.operands):
            return float("inf")
        if instr.op == "copy" and id(instr.attrs) not in original:
            total += COST.transfer_cost(instr.results[0].type.nbytes)
        else:
            total += prices[instr.device].get(instr.op, float("inf"))
    return total


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_assignment_is_cheaper(seed: int) -> None:
    rng = random.Random(seed)
    program = random_program(rng, rng.randint(3, 10))
    nodes = [i for i, instr in enumerate(program.main.body) if not get(instr.op).view]
    used = sorted({instr.op for instr in program.main.body})
    prices = {
        "cpu": {op: rng.choice([5.0, 50.0, 200.0]) for op in used},
        "npu": {op: rng.choice([1.0, 10.0, 100.0]) for op in used if rng.random() < 0.8},
    }
    refused = [op for op in used if op not in prices["npu"]]
    host = Device("cpu", lambda i: prices["cpu"][i.op])
    npu = Device("npu", lambda i: prices["npu"][i.op], refused)
    found = place(program, npu, host, COST)
    best = float("inf")
    for choice in itertools.product(("cpu", "npu"), repeat=len(nodes)):
        devices = ["cpu"] * len(program.main.body)
        for i, device in zip(nodes, choice, strict=True):
            devices[i] = device
        best = min(best, real_cost(program, devices, prices))
    assert found.cost_us == pytest.approx(best, rel=1e-6)
    assert real_cost(program, found.devices, prices) == pytest.approx(best, rel=1e-6)
    assert found.cost_us <= found.naive_us
    assert set(found.reasons) == {i for i in nodes if found.devices[i] == "cpu"}


def chain(*ops: str) -> Program:
    b = Builder()
    x = b.param(64, 64)
    for op in ops:
        x = b(op, x)
    return b.program(x)


def placed(program: Program, npu: Device, cpu_us: float = 100.0) -> Placement:
    return place(program, npu, Device("cpu", lambda i: cpu_us), COST)


def test_one_unsupported_op_between_is_worth_two_transfers_or_not() -> None:
    transfer = COST.transfer_cost(64 * 64 * 4)
    program = chain(*["exp"] * 5, "tanh", *["exp"] * 5)
    fast = Device("npu", lambda i: 1.0, ["tanh"])
    found = placed(program, fast)
    assert found.devices == ["npu"] * 5 + ["cpu"] + ["npu"] * 5
    assert found.cost_us == pytest.approx(110 + 4 * transfer)
    slow = Device("npu", lambda i: 99.0, ["tanh"])
    found = placed(program, slow)
    assert found.devices == ["cpu"] * 11
    assert found.naive_us > found.cost_us == pytest.approx(1100)


def test_a_value_with_many_readers_is_copied_once() -> None:
    """Ten readers of one value on the other side: with a price per use they would stay on the host."""
    b = Builder()
    x = b("tanh", b.param(64, 64))
    total = b("sum", b("exp", x), axes=(0, 1))
    for _ in range(9):
        total = b("add", total, b("sum", b("mul", x, b.const(64, 64)), axes=(0, 1)))
    program = b.program(total)
    count = sum(i.op != "tanh" for i in program.main.body)
    transfer = COST.transfer_cost(64 * 64 * 4)
    npu = Device("npu", lambda i: 1.0, ["tanh"])
    per_op = 1.0 + (transfer * 1.5) / count
    found = placed(program, npu, per_op + COST.transfer_cost(4) / count)
    assert found.devices.count("npu") == count


def test_views_never_force_a_transition() -> None:
    b = Builder()
    x = b("exp", b.param(64, 64))
    y = b("tanh", b("reshape", b("transpose", x, perm=(1, 0)), shape=(1, 64, 64)))
    program = b.program(b("exp", y))
    found = placed(program, Device("npu", lambda i: 1.0, ["tanh"]))
    planned = replay(program, transfer_steps(program, found.devices, "cpu"), "cpu")
    ops = [(i.op, i.device) for i in planned.main.body]
    assert ops == [
        ("copy", "npu"), ("exp", "npu"), ("copy", "cpu"), ("transpose", "cpu"), ("reshape", "cpu"),
        ("tanh", "cpu"), ("copy", "npu"), ("exp", "npu"), ("copy", "cpu"),
    ]  # fmt: skip


def test_reasons_say_code_sentence_and_fix() -> None:
    b = Builder()
    s = b.state(64, 64)
    x = b("tanh", b.param(64, 64))
    b.all("write_state", s, b("exp", x))
    y = b("add", x, b("read_state", s))
    program = b.program(y)
    npu = Device("npu", lambda i: 100.0 if i.op == "exp" else 0.1, ["tanh", "write_state"])
    found = placed(program, npu)
    by_op = {program.main.body[i].op: reason for i, reason in found.reasons.items()}
    assert by_op["tanh"].code == "op" and by_op["tanh"].sentence == "npu has no tanh"
    assert by_op["tanh"].fix == "rewrite tanh"
    assert by_op["read_state"].code == "state" and "s0" in by_op["read_state"].sentence
    assert by_op["exp"].code == "cost" and "100.0 us on npu" in by_op["exp"].sentence


def test_a_state_that_is_a_result_stays_on_the_host() -> None:
    b = Builder()
    s = b.state(64, 64)
    b.all("write_state", s, b("exp", b.param(64, 64)))
    program = b.program(b("reshape", s, shape=(4096,)))
    found = placed(program, Device("npu", lambda i: 0.001), cpu_us=1e6)
    assert found.devices[:2] == ["npu", "cpu"]
    assert found.reasons[1].code == "state"


def test_instructions_that_nobody_runs_are_all_in_one_error() -> None:
    program = chain("exp", "tanh", "exp", "relu")
    program.main.body[0].source = Source("aten.exp", "model.py", 7)
    npu = Device("npu", refuses=["exp", "relu"])
    for refused in (["exp", "relu"], ["exp"]):
        with pytest.raises(PlanError, match="neither npu nor cpu can run") as error:
            place(program, npu, Device("cpu", refuses=refused), COST)
        assert ("relu" in str(error.value)) == ("relu" in refused)
        assert str(error.value).count("cpu has no exp; rewrite exp  # aten.exp, model.py:7") == 1
    cpu = Device("cpu", refuses=["tanh"])
    with pytest.raises(PlanError, match="cpu cannot run 1 of 4 instructions"):
        place(program, cpu, cpu, COST)


def test_states_that_no_one_device_holds_are_an_error() -> None:
    b = Builder()
    s = b.state(4, 8)
    b.all("write_state", s, b.param(4, 8))
    program = b.program(b("read_state", s))
    with pytest.raises(PlanError, match="neither npu nor cpu can run"):
        place(program, Device("npu", refuses=["read_state"]), Device("cpu", refuses=["write_state"]), COST)


@pytest.mark.parametrize("price", [-1.0, float("nan"), float("inf")])
def test_a_nonsense_price_is_the_backends_fault(price: float) -> None:
    with pytest.raises(BackendError, match="backend npu gives exp a cost of"):
        placed(chain("exp"), Device("npu", lambda i: price))


def test_equal_instructions_are_asked_about_once() -> None:
    npu = Device("npu", lambda i: 1.0)
    placed(gpt2(layers=4), npu)
    two = npu.asked
    placed(gpt2(layers=12), npu)
    assert npu.asked == 2 * two


def test_without_a_price_the_cost_model_gives_it() -> None:
    program = chain("exp", "tanh")
    cpu = Device("cpu")
    assert place(program, cpu, cpu, COST).cost_us == pytest.approx(COST.program_cost(program))


def test_placement_for_one_device_imports_no_solver() -> None:
    code = (
        "import sys; from forgec.plan import planner, check, serialise, memory_map;"
        "names = 'torch', 'networkx', 'scipy.optimize', 'scipy.sparse.csgraph';"
        "heavy = [name for name in names if name in sys.modules];"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_prices_may_depend_on_shapes() -> None:
    def price(instr: Instr) -> float:
        return 1.0 if instr.results[0].type.shape[0] > 8 else 1e4

    b = Builder()
    x = b("exp", b.param(64, 64))
    y = b("sum", b("tanh", x), axes=(0,), keepdims=True)
    program = b.program(b("exp", y))
    assert placed(program, Device("npu", price), 1e3).devices == ["npu", "npu", "cpu", "cpu"]


def test_the_host_does_what_little_stands_before_the_first_product() -> None:
    """The norm and the sum of an input, not what is made of a product, nor what it waits for; and nothing where
    nobody asks, or the host would be long at it."""
    b = Builder()
    x, y, weight = b.param(64, 64), b.param(64, 64), b.const(64, 64)
    normed = b("softmax", b("add", x, y), axis=-1)
    product = b("linear", normed, weight, None)
    whole = b("linear", b("tanh", b("add", product, b("exp", y))), weight, None)
    program = b.program(whole)
    npu = Device("npu", lambda i: 1.0)
    assert placed(program, npu, 30.0).devices == ["npu"] * 7
    npu.begins_with_products = True
    found = placed(program, npu, 30.0)
    assert found.devices == ["cpu"] * 2 + ["npu"] * 5
    assert {found.reasons[i].code for i in (0, 1)} == {"cost"} and "first product" in found.reasons[
        0
    ].sentence
    assert found.cost_us == pytest.approx(60 + 5 + 3 * COST.transfer_cost(64 * 64 * 4))
    assert placed(program, npu, 51.0).devices == ["npu"] * 7
