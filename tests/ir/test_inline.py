"""Expanding calls keeps the meaning of a program."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import make_inputs, make_tensors, nested_program, planned, random_program, state_program

from forgec.ir.inline import inline
from forgec.ir.interpreter import Interpreter
from forgec.ir.program import ConstParam, Program, Source
from forgec.ir.verifier import verify


def check_same(p: Program) -> None:
    flat = inline(p)
    verify(flat)
    tensors, inputs = make_tensors(p), make_inputs(p)
    one, other = Interpreter(p, tensors), Interpreter(flat, tensors)
    for _ in range(2):
        for a, b in zip(one.run(inputs), other.run(inputs), strict=True):
            np.testing.assert_array_equal(a, b)


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_random_programs_mean_the_same(seed: int) -> None:
    check_same(random_program(seed))


@pytest.mark.parametrize("build", [nested_program, state_program])
def test_examples_mean_the_same(build: object) -> None:
    check_same(build())  # type: ignore[operator]


def test_the_flat_program_is_one_function_numbered_in_order() -> None:
    p = nested_program()
    flat = inline(p)
    assert list(flat.functions) == ["main"]
    assert [instr.op for instr in flat.main.body] == ["linear", "add", "mul", "linear", "add"] * 2
    defined = [r.id for r in flat.main.params] + [r.id for i in flat.main.body for r in i.results]
    assert defined == list(range(11))
    assert not any(isinstance(x, ConstParam) for i in flat.main.body for x in i.operands)
    weights = [str(i.operands[1]) for i in flat.main.body if i.op == "linear"]
    assert weights == ["c2", "c1", "c1", "c3"]
    assert (flat.main.param_names, flat.main.result_names) == (p.main.param_names, p.main.result_names)


def test_a_parameter_returned_directly_is_the_argument() -> None:
    flat = inline(nested_program())
    _, unchanged, same = flat.main.results
    assert unchanged == same == flat.main.params[0]


def test_the_program_itself_is_left_alone() -> None:
    p = nested_program()
    inline(p)
    assert p == nested_program()


def test_constants_without_use_are_dropped_and_states_kept() -> None:
    p = nested_program()
    p.main.body.pop()
    p.main.results = p.main.results[1:]
    p.main.result_names = p.main.result_names[1:]
    assert list(inline(p).constants) == ["c0", "c1", "c2"]
    assert inline(state_program()).states == state_program().states


def test_sources_attributes_and_devices_are_kept() -> None:
    p = planned(random_program(3), 3)
    body = [i for f in p.functions.values() for i in f.body if i.op != "call"]
    for instr in inline(p).main.body:
        assert any(
            (i.op, i.attrs, i.source, i.offsets) == (instr.op, instr.attrs, instr.source, instr.offsets)
            for i in body
        )


def test_the_device_of_a_call_holds_for_what_has_none() -> None:
    p = nested_program()
    inner, outer = p.functions["inner"], p.functions["outer"]
    p.main.body[0].device = "npu"
    outer.body[2].device = "gpu"
    inner.body[1].device = "cpu"
    inner.body[0].source = Source("aten.linear")
    devices = [i.device for i in inline(p).main.body]
    assert devices == ["npu", "cpu", "npu", "gpu", "cpu", None, "cpu", None, "gpu", "cpu"]
    assert inline(p).main.body[0].source == Source("aten.linear")
