"""Norms' scales in weights, products that narrow, attention by heads or without a softmax: the same numbers, in
the form meant."""

from __future__ import annotations

import pytest
from forgec.backends.vendor.legalise import (
    fold_norm_scale,
    legalise,
    part_heads,
    part_narrowing,
    pool_maxima,
)
from test_product_forms import rewritten

from forgec.ir.parser import parse


def norm(op: str = "r1: f32[2,3,8] = layer_norm r0, c0, c1", more: str = "", result: str = "r9") -> str:
    width = 8 if result == "r1" else 5
    return f"""program @main(r0 "x": f32[2,3,8]) -> ({result} "y": f32[2,3,{width}]) {{
  const c0: f32[8] = "scale"
  const c1: f32[8] = "shift"
  const c2: f32[5,8] = "w"
  const c3: f32[5] = "b"
  const c4: f32[5,8] = "v"
  {op}
  r2: f32[2,3,5] = linear r1, c2, c3, _ {{act="relu"}}
  r3: f32[2,3,5] = linear r1, c4, _, r2{more}
  r9: f32[2,3,5] = add r2, r3
  return {result}
}}
"""


def bare_norms(text: str, elements: int = 0) -> int:
    """Norms without a scale after the rule, once the numbers were found to be the same."""
    rewritten(text, lambda program: fold_norm_scale(program, elements))
    program = parse(text)
    body = legalise(program, fold_norm_scale(program, elements)).program.main.body
    return sum(instr.op.endswith("layer_norm") and instr.operands[-2] is None for instr in body)


@pytest.mark.parametrize(
    "op",
    [
        "r1: f32[2,3,8] = layer_norm r0, c0, c1",
        "r1: f32[2,3,8] = layer_norm r0, c0, _",
        "r8: f32[2,3,8], r1: f32[2,3,8] = add_layer_norm r0, r0, c0, c1",
    ],
)
def test_scale_and_shift_go_into_weights(op: str) -> None:
    assert bare_norms(norm(op), 47) == 1


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (norm(), 48),
        (norm(result="r1"), 0),
        (norm(more="\n  r4: f32[2,3,8] = neg r1\n  r5: f32[2,3,5] = linear r4, c4, _, r2"), 0),
        (norm(more="\n  r4: f32[8] = neg c0\n  r5: f32[2,3,8] = layer_norm r0, r4, c1"), 48),
        (norm("r1: f32[2,3,8] = layer_norm r0, _, _"), 48),
    ],
    ids=["small", "it is a result", "another reader", "computed", "no scale"],
)
def test_norms_that_stay(text: str, elements: int) -> None:
    assert bare_norms(text, elements) == int("layer_norm r0, _, _" in text)


def narrow(rows: int = 16, outputs: int = 32, inputs: int = 64, bias: str = "c1", result: str = "r2") -> str:
    return f"""program @main(r0 "x": f32[1,{rows},{inputs}]) -> ({result} "y": f32[1,{rows},{outputs}]) {{
  const c0: f32[{outputs},{inputs}] = "w"
  const c1: f32[{outputs}] = "b"
  const c2: f32[1,{rows},{outputs}] = "r"
  r1: f32[1,{rows},{outputs}] = linear r0, c0, {bias}, c2 {{act="gelu"}}
  r2: f32[1,{rows},{outputs}] = neg r1
  return {result}
}}
"""


@pytest.mark.parametrize("bias", ["c1", "_"])
def test_a_product_that_narrows_goes_in_parts(bias: str) -> None:
    ops = rewritten(narrow(bias=bias), lambda program: part_narrowing(program, 2))
    assert ops == {"linear": 2, "concat": 1, "add": 1, "neg": 1}


@pytest.mark.parametrize(
    "text",
    [narrow(rows=17), narrow(outputs=48, inputs=96), narrow(inputs=63), narrow(result="r1")],
    ids=["rows", "outputs", "hardly narrower", "it is the result"],
)
def test_products_that_stay_whole(text: str) -> None:
    assert rewritten(text, lambda program: part_narrowing(program, 2))["linear"] == 1


