"""The text form: laws on generated programs, golden texts, and an error with a place for everything else."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ir_programs import (
    Builder,
    apply,
    nested_program,
    planned,
    program,
    random_program,
    ref,
    state_program,
    t,
)

from forgec.ir.parser import parse
from forgec.ir.printer import format_instr, format_operand, format_source, to_text
from forgec.ir.program import Constant, Instr, Leaf, Literal, Program, Source

GOLDEN = """\
program @main(r0 "input_ids": i64[1,8]) -> (r6 "logits": f32[1,8,4], r0 "again \\"\\u{a0}\\"": i64[1,8]) {
  const c0: f32[9,4] = "wte.weight"
  const c1: f32[4] = "ln.weight"
  const c2: f32[8,4] = concat("q": f32[4,4], mul(transpose("k": f32[4,4]) {perm=[1,0]}, 0.125)) {axis=0}
  const c3: f32[4] = clamp("bias": f32[4]) {low=none, high=1e-05}
  state s0: f32[1,8,4]
  state s_empty: f32[0,4]
  r1: f32[1,8,4] @cpu +0x800 = embedding c0, r0                           # aten.embedding, model.py:41, wte
  r2: f32[1,8,4] @npu.0 = mul r1, -inf                                    # aten.mul, _, layers.0
  r3: f32[1,8,4], r4: f32[1,8,4] @cpu +0x0 +_ = add_layer_norm r1, r2, _, c1 {eps=0.001}
  r5: f32[1,8,4] = call @block r3, c1
  @cpu = write_state s0, r5                                               # aten.copy_, "C:\\\\model.py":7
  r6: f32[1,8,4] = clamp r4 {low=-1, high=inf}
  r7: f32[1,8,4] = linear r6, c2, _, r6 {act="gelu"}
  return r6, r0
}

function @block(r0: f32[1,8,4], k0: f32[4]) -> (f32[1,8,4]) {
  r1: f32[] = sum r0 {axes=[0,1,2]}
  r2: bool[1,8,4] = ge r0, nan
  r3: f32[1,8,4] = where r2, r0, 2
  r4: bool[1,8,4] = and r2, true
  return r0
}

function @nothing() -> () {
  return
}
"""


def test_golden_text_round_trips() -> None:
    p = parse(GOLDEN)
    assert to_text(p) == GOLDEN
    main, block = p.functions["main"], p.functions["block"]
    assert main.param_names == ("input_ids",) and main.result_names == ("logits", 'again "\xa0"')
    assert p.constants["c0"].recipe == Leaf("wte.weight", t(9, 4))
    assert p.constants["c3"].recipe == apply("clamp", Leaf("bias", t(4)), low=None, high=1e-05)
    embedding, scaled, norm, call, write, clamp, linear = main.body
    assert (embedding.device, embedding.offsets, norm.offsets) == ("cpu", (0x800,), (0, None))
    assert embedding.source == Source("aten.embedding", "model.py", 41, "wte")
    assert scaled.source == Source("aten.mul", None, None, "layers.0")
    assert write.source == Source("aten.copy_", "C:\\model.py", 7)
    assert (write.results, write.device) == ((), "cpu")
    assert norm.operands[2] is None and scaled.operands[1] == Literal(-math.inf)
    assert call.attrs == {"callee": "block"} and str(call.operands[1]) == "c1"
    assert type(clamp.attrs["low"]) is int and clamp.attrs["high"] == math.inf
    assert len(linear.operands) == 4
    literals = [instr.operands[-1] for instr in block.body[1:]]
    assert literals == [Literal(math.nan), Literal(2), Literal(True)]


def test_reader_is_free_about_space_and_trailing_absent_operands() -> None:
    text = """
