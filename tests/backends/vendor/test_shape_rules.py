"""Convolutions as products on rows, and products in pieces: the numbers stay, and near misses stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from forgec.backends.vendor.legalise import conv_on_rows, legalise, split_wide_products

from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.program import Constant, Program
from forgec.ir.recipes import evaluate
from forgec.ir.verifier import verify

SEED = 20261128

TWO_CONVS = """program @main(r0 "x": f32[2,4,{length}]) -> (r5 "y": f32[2,{after},5]) {{
  const c0: f32[6,4,3] = "w0"
  const c1: f32[6] = "b0"
  const c2: f32[5,6,{taps}] = "w1"
  r1: f32[2,6,{length}] = conv r0, c0, c1 {{padding=[1]}}
  r2: f32[2,6,{length}] = gelu r1
  r3: f32[2,5,{after}] = conv r2, c2, _ {{stride=[{stride}], padding=[{padding}]}}
  r4: f32[2,{after},5] = transpose r3 {{perm=[0,2,1]}}
  r5: f32[2,{after},5] = copy r4
  return r5
}}
"""

GATE = """program @main(r0 "x": f32[1,3,8]) -> (r5 "y": f32[1,3,70]) {
  const c0: f32[192,8] = "w0"
  const c1: f32[192,8] = "w1"
  const c2: f32[192] = "b1"
  const c3: f32[70,192] = "w2"
  const c4: f32[70] = "b2"
  const c5: f32[70,8] = "w3"
  r1: f32[1,3,192] = linear r0, c0
  r2: f32[1,3,192] = linear r0, c1, c2
  r3: f32[1,3,192] = gated r1, r2 {act="silu"}
  r6: f32[1,3,70] = linear r0, c5
  r4: f32[1,3,70] = linear r3, c3, c4, r6
  r5: f32[1,3,70] = copy r4
  return r5
}
"""
LIMIT = 192 * 8 * 2 // 2
"""Bytes: half of the gate's weights."""


def _same(program: Program, rules: Any) -> Program:
    """The rewritten program, after comparing the numbers."""
    verify(program)
    rng = np.random.default_rng(SEED)
    tensors = {
        c.key: rng.standard_normal(c.type.shape).astype(np.float32) for c in program.constants.values()
    }
    inputs = [rng.standard_normal(r.type.shape).astype(np.float32) for r in program.main.params]

    def value(constant: Constant) -> np.ndarray:
        return evaluate(constant.recipe, tensors.__getitem__)

    legal = legalise(program, rules)
    values = legal.values(value)
    interpreter = Interpreter(legal.program, {}.__getitem__)
    interpreter._constants.update({name: values(c) for name, c in legal.program.constants.items()})
    expected = Interpreter(program, tensors.__getitem__).run(inputs)
    for ours, theirs in zip(interpreter.run(inputs), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=f"seed {SEED}")
    return legal.program


def _ops(program: Program) -> list[str]:
    return [instr.op for instr in program.main.body]


@pytest.mark.parametrize(
    ("length", "taps", "stride", "padding"),
    [(9, 3, 2, 1), (10, 3, 2, 1), (8, 3, 1, 1), (8, 1, 1, 0), (11, 2, 3, 0), (7, 4, 3, 2), (9, 3, 2, 0)],
)
def test_convolutions_over_time_become_products(length: int, taps: int, stride: int, padding: int) -> None:
    after = (length + 2 * padding - taps) // stride + 1
    text = TWO_CONVS.format(length=length, taps=taps, stride=stride, padding=padding, after=after)
    ops = _ops(_same(parse(text), conv_on_rows()))
    assert "conv" not in ops
    assert ops.count("linear") == 2
    assert ops.count("transpose") == 1  # of the input: all that follows is on rows


def test_channels_are_there_for_who_reads_them() -> None:
    text = TWO_CONVS.format(length=9, taps=3, stride=2, padding=1, after=5)
    text = text.replace('(r5 "y": f32[2,5,5])', '(r5 "y": f32[2,5,5], r2 "z": f32[2,6,9])').replace(
        "return r5", "return r5, r2"
    )
    assert _ops(_same(parse(text), conv_on_rows())).count("transpose") == 2


@pytest.mark.parametrize(
    ("weight", "attrs"),
    [("f32[6,2,3]", "padding=[1], groups=2"), ("f32[6,4,3]", "padding=[2], dilation=[2]")],
)
def test_other_convolutions_stay(weight: str, attrs: str) -> None:
    text = TWO_CONVS.format(length=9, taps=3, stride=2, padding=1, after=5)
    text = text.replace("f32[6,4,3]", weight).replace("{padding=[1]}", f"{{{attrs}}}", 1)
    assert _ops(_same(parse(text), conv_on_rows())).count("conv") == 1


def test_a_gate_and_its_products_come_in_pieces() -> None:
    program = parse(GATE)
    ops = _ops(_same(program, split_wide_products(program, LIMIT)))
    assert ops.count("gated") == 3  # of one tile each
    assert ops.count("linear") == 2 * 3 + 2 + 1
    assert ops.count("concat") == 2
    assert ops.count("add") == 1


@pytest.mark.parametrize("most", [1, 2])
def test_pieces_are_no_more_than_allowed(most: int) -> None:
    program = parse(GATE)
    ops = _ops(_same(program, split_wide_products(program, LIMIT, most=most)))
    assert ops.count("gated") == most
    assert ops.count("linear") == 2 * most + most + 1


def test_products_that_fit_stay() -> None:
    program = parse(GATE)
    assert _ops(_same(program, split_wide_products(program, 1 << 20))) == _ops(program)


def test_a_gate_that_is_read_elsewhere_is_one_value() -> None:
    text = GATE.replace('(r5 "y": f32[1,3,70])', '(r5 "y": f32[1,3,70], r1 "z": f32[1,3,192])').replace(
        "return r5", "return r5, r1"
    )
    program = parse(text)
    assert _ops(_same(program, split_wide_products(program, LIMIT))).count("gated") == 1


def test_a_product_that_only_leaves_the_segment_stays() -> None:
    text = GATE.replace("  r5: f32[1,3,70] = copy r4\n", "").replace("r5", "r4")
    text = text.replace(", r6\n", "\n").replace("  r6: f32[1,3,70] = linear r0, c5\n", "")
    text = text.replace('  const c5: f32[70,8] = "w3"\n', "")
    program = parse(text)
    assert _ops(_same(program, split_wide_products(program, LIMIT)))[-1] == "linear"
