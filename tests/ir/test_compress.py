"""Compression of a program's weights: which instructions, which formats, and that the program means the same."""

from __future__ import annotations

import numpy as np
import pytest

from forgec.errors import OptionError
from forgec.ir.compress import compress
from forgec.ir.inline import inline
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Program, leaves
from forgec.ir.verifier import verify
from forgec.weights import Format, WeightSpec

TEXT = """program @main(r0 "ids": i64[3]) -> (r4 "logits": f32[3,9], r5 "plain": f32[64,1]) {
  const c0: f32[9,64] = "embed.weight"
  const c1: f32[64,64] = "layers.0.fc.weight"
  const c2: f32[64] = "layers.0.fc.bias"
  const c3: f32[64,64] = transpose("layers.1.fc.weight": f32[64,64]) {perm=[1,0]}
  const c4: f32[64] = "layers.1.fc.bias"
  const c5: f32[64,64] = concat("layers.1.q": f32[32,64], "layers.1.k": f32[32,64])
  const c6: f32[1,64] = "literal.0"
  r1: f32[3,64] = embedding c0, r0
  r2: f32[3,64] = call @block r1, c1, c2
  r3: f32[3,64] = call @block r2, c3, c4
  r6: f32[3,64] = linear r3, c5
  r4: f32[3,9] = linear r6, c0
  r5: f32[64,1] = linear c5, c6
  return r4, r5
}

function @block(r0: f32[3,64], k0: f32[64,64], k1: f32[64]) -> (f32[3,64]) {
  r1: f32[3,64] = linear r0, k0, k1, r0
  return r1
}
"""


ATTENTION = """program @main(r0 "x": f32[1,2,4,64]) -> (r4 "y": f32[1,2,4,64]) {
  const c0: f32[64,64] = "a"
  const c1: f32[64,64] = "b"
  r1: f32[1,2,4,64] = linear r0, c0
  r2: f32[1,2,4,64] = linear r0, c1
  r4: f32[1,2,4,64] = attention r1, r2, r2 {scale=0.125}
  return r4
}
"""


def compressed(weights: str) -> Program:
    program = parse(TEXT)
    verify(program)
    result = compress(program, WeightSpec.parse(weights))
    verify(result)
    assert parse(to_text(result)) == result
    return result


def lines(program: Program) -> list[tuple[str, ...]]:
    """Op and element types of the operands that are constants, of the expanded program."""
    flat = inline(program)
    return [
        (i.op, *(x.type.dtype.value for x in i.operands if x is not None and str(x).startswith("c")))
        for i in flat.main.body
    ]


def test_fp32_changes_nothing() -> None:
    program = parse(TEXT)
    assert compress(program, WeightSpec.parse("fp32")) is program
    for same in ("fp32,layers.*=fp32", "auto", "layers.*=auto"):
        assert compress(program, WeightSpec.parse(same)) is program


def test_int8_everywhere() -> None:
    program = compressed("int8")
    assert lines(program) == [
        ("embedding_q", "i8", "f32"),
        ("linear_q", "i8", "f32", "f32"),
        ("linear_q", "i8", "f32", "f32"),
        ("linear_q", "i8", "f32"),
        ("linear_q", "i8", "f32"),
        ("linear", "f32", "f32"),  # its weight is computed, and c5 is an operand there
    ]
    assert len(program.functions) == 2
    head, table = program.main.body[-2], program.main.body[0]
    assert head.operands[1:3] == (table.operands[0], table.operands[2]), "a tied head has the table's bytes"
    used = {leaf.name for c in program.constants.values() for leaf in leaves(c.recipe)}
    assert {"layers.0.fc.bias", "layers.1.k", "literal.0"} <= used


def test_dynamic_and_bf16() -> None:
    program = compressed("w8a8,layers.0=bf16")
    ops = [(i.op, i.attrs.get("dynamic", False), len(program.functions)) for i in inline(program).main.body]
    assert ops[0] == ("embedding_q", False, 3)
    assert [o[1] for o in ops] == [False, False, True, True, True, False]
    assert lines(program)[1] == ("linear_q", "bf16", "f32")


@pytest.mark.parametrize(
    ("weights", "rounds"),
    [("w8a8", True), ("w8a8,b=int8", True), ("w4a8:32", True), ("int8", False), ("int8,a=w8a8", False)],
)
def test_attention_may_round_beside_rounded_activations(weights: str, rounds: bool) -> None:
    program = parse(ATTENTION)
    (attention,) = (i for i in compress(program, WeightSpec.parse(weights)).main.body if i.op == "attention")
    assert bool(attention.attrs.get("bf16")) == rounds
    assert ("bf16=true" in to_text(compress(program, WeightSpec.parse(weights)))) == rounds


def test_a_block_with_two_formats_becomes_two() -> None:
    program = compressed("int4:32,layers.1.fc=int8")
    assert sorted(program.functions) == ["block", "block.1", "main"]
    calls = [i.attrs["callee"] for i in program.main.body if i.op == "call"]
    assert calls == ["block", "block.1"]
    assert [row[1] for row in lines(program)] == ["i8", "i4", "i8", "i4", "i8", "f32"]


