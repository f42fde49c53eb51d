"""Programs that break a rule of the verifier: rule, program, and what the message says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ir_programs import t

from forgec.ir.limits import MAX_CALL_DEPTH, MAX_RECIPE_DEPTH
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

X = Register(0, t(2, 3))


def entry(*lines: str, functions: str = "") -> Program:
    """An entry that takes r0: f32[2,3] and returns it, with these lines between."""
    inner = "".join(f"  {line}\n" for line in lines)
    return parse(
        f'program @main(r0 "x": f32[2,3]) -> (r0 "y": f32[2,3]) {{\n{inner}  return r0\n}}\n{functions}'
    )


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
        block(
            *[f"r{j + 1}: f32[2,3] = call @f{i + 1} r0" for j in range(calls)],
            name=f"f{i}",
            params="r0: f32[2,3]",
        )
        for i in range(depth)
    )
    return entry(
        "r1: f32[2,3] = call @f0 r0", functions=text + block(name=f"f{depth}", params="r0: f32[2,3]")
    )


Y = Register(1, t(2, 3))
LEAF = Leaf("a", t(2, 3))

TRANSPOSE = """\
function @f(r0: f32[2,3]) -> (f32[3,2]) {
  r1: f32[3,2] = transpose r0 {perm=[1,0]}
  return r1
}
"""
FLATTEN = """\
function @f(r0: f32[3,2]) -> (f32[3,2]) {
  r1: f32[6] = reshape r0 {shape=[6]}
  r2: f32[6] = neg r1
  r3: f32[3,2] = reshape r2 {shape=[3,2]}
  return r3
}
"""

LINES: dict[str, tuple[str, str, list[str]]] = {
    "register defined twice": ("V4", "r1 is defined", ["r1: f32[2,3] = neg r0", "r1: f32[2,3] = exp r0"]),
    "register of a parameter": ("V4", "r0 is defined twice", ["r0: f32[2,3] = neg r0"]),
    "two results alike": ("V4", "r1 is defined", ["r1: f32[2,3], r1: f32[2,3] = add_rms_norm r0, r0"]),
    "state in an ordinary op": ("V7", "cannot be a state", ["state s0: f32[2,3]", "r1: f32[2,3] = neg s0"]),
    "state as an index": (
        "V7",
        "operand indices of gather cannot be",
        ["state s0: i64[1]", "r1: f32[1,3] = gather r0, s0"],
    ),
    "register read as a state": ("V7", "state of read_state must be a", ["r1: f32[2,3] = read_state r0"]),
    "state written as a value": (
        "V7",
        "operand value of write_state cannot be",
        ["state s0: f32[2,3]", "write_state s0, s0"],
    ),
    "absent operand": ("V7", "operand b of add is left out", ["r1: f32[2,3] = add r0, _"]),
    "absent operand before others": (
        "V7",
        "operand condition of where is left out",
        ["r1: f32[2,3] = where _, r0, r0"],
    ),
    "literal in an optional place": (
        "V7",
        "is a tensor or left out, not a literal",
        ["r1: f32[2,3] = layer_norm r0, 1.0"],
    ),
    "fraction beside integers": (
        "V8",
        "not a value of i32",
        ['r1: i32[2,3] = cast r0 {dtype="i32"}', "r2: i32[2,3] = add r1, 0.5"],
    ),
    "infinity beside integers": (
        "V8",
        "-inf is not",
        ['r1: i32[2,3] = cast r0 {dtype="i32"}', "r2: i32[2,3] = maximum -inf, r1"],
    ),
    "number beside booleans": (
        "V8",
        "2 is not a value of bool",
        ["r1: bool[2,3] = lt r0, 0", "r2: bool[2,3] = eq r1, 2"],
    ),
    "negative beside unsigned": (
        "V8",
        "-1 is not a value of u8",
        ['r1: u8[2,3] = cast r0 {dtype="u8"}', "r2: u8[2,3] = add r1, -1"],
    ),
    "result type": ("V9", "neg gives f32[2,3], the instruction says f32[3,2]", ["r1: f32[3,2] = neg r0"]),
    "result count": ("V9", "gives f32[2,3], f32[2,3], the", ["r1: f32[2,3] = add_rms_norm r0, r0"]),
    "result of a write": (
        "V9",
        "write_state gives nothing",
        ["state s0: f32[2,3]", "r1: f32[2,3] = write_state s0, r0"],
    ),
    "operand types": ("V9", "f32[2,3] and f32[2,3] do not multiply", ["r1: f32[2,3] = matmul r0, r0"]),
    "operand count": ("V9", "neg takes 1 operands (x), not 2", ["r1: f32[2,3] = neg r0, r0"]),
    "literal in place of a tensor": ("V9", "operand must be a tensor", ["r1: f32[] = exp 1.0"]),
    "write of another type": (
        "V9",
        "state of f32[9] cannot take f32[2,3]",
        ["state s0: f32[9]", "write_state s0, r0"],
    ),
    "unknown attribute": ("V9", "neg has no attribute 'axis'", ["r1: f32[2,3] = neg r0 {axis=1}"]),
    "attribute of another kind": ("V9", "axis of softmax cannot", ["r1: f32[2,3] = softmax r0 {axis=1.0}"]),
    "attribute out of range": ("V9", "axis 2 is out of range", ["r1: f32[2,3] = softmax r0 {axis=2}"]),
    "callee missing": ("V10", "an existing function", ["r1: f32[2,3] = call @g r0"]),
    "reshape of a transpose": (
        "V12",
        "r1 lies in strides",
        ["r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[6] = reshape r1 {shape=[6]}"],
    ),
    "reshape of an expansion": (
        "V12",
        "r1 lies in strides",
        ["r1: f32[4,2,3] = expand r0 {shape=[4,2,3]}", "r2: f32[24] = reshape r1 {shape=[24]}"],
    ),
    "view of such a view": (
        "V12",
        "r1 lies in strides",
        [
            "r1: f32[3,2] = transpose r0 {perm=[1,0]}",
            "r2: f32[6] = reshape r1 {shape=[6]}",
            "r3: f32[1] = slice r2 {stop=1}",
        ],
    ),
    "offset count": ("V14", "offsets [0, 64] are not one per result", ["r1: f32[2,3] +0x0 +0x40 = neg r0"]),
}
"""Rule, message, and lines of an entry that breaks it."""

RECIPES: dict[str, tuple[str, str, Any]] = {
    "bytes": ("V3", "over 2**48 bytes", Leaf("a", t(2**30, 2**20, 0))),
    "bytes inside a recipe": (
        "V3",
        "over 2**48",
        Apply("sum", (Leaf("a", t(2**40, 2**10)),), (("axes", (0, 1)),), t()),
    ),
    "derived type": ("V13", "neg gives f32[2,3], its recipe says f32[3]", Apply("neg", (LEAF,), (), t(3))),
    "inner derived type": (
        "V13",
        "neg gives f32[2,3]",
        Apply("exp", (Apply("neg", (LEAF,), (), t(3)),), (), t(3)),
    ),
    "argument types": ("V13", "do not broadcast", Apply("add", (LEAF, Leaf("b", t(4))), (), t(3))),
    "attribute of a recipe": ("V13", "no attribute 'x'", Apply("neg", (LEAF,), (("x", 1),), t(2, 3))),
    "two results": ("V13", "its recipe says", Apply("add_rms_norm", (LEAF, LEAF, None), (), t(2, 3))),
    "op with effects": ("V13", "'read_state' is not a pure", Apply("read_state", (LEAF,), (), t(2, 3))),
    "call in a recipe": ("V13", "'call' is not a pure op", Apply("call", (LEAF,), (), t(2, 3))),
    "unknown op in a recipe": ("V13", "'nag' is not a pure op", Apply("nag", (LEAF,), (), t(2, 3))),
    "deep recipe": ("V13", "the recipe nests deeper than 64", nest(MAX_RECIPE_DEPTH + 1)),
    "absent argument": ("V7", "operand b of add is left out", Apply("add", (LEAF, None), (), t(2, 3))),
    "literal argument": (
        "V8",
        "300 is not a value of i8",
        Apply("add", (Leaf("a", t(2, dtype=DType.I8)), Literal(300)), (), t(2, dtype=DType.I8)),
    ),
}
"""Rule, message, and a recipe that breaks it."""

REJECTED: dict[str, tuple[str, Callable[[], Program], str]] = {
    # names
    "entry missing": ("V1", lambda: with_tables(entry="start"), "no function named 'start'"),
    "function under another name": (
        "V1",
        lambda: with_tables(functions={"main": instrs(name="m").main}),
        "'m' stands",
    ),
    "function name": ("V1", lambda: Program("a b", {"a b": instrs(name="a b").main}), "'a b' is not a word"),
    "constant under another name": (
        "V1",
        lambda: with_tables(constants={"c1": Constant("c0", LEAF.type, LEAF)}),
        "'c0' stands under the name 'c1'",
    ),
    "constant name": (
        "V1",
        lambda: with_tables(constants={"r7": Constant("r7", LEAF.type, LEAF)}),
        "not a word that begins with c",
    ),
    "state name": ("V1", lambda: with_tables(states={"s 0": t(2)}), "'s 0' is not a word that begins with s"),
    "device name": ("V1", lambda: instrs(Instr("neg", (X,), (Y,), device="np u")), "device name 'np u'"),
    # signature
    "parameter without name": ("V2", lambda: instrs(param_names=()), "1 parameters have 0 names"),
    "result without name": ("V2", lambda: instrs(result_names=("a", "b")), "1 results have 2 names"),
    "empty name": ("V2", lambda: instrs(param_names=("",)), "not different and not empty"),
    "names alike": ("V2", lambda: instrs(results=(X, X), result_names=("y", "y")), "result names ['y', 'y']"),
    "constant parameters out of order": (
        "V2",
        lambda: entry(functions=block(params="r0: f32[2,3], k1: f32[3], k0: f32[3]")),
        "not k0, k1",
    ),
    "entry with constant parameters": (
        "V2",
        lambda: instrs(const_params=(ConstParam(0, t(3)),)),
        "the entry has constant parameters",
    ),
    # types
    "rank": (
        "V3",
        lambda: instrs(params=(X, Register(1, t(*[1] * 9))), param_names=("x", "z")),
        "rank 9 is over 8",
    ),
    "size": (
        "V3",
        lambda: with_tables(states={"s0": t(2**40 + 1)}),
        "size 1099511627777 is outside 0..2**40",
    ),
    "negative size": ("V3", lambda: with_tables(states={"s0": t(-1)}), "size -1"),
    "bytes of a result": (
        "V3",
        lambda: instrs(
            Instr("expand", (X,), (Register(1, t(2**40, 32, 2, 3)),), {"shape": (2**40, 32, 2, 3)})
        ),
        "over 2**48 bytes",
    ),
    "type of a constant parameter": (
        "V3",
        lambda: (
            entry(functions=block())
            and Program(
                "main",
                {
                    "main": instrs().main,
                    "f": replace(instrs(name="f").main, const_params=(ConstParam(0, t(-1)),)),
                },
            )
        ),
        "size -1",
    ),
    # registers
    "parameter defined twice": (
        "V4",
        lambda: instrs(params=(X, X), param_names=("x", "z")),
        "r0 is defined twice",
    ),
    "use before definition": (
        "V5",
        lambda: instrs(Instr("neg", (Y,), (Y,))),
        "r1 is not defined before its use",
    ),
    "result without definition": ("V5", lambda: instrs(results=(Y,)), "r1 is not defined"),
    "use of another type": (
        "V6",
        lambda: instrs(Instr("neg", (Register(0, t(3)),), (Register(1, t(3)),))),
        "r0 is f32[2,3], used as f32[3]",
    ),
    "result of another type": (
        "V6",
        lambda: instrs(results=(Register(0, t(3)),)),
        "r0 is f32[2,3], used as f32[3]",
    ),
    "constant missing": (
        "V6",
        lambda: instrs(Instr("add", (X, ConstRef("c0", t(3))), (Y,))),
        "c0 does not exist",
    ),
    "constant of another type": (
        "V6",
        lambda: replace(
            instrs(Instr("add", (X, ConstRef("c0", t(3))), (Y,))),
            constants=constant(Leaf("a", t(1))).constants,
        ),
        "c0 is f32[1], used as f32[3]",
    ),
    "constant parameter in the entry": (
        "V6",
        lambda: instrs(Instr("add", (X, ConstParam(0, t(3))), (Y,))),
        "k0 does not exist",
    ),
    "constant parameter beyond the last": (
        "V6",
        lambda: Program(
            "main",
            {
                "main": instrs().main,
                "f": replace(
                    instrs(Instr("add", (X, ConstParam(1, t(3))), (Y,)), name="f").main,
                    const_params=(ConstParam(0, t(3)),),
                ),
            },
        ),
        "k1 does not exist",
    ),
    "negative constant parameter": (
        "V6",
        lambda: Program(
            "main",
            {
                "main": instrs().main,
                "f": replace(
                    instrs(Instr("add", (X, ConstParam(-1, t(3))), (Y,)), name="f").main,
                    const_params=(ConstParam(0, t(3)),),
                ),
            },
        ),
        "k-1 does not exist",
    ),
    "state missing": (
        "V6",
        lambda: instrs(Instr("read_state", (StateRef("s0", t(2, 3)),), (Y,))),
        "s0 does not exist",
    ),
    "state of another type": (
        "V6",
        lambda: replace(instrs(Instr("read_state", (StateRef("s0", t(2, 3)),), (Y,))), states={"s0": t(9)}),
        "s0 is f32[9], used as f32[2,3]",
    ),
    # operands
    "unknown op": ("V7", lambda: instrs(Instr("nag", (X,), (Y,))), "unknown op 'nag'"),
    # literals
    "literal of numpy": (
        "V8",
        lambda: instrs(Instr("add", (X, Literal(X.type.dtype.numpy.type(1))), (Y,))),
        "within 64",
    ),
    "literal of many bits": ("V8", lambda: instrs(Instr("add", (X, Literal(2**63)), (Y,))), "within 64 bits"),
    # ops
    "attribute of many bits": (
        "V9",
        lambda: instrs(Instr("clamp", (X,), (Y,), {"low": 2**63})),
        "into 64 bits",
    ),
    # calls
    "call with another attribute": (
        "V10",
        lambda: entry("r1: f32[2,3] = call @f r0 {axis=1}", functions=block(params="r0: f32[2,3]")),
        "has one attribute, callee",
    ),
    "too few operands": (
        "V10",
        lambda: entry("r1: f32[2,3] = call @f r0", functions=block()),
        "and 1 constants, not 1",
    ),
    "constant for a register": (
        "V10",
        lambda: entry(
            'const c0: f32[2,3] = "a"',
            'const c1: f32[3] = "b"',
            "r1: f32[2,3] = call @f c0, c1",
            functions=block(),
        ),
        "parameter r0 of @f takes a register",
    ),
    "register for a constant": (
        "V10",
        lambda: entry("r1: f32[2,3] = call @f r0, r0", functions=block()),
        "parameter k0 of @f takes a constant",
    ),
    "literal for a constant": (
        "V10",
        lambda: entry("r1: f32[2,3] = call @f r0, 1.0", functions=block()),
        "parameter k0 of @f takes a constant",
    ),
    "register of another type": (
        "V10",
        lambda: entry(
            "r1: f32[3] = sum r0 {axes=[0]}",
            "r2: f32[2,3] = call @f r1",
            functions=block(params="r0: f32[2,3]"),
        ),
        "parameter r0 of @f is f32[2,3], r1 is f32[3]",
    ),
    "constant of another type in a call": (
        "V10",
        lambda: entry('const c0: f32[4] = "a"', "r1: f32[2,3] = call @f r0, c0", functions=block()),
        "parameter k0 of @f is f32[3], c0 is f32[4]",
    ),
    "call result type": (
        "V10",
        lambda: entry("r1: f32[3,2] = call @f r0", functions=block(params="r0: f32[2,3]")),
        "@f gives f32[2,3], the call says f32[3,2]",
    ),
    "call result count": (
        "V10",
        lambda: entry("r1: f32[2,3], r2: f32[2,3] = call @f r0", functions=block(params="r0: f32[2,3]")),
        "@f gives f32[2,3], the call",
    ),
    # call graph
    "recursion": (
        "V11",
        lambda: entry(functions=block("r1: f32[2,3] = call @f r0", params="r0: f32[2,3]")),
        "@f calls itself",
    ),
    "mutual recursion": (
        "V11",
        lambda: entry(
            "r1: f32[2,3] = call @f r0",
            functions=block("r1: f32[2,3] = call @g r0", params="r0: f32[2,3]")
            + block("r1: f32[2,3] = call @f r0", name="g", params="r0: f32[2,3]"),
        ),
        "@f calls itself",
    ),
    "deep calls": ("V11", lambda: chain(MAX_CALL_DEPTH), "calls nest deeper than 32"),
    "very deep calls": ("V11", lambda: chain(1200), "calls nest deeper than 32"),
    "calls that multiply": ("V11", lambda: replace_leaf(chain(21, calls=2)), "instructions, over 1048576"),
    # views
    "reshape of a strided argument": (
        "V12",
        lambda: entry(
            "r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[3,2] = call @f r1", functions=FLATTEN
        ),
        "r0 lies in strides",
    ),
    "reshape of a strided call result": (
        "V12",
        lambda: entry(
            "r1: f32[3,2] = call @f r0",
            "r2: f32[6] = reshape r1 {shape=[6]}",
            functions=TRANSPOSE,
        ),
        "r1 lies in strides",
    ),
    "function that is never called": (
        "V12",
        lambda: entry(
            functions=block("r1: f32[3,2] = transpose r0 {perm=[1,0]}", "r2: f32[6] = reshape r1 {shape=[6]}")
        ),
        "r1 lies in strides",
    ),
    # recipes
    "leaf of another type": (
        "V13",
        lambda: constant(LEAF, t(3)),
        "the recipe gives f32[2,3], the constant is f32[3]",
    ),
    # plan
    "negative offset": ("V14", lambda: instrs(Instr("neg", (X,), (Y,), offsets=(-64,))), "0 or more"),
}


def replace_leaf(p: Program) -> Program:
    """The last function of a chain with one instruction in it."""
    last = list(p.functions.values())[-1]
    last.body.append(Instr("neg", (X,), (Y,)))
    return p


for _name, (_rule, _message, _lines) in LINES.items():
    REJECTED[_name] = (_rule, partial(entry, *_lines), _message)
for _name, (_rule, _message, _recipe) in RECIPES.items():
    REJECTED[_name] = (_rule, partial(constant, _recipe), _message)
