"""Products as images of rows and in parts, and patches as products: the same numbers, in the form meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from forgec.backends.openvino.rules import legalise_segment
from forgec.backends.vendor.legalise import Rule, legalise, part_hidden, patches_as_rows, rows_as_image

from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.program import Leaf, Program
from forgec.ir.types import DType, TensorType

SEED = 37
Rules = Callable[[Program], Sequence[Rule]]


def rewritten(text: str, rules: Rules) -> Counter[str]:
    """Ops after the rules, once the numbers were found to be the same."""
    program = parse(text)
    rng = np.random.default_rng(SEED)
    tensors = {
        name: rng.standard_normal(c.type.shape).astype(np.float32) for name, c in program.constants.items()
    }
    inputs = [_input(rng, r.type) for r in program.main.params]
    legal = legalise(program, rules(program))

    sources = {c.recipe.name: name for name, c in program.constants.items() if isinstance(c.recipe, Leaf)}
    value = legal.values(lambda constant: tensors[constant.name])
    plain = {name: replace(c, recipe=Leaf(name, c.type)) for name, c in legal.program.constants.items()}
    after = replace(legal.program, constants=plain)
    (want,) = Interpreter(program, lambda source: tensors[sources[source]]).run(inputs)
    (got,) = Interpreter(after, lambda name: value(plain[name])).run(inputs)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max(), err_msg=f"seed {SEED}")
    return Counter(instr.op for instr in legal.program.main.body)


def _input(rng: np.random.Generator, kind: TensorType) -> np.ndarray:
    """Normal numbers, truth by sign, or counts from one on."""
    values = np.asarray(rng.standard_normal(kind.shape))
    if kind.dtype is DType.BOOL:
        return np.asarray(values > 0)
    return np.asarray(values if kind.dtype.is_float else np.ceil(np.abs(values)), kind.dtype.numpy)


def product(rows: int = 32, act: str = "", residual: str = "_") -> str:
    return f"""program @main(r0 "x": f32[{rows},24], r1 "r": f32[{rows},40]) -> (r2 "y": f32[{rows},40]) {{
  const c0: f32[40,24] = "w"
  const c1: f32[40] = "b"
  r2: f32[{rows},40] = linear r0, c0, c1, {residual} {{act="{act}"}}
  return r2
}}
"""


@pytest.mark.parametrize("rows", [32, 48, 20])
def test_rows_become_an_image(rows: int) -> None:
    ops = rewritten(product(rows), lambda _: [rows_as_image(16, 4)])
    assert ops["conv"] == 1 and not ops["linear"]


@pytest.mark.parametrize(
    "text",
    [product(33), product(16), product(act="gelu"), product(residual="r1")],
    ids=["rest", "too few rows", "activation", "residual"],
)
def test_rows_that_stay(text: str) -> None:
    assert rewritten(text, lambda _: [rows_as_image(16)]) == {"linear": 1}


def square(outputs: int, inputs: int) -> str:
    return f"""program @main(r0 "x": f32[32,{inputs}]) -> (r1 "y": f32[32,{outputs}]) {{
  const c0: f32[{outputs},{inputs}] = "w"
  r1: f32[32,{outputs}] = linear r0, c0, _, _
  return r1
}}
"""


def heights(legal: Program) -> list[int]:
    """Of the images that products became."""
    return [instr.results[0].type.shape[2] for instr in legal.main.body if instr.op == "conv"]


@pytest.mark.parametrize(("outputs", "inputs", "high"), [(1024, 1024, 8), (1023, 1024, 16), (1024, 1023, 16)])
def test_the_image_of_a_wide_product_has_a_height_of_its_own(outputs: int, inputs: int, high: int) -> None:
    rules = [rows_as_image(16, wide=(8,))]
    assert rewritten(square(outputs, inputs), lambda _: rules)["conv"] == 1
    assert heights(legalise(parse(square(outputs, inputs)), rules).program) == [high]


@pytest.mark.parametrize(("platform", "high"), [("3720", [16] * 4), ("4000", [8]), ("5010", [])])
def test_every_platform_has_its_image_of_a_wide_product(platform: str, high: list[int]) -> None:
    text = (
        square(1024, 1024)
        .replace("(r1 ", "(r2 ")
        .replace("return r1", "r2: f32[32,1024] = tanh r1\n  return r2")
    )
    assert heights(legalise_segment(parse(text), platform).program) == high


def test_rows_of_a_product_with_a_computed_weight_stay() -> None:
    text = """program @main(r0 "x": f32[32,24], r1 "w": f32[40,24]) -> (r2 "y": f32[32,40]) {
  r2: f32[32,40] = linear r0, r1, _, _
  return r2
}
"""
    assert rewritten(text, lambda _: [rows_as_image(16)]) == {"linear": 1}


def patches(attrs: str = "stride=[4,2]", channels: int = 3, size: str = "8,6", out: str = "2,3") -> str:
    return f"""program @main(r0 "x": f32[2,{channels},{size}]) -> (r1 "y": f32[2,10,{out}]) {{
  const c0: f32[10,{channels},4,2] = "w"
  const c1: f32[10] = "b"
  r1: f32[2,10,{out}] = conv r0, c0, c1 {{{attrs},dilation=[1,1]{"" if "padding" in attrs else ",padding=[0,0]"}}}
  return r1
}}
"""


def test_patches_become_rows() -> None:
    ops = rewritten(patches(), lambda _: [patches_as_rows])
    assert ops["linear"] == 1 and not ops["conv"]


@pytest.mark.parametrize(
    "text",
    [
        patches("stride=[2,2]", out="3,3"),
        patches("stride=[4,2],padding=[0,1]", out="2,4"),
        patches(channels=16),
        patches(size="9,7"),
    ],
    ids=["they overlap", "padding", "many channels", "a border"],
)
def test_patches_that_stay(text: str) -> None:
    assert rewritten(text, lambda _: [patches_as_rows]) == {"conv": 1}


def hidden(width: int = 1040, result: int = 9, act: str = "gelu", more: str = "") -> str:
    out = 8 if result == 9 else width
    return f"""program @main(r0 "x": f32[1,4,8]) -> (r{result} "y": f32[1,4,{out}]) {{
  const c0: f32[{width},8] = "up"
  const c1: f32[{width}] = "shift"
  const c2: f32[8,{width}] = "down"
  r1: f32[1,4,{width}] = linear r0, c0, c1, _ {{act="{act}"}}
  r9: f32[1,4,8] = linear r1, c2, _, r0{more}
  return r{result}
}}
"""


def gated(width: int = 1040, second: str = "r1") -> str:
    return f"""program @main(r0 "x": f32[1,4,8]) -> (r9 "y": f32[1,4,8]) {{
  const c0: f32[{width},8] = "gate"
  const c1: f32[{width},8] = "up"
  const c2: f32[8,{width}] = "down"
  r1: f32[1,4,{width}] = linear r0, c0, _, _
  r2: f32[1,4,{width}] = linear r0, c1, _, _
  r3: f32[1,4,{width}] = gated {second}, r2 {{act="silu"}}
  r9: f32[1,4,8] = linear r3, c2, _, _
  return r9
}}
"""


def in_parts(elements: int, least: int = 256) -> Rules:
    return lambda program: part_hidden(program, elements, least)


def test_a_wide_layer_goes_in_parts() -> None:
    assert rewritten(hidden(), in_parts(2000)) == {"linear": 4, "concat": 1}


def test_a_gated_layer_goes_in_parts() -> None:
    assert rewritten(gated(), in_parts(3000)) == {"linear": 7, "gated": 3, "concat": 1}


def test_parts_of_a_layer_do_not_get_narrow() -> None:
    assert rewritten(hidden(), in_parts(800)) == {"linear": 5, "concat": 1}
    assert rewritten(hidden(), in_parts(800, least=521)) == {"linear": 2}


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (hidden(), 4160),
        (hidden(result=1), 2000),
        (hidden(act=""), 2000),
        (hidden(more="\n  r10: f32[1,4,1040] = neg r1\n  r11: f32[1,4,8] = linear r10, c2, _, _"), 2000),
    ],
    ids=["small", "it is a result", "nothing between", "another reader"],
)
def test_layers_that_stay(text: str, elements: int) -> None:
    ops = rewritten(text, in_parts(elements))
    assert not ops["concat"]


def test_what_is_read_twice_inside_stays() -> None:
    text = gated(second="r2").replace("  r1: f32[1,4,1040] = linear r0, c0, _, _\n", "")
    assert not rewritten(text.replace('  const c0: f32[1040,8] = "gate"\n', ""), in_parts(2000))["concat"]


@pytest.mark.parametrize("bounded", [False, True])
def test_around_attention_over_a_cache_products_stay_as_they_are(bounded: bool) -> None:
    program = parse(f"""program @main(r0 "x": f32[1,2,32,8]) -> (r2 "y": f32[1,2,32,8]) {{
  const c0: f32[8,8] = "w"
  r1: f32[1,2,32,8] = linear r0, c0
  r2: f32[1,2,32,8] = attention r1, r1, r1 {{scale=0.5, bounded={str(bounded).lower()}}}
  return r2
}}
""")
    ops = {instr.op for instr in legalise_segment(program, "4000").program.main.body}
    assert ("conv" in ops) == (not bounded)