def attention(mask: str = "r3", attrs: str = "", out: str = "1,6,5,4") -> str:
    return f"""program @main(r0 "q": f32[1,6,5,4], r1 "k": f32[1,3,7,4], r2 "v": f32[1,3,7,4], r3 "m": f32[1,6,5,7],
    r4 "row": f32[7], r5 "s": f32[1,1,5,7]) -> (r9 "y": f32[{out}]) {{
  const c0: f32[1,6,5,7] = "bias"
  r9: f32[{out}] = attention r0, r1, r2, {mask}, _ {{scale=0.5{attrs}}}
  return r9
}}
""".replace(",\n    r4", ", r4")


@pytest.mark.parametrize("mask", ["r4", "r5", "c0", "_"])
@pytest.mark.parametrize(
    ("attrs", "out"), [("", "1,6,5,4"), (", seq_major=true, causal=true", "1,5,6,4")], ids=["", "rows first"]
)
def test_heads_go_one_after_the_other(mask: str, attrs: str, out: str) -> None:
    text = attention(mask, attrs, out)
    assert rewritten(text, lambda _: [part_heads(10)]) == {
        "attention": 3,
        "concat": 1,
        "slice": 9,
    }
    assert rewritten(text, lambda _: [part_heads(140)])["attention"] == 2


def test_few_scores_stay_together() -> None:
    assert rewritten(attention("r5"), lambda _: [part_heads(210)]) == {"attention": 1}


def test_heads_with_a_mask_each_stay_together() -> None:
    assert rewritten(attention("r3"), lambda _: [part_heads(10)]) == {"attention": 1}


def scores(
    length: int = 13, rest: str = "_, _", attrs: str = "", items: int = 1, groups: int = 3, out: str = "6,5,4"
) -> str:
    """A program with attention; ``rest`` are its mask and how many keys count."""
    params = {
        "q": f"f32[{items},6,5,3]",
        "k": f"f32[{items},{groups},{length},3]",
        "v": f"f32[{items},{groups},{length},4]",
        "item": f"bool[{items},1,1,{length}]",
        "row": f"f32[{length}]",
        "query": f"f32[1,1,5,{length}]",
        "head": f"f32[{items},6,1,{length}]",
        "count": "i64[]",
    }
    listed = ", ".join(f'r{i} "{name}": {kind}' for i, (name, kind) in enumerate(params.items()))
    rest = ", ".join(f"r{[*params].index(name)}" if name in params else name for name in rest.split(", "))
    return f"""program @main({listed}) -> (r9 "y": f32[{items},{out}]) {{
  r9: f32[{items},{out}] = attention r0, r1, r2, {rest} {{scale=0.5{attrs}}}
  return r9
}}
"""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (scores(), 6),
        (scores(150, "item, _", items=2), 12),
        (scores(20, "row, _", ", seq_major=true", 2, 6, "5,6,4"), 12),
    ],
    ids=["an image with rows twice", "a mask for each item, two poolings", "one mask, rows first"],
)
def test_attention_over_many_scores_has_no_softmax(text: str, count: int) -> None:
    ops = rewritten(text, lambda _: [pool_maxima(64)])
    assert ops["exp"] == ops["div"] == count and ops["matmul"] == 3 * count
    assert not ops["attention"] and not ops["softmax"]


def test_scores_of_any_size_do_not_overflow() -> None:
    """The largest of a row counts whole, even if 16 bits hold no exponential of it."""
    text = scores().replace("scale=0.5", "scale=5000.0")
    assert rewritten(text, lambda _: [pool_maxima(64)])["exp"] == 6


@pytest.mark.parametrize(
    "text",
    [
        scores(12),
        scores(rest="query, _"),
        scores(rest="head, _"),
        scores(attrs=", causal=true"),
        scores(attrs=", window=3"),
        scores(attrs=", softcap=2.0"),
        scores(rest="row, _", attrs=", bounded=true"),
        scores(rest="_, count"),
    ],
    ids=["few", "a mask by query", "a mask by head", "causal", "window", "cap", "over a cache", "some keys"],
)
def test_attention_that_keeps_its_softmax(text: str) -> None:
    assert rewritten(text, lambda _: [pool_maxima(64)]) == {"attention": 1}
