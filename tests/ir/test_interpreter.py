"""The reference interpreter: results, states, observation, lifetime, and what it refuses."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from ir_programs import (
    Builder,
    apply,
    const,
    make_inputs,
    make_tensors,
    nested_program,
    program,
    ref,
    state_program,
    t,
)

from forgec.errors import InputError, InternalError
from forgec.ir.interpreter import Interpreter
from forgec.ir.op import get
from forgec.ir.program import Constant, Instr, Leaf, Literal
from forgec.ir.types import DType

TABLE: dict[str, np.ndarray] = {}
NO_TENSORS = TABLE.__getitem__


def test_nested_calls_compute_what_numpy_does() -> None:
    p = nested_program()
    tensors = make_tensors(p)
    z = np.array([[1, 2, 3, 4], [-1, 0, 1, 0.5]], np.float32)
    shared, w1, w2, w3 = (tensors(f"weight.c{i}") for i in range(4))

    def inner(x: Any, w: Any) -> Any:
        return x @ w.T + shared

    def outer(y: Any, k0: Any, k1: Any) -> Any:
        return inner(inner(y, k1) * y, k0)

    v, unchanged, same = Interpreter(p, tensors).run([z])
    np.testing.assert_allclose(v, outer(outer(z, w1, w2), w3, w1), rtol=1e-5)
    np.testing.assert_array_equal(unchanged, z)
    np.testing.assert_array_equal(same, z)


def test_states_live_from_run_to_run_until_reset() -> None:
    interpreter = Interpreter(state_program(), NO_TENSORS)
    one = np.array([1, 10], np.float32)
    seen = [[r.tolist() for r in interpreter.run([one])] for _ in range(2)]
    assert seen == [[[1, 10], [0, 0]], [[2, 20], [1, 10]]]
    interpreter.reset()
    assert interpreter.run([one])[0].tolist() == [1, 10]


def test_states_begin_with_given_values() -> None:
    start = {"s0": np.array([7, 8], np.float32)}
    interpreter = Interpreter(state_program(), NO_TENSORS, start)
    one = np.ones(2, np.float32)
    for _ in range(2):
        assert [r.tolist() for r in interpreter.run([one])] == [[8, 9], [7, 8]]
        interpreter.reset()
    assert start["s0"].tolist() == [7, 8]


def test_a_read_keeps_its_value_when_the_state_is_written() -> None:
    """``before`` is read before the write and returned after it."""
    total, before = Interpreter(state_program(), NO_TENSORS).run([np.array([5, 5], np.float32)])
    assert (total.tolist(), before.tolist()) == ([5, 5], [0, 0])


def test_results_belong_to_the_caller() -> None:
    """Also where a result is an input, a constant, or a view of one."""
    w = const("c0", t(2, 4))
    b = Builder("main")
    x = b.param(t(2, 4))
    p = program(b.function(x, b("transpose", x, perm=(1, 0)), b("copy", ref(w)), named=True), constants=(w,))
    table = {"weight.c0": np.ones((2, 4), np.float32)}
    z = np.zeros((2, 4), np.float32)
    interpreter = Interpreter(p, table.__getitem__)
    for result in interpreter.run([z]):
        result += 7
    assert not z.any() and (table["weight.c0"] == 1).all()
    assert [r.flat[0] for r in interpreter.run([z])] == [0, 0, 1]


def test_constants_are_evaluated_once_and_only_when_used() -> None:
    b = Builder("main")
    used = Constant("c0", t(3), apply("neg", Leaf("a", t(3))))
    unused = const("c1", t(3), "b")
    p = program(b.function(b("add", b.param(t(3)), ref(used)), named=True), constants=(used, unused))
    asked: list[str] = []

    def tensors(name: str) -> np.ndarray:
        asked.append(name)
        return np.ones(3, np.float32)

    interpreter = Interpreter(p, tensors)
    assert asked == []
    for _ in range(2):
        assert interpreter.run([np.zeros(3, np.float32)])[0].tolist() == [-1, -1, -1]
    assert asked == ["a"]


def test_observe_sees_every_instruction_in_order_under_its_path() -> None:
    seen: list[tuple[str, str]] = []

    def observe(path: str, instr: Instr, results: tuple[np.ndarray, ...]) -> None:
        assert [r.type.shape for r in instr.results] == [a.shape for a in results]
        seen.append((path, instr.op))

    p = nested_program()
    Interpreter(p, make_tensors(p)).run(make_inputs(p), observe=observe)

    def inner(prefix: str) -> list[tuple[str, str]]:
        return [(f"{prefix}r1", "linear"), (f"{prefix}r2", "add")]

    def outer(prefix: str) -> list[tuple[str, str]]:
        first, second = inner(f"{prefix}inner#0/"), inner(f"{prefix}inner#1/")
        return [*first, (f"{prefix}r1", "call"), (f"{prefix}r3", "mul"), *second, (f"{prefix}r4", "call")]

    assert seen == [*outer("outer#0/"), ("r1", "call"), *outer("outer#1/"), ("r3", "call")]


def test_observe_names_a_write_by_its_state() -> None:
    paths: list[str] = []
    p = state_program()
    Interpreter(p, NO_TENSORS).run(make_inputs(p), observe=lambda path, *_: paths.append(path))
    assert paths == ["r1", "r2", "s0", "r3"]


def test_registers_are_let_go_after_their_last_use() -> None:
    b = Builder("main")
    x = b.param(t(64))
    for _ in range(5):
        x = b("tanh", x)
    alive: list[weakref.ref] = []
    counts: list[int] = []

    def observe(_path: str, _instr: Instr, results: tuple[np.ndarray, ...]) -> None:
        alive.append(weakref.ref(results[0]))
        counts.append(sum(r() is not None for r in alive))

    Interpreter(program(b.function(x, named=True)), NO_TENSORS).run(
        [np.zeros(64, np.float32)], observe=observe
    )
    assert max(counts) <= 2, "a tanh and its operand"


def test_dead_and_unused_registers_do_no_harm() -> None:
    b = Builder("main")
    x, _unused = b.param(t(2)), b.param(t(2))
    b("neg", x)
    p = program(b.function(x, x, named=True))
    z = np.ones(2, np.float32)
    assert [r.tolist() for r in Interpreter(p, NO_TENSORS).run([z, z])] == [[1, 1], [1, 1]]


def test_rank_0_and_zero_sizes_run() -> None:
    b = Builder("main")
    x, empty = b.param(t()), b.param(t(0, 3))
    scaled = b("mul", b("exp", b("copy", x)), Literal(2.0))
    total = b("sum", empty, axes=(0, 1))
    p = program(b.function(scaled, total, b("softmax", empty), named=True))
    got = Interpreter(p, NO_TENSORS).run([np.zeros((), np.float32), np.zeros((0, 3), np.float32)])
    assert [r.tolist() for r in got] == [2.0, 0.0, []]
    assert [type(r) for r in got] == [np.ndarray] * 3


@pytest.mark.parametrize(
    "inputs, message",
    [
        ([], "takes 1 inputs, not 0"),
        ([np.zeros(2, np.float32)] * 2, "takes 1 inputs, not 2"),
        ([np.zeros(3, np.float32)], "input in0 f32[2] got float32 [3]"),
        ([np.zeros((1, 2), np.float32)], "input in0 f32[2] got float32 [1, 2]"),
        ([np.zeros(2)], "input in0 f32[2] got float64 [2]"),
        ([[0.0, 0.0]], "input in0 f32[2] is a list, not a numpy array"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("[", r"\[").replace("]", r"\]")):
        Interpreter(state_program(), NO_TENSORS).run(inputs)


def test_an_id_outside_its_table_names_the_instruction() -> None:
    b = Builder("main")
    table = const("c0", t(3, 2))
    y = b("embedding", ref(table), b.param(t(1, dtype=DType.I64)))
    p = program(b.function(y, named=True), constants=(table,))
    with pytest.raises(InputError) as caught:
        Interpreter(p, make_tensors(p)).run([np.array([3])])
    assert "3 is outside a table of 3 rows" in caught.value.what
    assert caught.value.where == "r1: r1: f32[1,2] = embedding c0, r0"


def test_an_evaluation_that_breaks_its_own_rule_is_our_bug() -> None:
    b = Builder("main")
    x = b.param(t(2))
    b.body.append(Instr("neg", (x,), (b.fresh(t(3)),)))
    p = program(b.function(x, named=True))
    with pytest.raises(InternalError, match=r"neg gave f32\[2\], not f32\[3\]"):
        Interpreter(p, NO_TENSORS).run([np.zeros(2, np.float32)])


def test_it_uses_the_records_evaluations() -> None:
    b = Builder("main")
    y = b("gelu_tanh", b.param(t(9)))
    z = np.linspace(-3, 3, 9, dtype=np.float32)
    (got,) = Interpreter(program(b.function(y, named=True)), NO_TENSORS).run([z])
    np.testing.assert_array_equal(got, get("gelu_tanh").evaluate((z,), {})[0])