def test_a_weight_of_several_parameters_takes_the_most_exact_format() -> None:
    assert lines(compressed("int4,*.q=bf16"))[3] == ("linear_q", "bf16")
    assert lines(compressed("int8,*.q=fp32"))[3] == ("linear", "f32")


def test_tables_and_odd_rows_are_never_i4() -> None:
    assert lines(compressed("int4"))[0] == ("embedding_q", "i8", "f32")
    odd = """program @main(r0 "x": f32[2,63]) -> (r1 "y": f32[2,5]) {
  const c0: f32[5,63] = "w"
  r1: f32[2,5] = linear r0, c0
  return r1
}
"""
    program = compress(parse(odd), WeightSpec.parse("int4"))
    verify(program)
    assert lines(program) == [("linear_q", "i8", "f32")]


EXPERTS = """program @main(r0 "x": f32[4,8], r1 "ids": i64[4]) -> (r2 "y": f32[4,32], r3 "z": f32[4,20]) {
  const c0: f32[96,8] = reshape("experts": f32[3,32,8]) {shape=[96,8]}
  const c1: f32[60,8] = reshape("odd": f32[3,20,8]) {shape=[60,8]}
  r2: f32[4,32] = expert_linear r0, c0, r1 {experts=3}
  r3: f32[4,20] = expert_linear r0, c1, r1 {experts=3}
  return r2, r3
}
"""


@pytest.mark.parametrize(
    ("weights", "codes"), [("int8", "i8"), ("w8a8", "i8"), ("int4", "i4"), ("bf16", "bf16")]
)
def test_weights_of_experts_where_their_outputs_are_whole_panels(weights: str, codes: str) -> None:
    program, spec, rng = parse(EXPERTS), WeightSpec.parse(weights), np.random.default_rng(0)
    found = compress(program, spec)
    verify(found)
    product, odd = found.main.body
    assert product.op == "expert_linear_q" and odd.op == "expert_linear"
    assert "dynamic" not in product.attrs and product.attrs["experts"] == 3
    assert lines(found)[0][1] == codes
    tensors = {"experts": rng.standard_normal((3, 32, 8)), "odd": rng.standard_normal((3, 20, 8))}
    source = {name: x.astype(np.float32) for name, x in tensors.items()}.__getitem__
    given = [rng.standard_normal((4, 8)).astype(np.float32), np.array([2, 0, 2, 1])]
    want, got = (Interpreter(p, source).run(given)[0] for p in (program, found))
    assert np.linalg.norm(got - want) < 0.2 * np.linalg.norm(want)
    assert compress(program, spec, off_host=True) is program, "no device has a form for their codes"


def test_int4_by_channel_has_a_scale_for_each_row() -> None:
    program = compressed("int4:channel")
    assert {c.type.dtype.value for c in program.constants.values()} >= {"i4", "f32"}
    assert all("group" not in i.attrs for f in program.functions.values() for i in f.body)
    spec = WeightSpec.parse("int4:channel,b=int4:128,c=int4:32")
    assert spec.of(["a", "b"]) == Format("int4", 128) and spec.of(["b", "c"]) == Format("int4", 32)


def test_the_last_pattern_counts() -> None:
    assert lines(compressed("int8,layers.*=bf16,*.1.*=fp32"))[1][1] == "bf16"
    assert lines(compressed("int8,*.1.*=fp32,layers=bf16"))[2][1] == "bf16"


@pytest.mark.parametrize("weights", ["fp16", "bf16", "int8", "w8a8", "int4:32", "int4:channel", "w4a8:32"])
def test_meaning(weights: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        leaf.name: rng.standard_normal(leaf.type.shape).astype(np.float32) / 8
        for c in parse(TEXT).constants.values()
        for leaf in leaves(c.recipe)
    }
    ids = np.array([1, 8, 0])
    want, plain = Interpreter(parse(TEXT), tensors.__getitem__).run([ids])
    got, untouched = Interpreter(compressed(weights), tensors.__getitem__).run([ids])
    np.testing.assert_array_equal(untouched, plain)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert (
        1e-6
        < error
        < {
            "fp16": 0.001,
            "bf16": 0.01,
            "int8": 0.02,
            "w8a8": 0.03,
            "int4:32": 0.25,
            "int4:channel": 0.25,
            "w4a8:32": 0.25,
        }[weights]
    )


@pytest.mark.parametrize("weights", ["int8,lm_haed=bf16", "fp32,nothing=int8", "int8,layers.0.fc.bias=bf16"])
def test_a_pattern_that_matches_nothing(weights: str) -> None:
    with pytest.raises(OptionError, match=r"matches no weight") as caught:
        compress(parse(TEXT), WeightSpec.parse(weights))
    assert "embed.weight" in str(caught.value.hint)


def test_bytes_of_constants() -> None:
    def nbytes(program: Program) -> int:
        return sum(c.type.nbytes for c in program.constants.values())

    plain = nbytes(parse(TEXT))
    kept = 64 * 64 * 4  # c5 is an operand as well
    eight, four = (nbytes(compressed(w)) - kept for w in ("int8", "int4:64"))
    assert (plain - kept) > 2.4 * eight > 2.4 * 1.4 * four