program @main ( r0 "x" :f32[2, 4] ,r1 "w": f32[4,4])->(r2 "y": f32[2,4]){

\tr2:f32[2,4]=linear r0,r1 , _   # aten.linear
  return r2
}"""
    p = parse(text.replace("\n", "\r\n"))
    assert p.main.body[0].operands == (*p.main.params, None, None)
    assert "  r2: f32[2,4] = linear r0, r1  " in to_text(p)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.booleans())
def test_laws_hold_for_random_programs(seed: int, with_plan: bool) -> None:
    p = random_program(seed)
    p = planned(p, seed) if with_plan else p
    text = to_text(p)
    assert parse(text) == p
    assert to_text(parse(text)) == text


@pytest.mark.parametrize("build", [nested_program, state_program])
def test_laws_hold_for_examples(build: object) -> None:
    p = build()  # type: ignore[operator]
    assert parse(to_text(p)) == p


any_text = st.text(st.characters(codec=None, exclude_categories=()))


@given(any_text, any_text)
@example("\u2028", "_")
@example("\ud800", "none")
@example("\\u{41}", "#")
def test_any_name_round_trips_on_one_line(leaf: str, module: str) -> None:
    b = Builder("main")
    x = b.param(t(2))
    b("neg", x)
    b.body[0].source = Source(leaf, module, None, leaf)
    f = b.function(x, named=True)
    f.param_names, f.result_names = (leaf + "x",), (module + "y",)
    p = program(f, constants=(Constant("c0", t(2), Leaf(leaf, t(2))),))
    text = to_text(p)
    assert len(text.splitlines()) == 5
    assert text.encode()
    assert parse(text) == p


numbers = st.one_of(st.booleans(), st.integers(-(2**63) + 1, 2**63 - 1), st.floats())


@given(numbers)
@example(-0.0)
@example(5e-324)
@example(1e22)
def test_literals_keep_value_and_kind(value: float) -> None:
    b = Builder("main")
    p = program(b.function(b("add", b.param(t(2)), Literal(value)), named=True))
    (instr,) = parse(to_text(p)).main.body
    literal = instr.operands[1]
    assert isinstance(literal, Literal)
    assert literal == Literal(value) and type(literal.value) is type(value)


attr_values = st.one_of(
    numbers.filter(lambda n: n == n),
    st.none(),
    any_text,
    st.lists(st.integers(-(2**62), 2**62), max_size=8).map(tuple),
)


@given(attr_values)
def test_attributes_keep_value_and_kind(value: object) -> None:
    b = Builder("main")
    x = b.param(t(2))
    b.body.append(Instr("clamp", (x,), (b.fresh(t(2)),), {"low": value}))  # type: ignore[dict-item]
    p = program(b.function(x, named=True))
    back = parse(to_text(p)).main.body[0].attrs["low"]
    assert (back, type(back), repr(back)) == (value, type(value), repr(value))


@given(st.lists(st.integers(0, 9), max_size=8))
def test_shapes_with_zeros_and_rank_0_round_trip(shape: list[int]) -> None:
    b = Builder("main")
    p = program(b.function(b("tanh", b.param(t(*shape))), named=True))
    assert parse(to_text(p)) == p


def test_attributes_are_written_in_the_order_of_the_record() -> None:
    b = Builder("main")
    y = b("slice", b.param(t(9)), step=2, stop=5, axis=0)
    text = to_text(program(b.function(y, named=True)))
    assert "{axis=0, stop=5, step=2}" in text
    assert to_text(parse(text)) == text


def test_pieces_for_error_messages() -> None:
    b = Builder("main")
    c = Constant("c0", t(4, 4), Leaf("w", t(4, 4)))
    b("linear", b.param(t(2, 4)), ref(c), None, None, act="gelu")
    assert format_instr(b.body[0]) == 'r1: f32[2,4] = linear r0, c0 {act="gelu"}'
    assert format_operand(None) == "_"
    assert format_source(Source("aten.add", None, 3)) == "# aten.add, _:3"


def test_unverified_programs_can_be_printed() -> None:
    """Error messages show instructions that are wrong, so printing takes anything."""
    b = Builder("main")
    b.param(t(2))
    b.body.append(Instr("no_op", (None,), (), {"x": (1,)}, None, "c p u", (-4,)))
    f = b.function(named=True)
    f.param_names, f.result_names = ("a", "b"), ("c",)
    assert "@c p u +-0x4 = no_op _ {x=[1]}" in to_text(Program("main", {"main": f}))
