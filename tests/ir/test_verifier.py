"""Every rule of the verifier: a program that breaks it, and what the error shows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from forgec.errors import VerifyError
from forgec.ir import verifier
from forgec.ir.parser import parse
from forgec.ir.program import (
    Apply,
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Literal,
    Program,
    Register,
    StateRef,
)
from forgec.ir.types import DType, TensorType
from forgec.ir.verifier import verify
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_programs import nested_program, planned, random_program, state_program, t

X = Register(0, t(2, 3))


def entry(*lines: str, functions: str = "") -> Program:
    """An entry that takes r0: f32[2,3] and returns it, with these lines between."""
    inner = "".join(f"  {line}\n" for line in lines)
    return parse(f'program @main(r0 "x": f32[2,3]) -> (r0 "y": f32[2,3]) {{\n{inner}  return r0\n}}\n{functions}')


def block(*lines: str, name: str = "f", params: str = "r0: f32[2,3], k0: f32[3]") -> str:
    inner = "".join(f"  {line}\n" for line in lines)
    return f"function @{name}({params}) -> (f32[2,3]) {{\n{inner}  return r0\n}}\n"


def instrs(*body: Instr, **changes: Any) -> Program:
    main = Function("main", (X,), ("x",), list(body), (X,), ("y",))
    return Program("main", {"main": replace(main, **changes)})


def constant(recipe: Any, type_: TensorType | None = None) -> Program:
    p = instrs()
    p.constants["c0"] = Constant("c0", type_ or recipe.type, recipe)
    return p


def nest(depth: int) -> Any:
    recipe: Any = Leaf("a", t(2))
    for _ in range(depth):
        recipe = Apply("neg", (recipe,), (), t(2))
    return recipe


def with_tables(**changes: Any) -> Program:
    return replace(instrs(), **changes)


def chain(depth: int, calls: int = 1) -> Program:
    """f0 calls f1, which calls f2, ...; each call ``calls`` times."""
    text = "".join(
        block(*[f"r{j + 1}: f32[2,3] = call @f{i + 1} r0" for j in range(calls)], name=f"f{i}", params="r0: f32[2,3]")
        for i in range(depth)
    )
    return entry("r1: f32[2,3] = call @f0 r0", functions=text + block(name=f"f{depth}", params="r0: f32[2,3]"))


Y = Register(1, t(2, 3))
LEAF = Leaf("a", t(2, 3))

REJECTED: dict[str, tuple[str, Callable[[], Program], str]] = {
    # names
    "entry missing": ("V1", lambda: with_tables(entry="start"), "no function named 'start'"),
    "function under another name": ("V1", lambda: with_tables(functions={"main": instrs(name="m").main}), "'m' stands"),
    "function name": ("V1", lambda: Program("a b", {"a b": instrs(name="a b").main}), "'a b' is not a word"),
    "constant under another name": (
        "V1", lambda: with_tables(constants={"c1": Constant("c0", LEAF.type, LEAF)}), "'c0' stands under the name 'c1'"
    ),
    "constant name": (
        "V1", lambda: with_tables(constants={"r7": Constant("r7", LEAF.type, LEAF)}), "not a word that begins with c"
    ),
    "state name": ("V1", lambda: with_tables(states={"s 0": t(2)}), "'s 0' is not a word that begins with s"),
    "device name": ("V1", lambda: instrs(Instr("neg", (X,), (Y,), device="np u")), "device name 'np u'"),
    # signature
    "parameter without name": ("V2", lambda: instrs(param_names=()), "1 parameters have 0 names"),
    "result without name": ("V2", lambda: instrs(result_names=("a", "b")), "1 results have 2 names"),
    "empty name": ("V2", lambda: instrs(param_names=("",)), "not different and not empty"),
    "names alike": ("V2", lambda: instrs(results=(X, X), result_names=("y", "y")), "result names ['y', 'y']"),
    "constant parameters out of order": (
        "V2", lambda: entry(functions=block(params="r0: f32[2,3], k1: f32[3], k0: f32[3]")), "not k0, k1"
    ),
    "entry with constant parameters": (
        "V2", lambda: instrs(const_params=(ConstParam(0, t(3)),)), "the entry has constant parameters"
    ),
    # types
    "rank": ("V3", lambda: instrs(params=(X, Register(1, t(*[1] * 9))), param_names=("x", "z")), "rank 9 is over 8"),
    "size": ("V3", lambda: with_tables(states={"s0": t(2**40 + 1)}), "size 1099511627777 is outside 0..2**40"),
    "negative size": ("V3", lambda: with_tables(states={"s0": t(-1)}), "size -1"),
    "bytes": ("V3", lambda: constant(Leaf("a", t(2**30, 2**20, 0))), "over 2**48 bytes"),
    "bytes of a result": (
        "V3", lambda: instrs(Instr("expand", (X,), (Register(1, t(2**39, 1, 2, 3)),), {"shape": (2**39, 1, 2, 3)})),
        "over 2**48 bytes",
    ),
    "bytes inside a recipe": (
        "V3", lambda: constant(Apply("sum", (Leaf("a", t(2**40, 2**10)),), (("axes", (0, 1)),), t())), "over 2**48"
    ),
    "type of a constant parameter": ("V3", lambda: entry(functions=block()) and Program(
        "main", {"main": instrs().main, "f": replace(instrs(name="f").main, const_params=(ConstParam(0, t(-1)),))}
    ), "size -1"),
    # registers
    "parameter defined twice": ("V4", lambda: instrs(params=(X, X), param_names=("x", "z")), "r0 is defined twice"),
    "register defined twice": ("V4", lambda: entry("r1: f32[2,3] = neg r0", "r1: f32[2,3] = exp r0"), "r1 is defined"),
    "register of a parameter": ("V4", lambda: entry("r0: f32[2,3] = neg r0"), "r0 is defined twice"),
    "two results alike": ("V4", lambda: entry("r1: f32[2,3], r1: f32[2,3] = add_rms_norm r0, r0"), "r1 is defined"),
    "use before definition": ("V5", lambda: instrs(Instr("neg", (Y,), (Y,))), "r1 is not defined before its use"),
    "result without definition": ("V5", lambda: instrs(results=(Y,)), "r1 is not defined"),
    "use of another type": (
        "V6", lambda: instrs(Instr("neg", (Register(0, t(3)),), (Register(1, t(3)),))), "r0 is f32[2,3], used as f32[3]"
    ),
    "result of another type": ("V6", lambda: instrs(results=(Register(0, t(3)),)), "r0 is f32[2,3], used as f32[3]"),
    "constant missing": ("V6", lambda: instrs(Instr("add", (X, ConstRef("c0", t(3))), (Y,))), "c0 does not exist"),
    "constant of another type": (
        "V6", lambda: replace(
            instrs(Instr("add", (X, ConstRef("c0", t(3))), (Y,))), constants=constant(Leaf("a", t(1))).constants
        ), "c0 is f32[1], used as f32[3]",
    ),
    "constant parameter in the entry": (
        "V6", lambda: instrs(Instr("add", (X, ConstParam(0, t(3))), (Y,))), "k0 does not exist"
    ),
    "constant parameter beyond the last": ("V6", lambda: Program("main", {
        "main": instrs().main,
        "f": replace(instrs(Instr("add", (X, ConstParam(1, t(3))), (Y,)), name="f").main,
                     const_params=(ConstParam(0, t(3)),)),
    }), "k1 does not exist"),
    "negative constant parameter": ("V6", lambda: Program("main", {
        "main": instrs().main,
        "f": replace(instrs(Instr("add", (X, ConstParam(-1, t(3))), (Y,)), name="f").main,
                     const_params=(ConstParam(0, t(3)),)),
    }), "k-1 does not exist"),
    "state missing": ("V6", lambda: instrs(Instr("read_state", (StateRef("s0", t(2, 3)),), (Y,))), "s0 does not exist"),
    "state of another type": (
        "V6", lambda: replace(instrs(Instr("read_state", (StateRef("s0", t(2, 3)),), (Y,))), states={"s0": t(9)}),
        "s0 is f32[9], used as f32[2,3]",
    ),
    # operands
    "unknown op": ("V7", lambda: instrs(Instr("nag", (X,), (Y,))), "unknown op 'nag'"),
    "state in an ordinary op": ("V7", lambda: entry("state s0: f32[2,3]", "r1: f32[2,3] = neg s0"), "cannot be a state"),
    "state as an index": (
        "V7", lambda: entry("state s0: i64[1]", "r1: f32[1,3] = gather r0, s0"), "operand indices of gather cannot be"
    ),
    "register read as a state": ("V7", lambda: entry("r1: f32[2,3] = read_state r0"), "state of read_state must be a"),
    "state written as a value": (
        "V7", lambda: entry("state s0: f32[2,3]", "write_state s0, s0"), "operand value of write_state cannot be"
    ),
    "absent operand": ("V7", lambda: entry("r1: f32[2,3] = add r0, _"), "operand b of add is left out"),
    "absent operand before others": (
        "V7", lambda: entry("r1: f32[2,3] = where _, r0, r0"), "operand condition of where is left out"
    ),
    "literal in an optional place": (
        "V7", lambda: entry("r1: f32[2,3] = layer_norm r0, 1.0"), "is a tensor or left out, not a literal"
    ),
    # literals
    "fraction beside integers": (
        "V8", lambda: entry("r1: i32[2,3] = cast r0 {dtype=\"i32\"}", "r2: i32[2,3] = add r1, 0.5"), "not a value of i32"
    ),
    "infinity beside integers": (
        "V8", lambda: entry("r1: i32[2,3] = cast r0 {dtype=\"i32\"}", "r2: i32[2,3] = maximum -inf, r1"), "-inf is not"
    ),
    "number beside booleans": (
        "V8", lambda: entry("r1: bool[2,3] = lt r0, 0", "r2: bool[2,3] = eq r1, 2"), "2 is not a value of bool"
    ),
    "negative beside unsigned": (
        "V8", lambda: entry("r1: u8[2,3] = cast r0 {dtype=\"u8\"}", "r2: u8[2,3] = add r1, -1"), "-1 is not a value of u8"
    ),
    "literal of numpy": ("V8", lambda: instrs(Instr("add", (X, Literal(X.type.dtype.numpy.type(1))), (Y,))), "within 64"),
    "literal of many bits": ("V8", lambda: instrs(Instr("add", (X, Literal(2**63)), (Y,))), "within 64 bits"),
    # ops
    "result type": ("V9", lambda: entry("r1: f32[3,2] = neg r0"), "neg gives f32[2,3], the instruction says f32[3,2]"),
    "result count": ("V9", lambda: entry("r1: f32[2,3] = add_rms_norm r0, r0"), "gives f32[2,3], f32[2,3], the"),
    "result of a write": (
        "V9", lambda: entry("state s0: f32[2,3]", "r1: f32[2,3] = write_state s0, r0"), "write_state gives nothing"
    ),
    "operand types": ("V9", lambda: entry("r1: f32[2,3] = matmul r0, r0"), "f32[2,3] and f32[2,3] do not multiply"),
    "operand count": ("V9", lambda: entry("r1: f32[2,3] = neg r0, r0"), "neg takes 1 operands (x), not 2"),
    "literal in place of a tensor": ("V9", lambda: entry("r1: f32[] = exp 1.0"), "operand must be a tensor"),
    "write of another type": (
        "V9", lambda: entry("state s0: f32[9]", "write_state s0, r0"), "state of f32[9] cannot take f32[2,3]"
    ),
    "unknown attribute": ("V9", lambda: entry("r1: f32[2,3] = neg r0 {axis=1}"), "neg has no attribute 'axis'"),
    "attribute of another kind": ("V9", lambda: entry("r1: f32[2,3] = softmax r0 {axis=1.0}"), "axis of softmax cannot"),
    "attribute of many bits": ("V9", lambda: instrs(Instr("clamp", (X,), (Y,), {"low": 2**63})), "into 64 bits"),
    "attribute out of range": ("V9", lambda: entry("r1: f32[2,3] = softmax r0 {axis=2}"), "axis 2 is out of range"),
    # calls
    "callee missing": ("V10", lambda: entry("r1: f32[2,3] = call @g r0"), "an existing function"),
    "call with another attribute": ("V10", lambda: entry(
        "r1: f32[2,3] = call @f r0 {axis=1}", functions=block(params="r0: f32[2,3]")), "has one attribute, callee"),
    "too few operands": ("V10", lambda: entry("r1: f32[2,3] = call @f r0", functions=block()), "and 1 constants, not 1"),
    "constant for a register": ("V10", lambda: entry(
        'const c0: f32[2,3] = "a"', 'const c1: f32[3] = "b"', "r1: f32[2,3] = call @f c0, c1", functions=block()
    ), "parameter r0 of @f takes a register"),
    "register for a constant": (
        "V10", lambda: entry("r1: f32[2,3] = call @f r0, r0", functions=block()), "parameter k0 of @f takes a constant"
    ),
    "literal for a constant": (
        "V10", lambda: entry("r1: f32[2,3] = call @f r0, 1.0", functions=block()), "parameter k0 of @f takes a constant"
    ),
    "register of another type": ("V10", lambda: entry(
        "r1: f32[3] = sum r0 {axes=[0]}", "r2: f32[2,3] = call @f r1", functions=block(params="r0: f32[2,3]")
    ), "parameter r0 of @f is f32[2,3], r1 is f32[3]"),
    "constant of another type in a call": ("V10", lambda: entry(
        'const c0: f32[4] = "a"', "r1: f32[2,3] = call @f r0, c0", functions=block()
    ), "parameter k0 of @f is f32[3], c0 is f32[4]"),
    "call result type": ("V10", lambda: entry(
        "r1: f32[3,2] = call @f r0", functions=block(params="r0: f32[2,3]")), "@f gives f32[2,3], the call says f32[3,2]"),
    "call result count": ("V10", lambda: entry(
        "r1: f32[2,3], r2: f32[2,3] = call @f r0", functions=block(params="r0: f32[2,3]")), "@f gives f32[2,3], the call"),
    # call graph
    "recursion": ("V11", lambda: entry(functions=block(
        "r1: f32[2,3] = call @f r0", params="r0: f32[2,3]")), "@f calls itself"),
    "mutual recursion": ("V11", lambda: entry("r1: f32[2,3] = call @f r0", functions=block(
        "r1: f32[2,3] = call @g r0", params="r0: f32[2,3]") + block(
        "r1: f32[2,3] = call @f r0", name="g", params="r0: f32[2,3]")), "@f calls itself"),
    "deep calls": ("V11", lambda: chain(33), "calls nest deeper than 32"),
    "very deep calls": ("V11", lambda: chain(3000), "calls nest deeper than 32"),
    "calls that multiply": ("V11", lambda: replace_leaf(chain(21, calls=2)), "instructions, over 1048576"),
    # views
    "reshape of a transpose": ("V12", lambda: entry(
        "r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[6] = reshape r1 {shape=[6]}"), "r1 lies in strides"),
    "reshape of an expansion": ("V12", lambda: entry(
        "r1: f32[4,2,3] = expand r0 {shape=[4,2,3]}", "r2: f32[24] = reshape r1 {shape=[24]}"), "r1 lies in strides"),
    "view of such a view": ("V12", lambda: entry(
        "r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[6] = reshape r1 {shape=[6]}",
        "r3: f32[1] = slice r2 {stop=1}"), "r1 lies in strides"),
    "reshape of a strided argument": ("V12", lambda: entry(
        "r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[3,2] = call @f r1", functions=FLATTEN), "r0 lies in strides"),
    "reshape of a strided call result": ("V12", lambda: entry(
        "r1: f32[3,2] = call @f r0", "r2: f32[6] = reshape r1 {shape=[6]}",
        functions="function @f(r0: f32[2,3]) -> (f32[3,2]) {\n  r1: f32[3,2] = transpose r0 {perm=[1,0]}\n  return r1\n}"
    ), "r1 lies in strides"),
    "function that is never called": ("V12", lambda: entry(functions=block(
        "r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[6] = reshape r1 {shape=[6]}")), "r1 lies in strides"),
    # recipes
    "leaf of another type": ("V13", lambda: constant(LEAF, t(3)), "the recipe gives f32[2,3], the constant is f32[3]"),
    "derived type": ("V13", lambda: constant(Apply("neg", (LEAF,), (), t(3))), "neg gives f32[2,3], its recipe says f32[3]"),
    "inner derived type": (
        "V13", lambda: constant(Apply("exp", (Apply("neg", (LEAF,), (), t(3)),), (), t(3))), "neg gives f32[2,3]"
    ),
    "argument types": ("V13", lambda: constant(Apply("add", (LEAF, Leaf("b", t(4))), (), t(3))), "do not broadcast"),
    "attribute of a recipe": ("V13", lambda: constant(Apply("neg", (LEAF,), (("x", 1),), t(2, 3))), "no attribute 'x'"),
    "two results": ("V13", lambda: constant(Apply("add_rms_norm", (LEAF, LEAF, None), (), t(2, 3))), "its recipe says"),
    "op with effects": ("V13", lambda: constant(Apply("read_state", (LEAF,), (), t(2, 3))), "'read_state' is not a pure"),
    "call in a recipe": ("V13", lambda: constant(Apply("call", (LEAF,), (), t(2, 3))), "'call' is not a pure op"),
    "unknown op in a recipe": ("V13", lambda: constant(Apply("nag", (LEAF,), (), t(2, 3))), "'nag' is not a pure op"),
    "deep recipe": ("V13", lambda: constant(nest(33)), "nests deeper than 32"),
    "absent argument": ("V7", lambda: constant(Apply("add", (LEAF, None), (), t(2, 3))), "operand b of add is left out"),
    "literal argument": (
        "V8", lambda: constant(Apply("add", (Leaf("a", t(2, dtype=DType.I8)), Literal(300)), (), t(2, dtype=DType.I8))),
        "300 is not a value of i8",
    ),
    # plan
    "offset count": ("V14", lambda: entry("r1: f32[2,3] +0x0 +0x40 = neg r0"), "offsets [0, 64] are not one per result"),
    "negative offset": ("V14", lambda: instrs(Instr("neg", (X,), (Y,), offsets=(-64,))), "0 or more"),
}  # fmt: skip

FLATTEN = """\
function @f(r0: f32[3,2]) -> (f32[3,2]) {
  r1: f32[6] = reshape r0 {shape=[6]}
  r2: f32[6] = neg r1
  r3: f32[3,2] = reshape r2 {shape=[3,2]}
  return r3
}
"""


def replace_leaf(p: Program) -> Program:
    """The last function of a chain with one instruction in it."""
    last = list(p.functions.values())[-1]
    last.body.append(Instr("neg", (X,), (Y,)))
    return p


@pytest.mark.parametrize("name", REJECTED)
def test_rule_rejects(name: str) -> None:
    rule, build, message = REJECTED[name]
    with pytest.raises(VerifyError) as caught:
        verify(build())
    assert caught.value.what.startswith(f"{rule}: ")
    assert message in caught.value.what


def test_every_numbered_rule_has_a_rejecting_test() -> None:
    rules = re.findall(r"^(V\d+) ", verifier.__doc__ or "", re.MULTILINE)
    assert rules == [f"V{i}" for i in range(1, len(rules) + 1)] and len(rules) >= 14
    assert {rule for rule, _, _ in REJECTED.values()} == set(rules)


def test_error_points_at_the_operand() -> None:
    p = entry("r1: f32[2,3] = neg r0", "r2: f32[2,3] @cpu = where r1, 1.0, _")
    with pytest.raises(VerifyError) as caught:
        verify(p)
    assert str(caught.value) == (
        "V7: operand b of where is left out but not optional\n"
        "  at: function @main, instruction 1\n"
        "    r2: f32[2,3] @cpu = where r1, 1.0, _\n"
        "                                       ^"
    )


def test_error_about_the_whole_instruction_underlines_it() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(entry("r1: f32[3,2] = neg r0"))
    assert str(caught.value).split("\n")[2:] == ["    r1: f32[3,2] = neg r0", "    ^^^^^^^^^^^^^^^^^^^^^"]


def test_error_in_a_function_names_it() -> None:
    with pytest.raises(VerifyError, match="function @f, instruction 0"):
        verify(entry(functions=block("r1: f32[3,2] = neg r0")))


def test_view_error_says_what_to_try() -> None:
    with pytest.raises(VerifyError) as caught:
        verify(REJECTED["reshape of a transpose"][1]())
    assert caught.value.hint == "put a copy before it"
    assert "r2: f32[6] = reshape r1 {shape=[6]}\n                         ^^" in (caught.value.where or "")


def test_a_copy_makes_the_view_legal() -> None:
    transposed = "r1: f32[3,2] = transpose r0 {perm=[1,0]}"
    verify(entry(transposed, "r2: f32[3,2] = copy r1", "r3: f32[6] = reshape r2 {shape=[6]}"))
    verify(entry(transposed, "r2: f32[3,2] = copy r1", "r3: f32[3,2] = call @f r2", functions=FLATTEN))


def test_strided_arguments_are_legal_where_the_function_allows_them() -> None:
    """A transposed argument whose reshape only adds an axis."""
    text = "function @f(r0: f32[3,2]) -> (f32[3,1,2]) {\n  r1: f32[3,1,2] = reshape r0 {shape=[3,1,2]}\n  return r1\n}"
    transposed = "r1: f32[3,2] = transpose r0 {perm=[1,0]}"
    verify(entry(transposed, "r2: f32[3,1,2] = call @f r1", functions=text))


ACCEPTED = {
    "dead registers": ["r1: f32[2,3] = neg r0"],
    "integer beside floats": ["r1: f32[2,3] = mul r0, 2"],
    "whole float beside integers": ['r1: i8[2,3] = cast r0 {dtype="i8"}', "r2: i8[2,3] = add r1, -128.0"],
    "0 and 1 beside booleans": ["r1: bool[2,3] = lt r0, nan", "r2: bool[2,3] = ne r1, 0", "r3: bool[2,3] = or r2, true"],
    "where between a literal and a tensor": ["r1: bool[2,3] = lt r0, 0", "r2: f32[2,3] = where r1, -inf, r0"],
    "optional operands left out": ["r1: f32[2,3] = layer_norm r0, _, _"],
    "view of a constant": ['const c0: f32[4,3] = "a"', "r1: f32[1,3] = slice c0 {stop=1}"],
    "unused constant with absent argument": ['const c0: f32[2,3] = layer_norm("a": f32[2,3], _, _)'],
    "offsets without a place": ["r1: f32[2,3], r2: f32[2,3] +_ +0x40 = add_rms_norm r0, r0"],
    "zero-size": ["r1: f32[0,3] = slice r0 {stop=0}", "r2: f32[3,0] = transpose r1 {perm=[1,0]}",
                  "r3: f32[0,7] = reshape r2 {shape=[0,7]}"],
    "rank 0": ["r1: f32[] = mean r0 {axes=[0,1]}", "r2: f32[1,1] = reshape r1 {shape=[1,1]}"],
}  # fmt: skip


@pytest.mark.parametrize("name", ACCEPTED)
def test_legal_lines_are_accepted(name: str) -> None:
    verify(entry(*ACCEPTED[name]))


@pytest.mark.parametrize("build", [nested_program, state_program, lambda: chain(32), lambda: chain(19, calls=2)])
def test_legal_programs_are_accepted(build: Callable[[], Program]) -> None:
    verify(build())


@settings(max_examples=80)
@given(st.integers(0, 2**32))
def test_random_programs_are_accepted_before_and_after_planning(seed: int) -> None:
    p = random_program(seed)
    verify(p)
    verify(planned(p, seed))


def test_verifying_is_linear_in_calls_and_functions() -> None:
    def seconds(count: int) -> float:
        calls = [f"r{i + 1}: f32[2,3] = call @f{i} r{i}" for i in range(count)]
        text = "".join(block("r1: f32[2,3] = neg r0", name=f"f{i}", params="r0: f32[2,3]") for i in range(count))
        p = entry(*calls, functions=text)
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            verify(p)
            best = min(best, time.perf_counter() - start)
        return best

    small, large = seconds(60), seconds(1200)
    assert large < 20 * max(small, 1e-3) * 5, f"{small:.4f} s, 20 times more functions {large:.4f} s"
