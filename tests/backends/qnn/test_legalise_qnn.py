"""The rewrites for HTP keep what a segment means, fire where they should and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from forgec.backends.qnn.legalise import legalise_segment

from forgec.ir.compress import compress
from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Constant, Program, leaves
from forgec.ir.recipes import evaluate
from forgec.ir.verifier import verify
from forgec.weights import WeightSpec

SEED = 3

ATTENTION = """program @main(r0 "x": f32[1,6,8], r1 "v": f32[1,2,6,4]) -> (r9 "y": f32[1,6,2,4]) {
  const c0: f32[24,8] = "w"
  const c1: f32[24] = "b"
  r2: f32[1,6,24] = linear r0, c0, c1
  r3: f32[1,6,8] = slice r2 {axis=2, stop=8}
  r4: f32[1,6,16] = slice r2 {axis=2, start=8, stop=24}
  r5: f32[1,6,2,4] = reshape r3 {shape=[1,6,2,4]}
  r6: f32[1,2,6,4] = transpose r5 {perm=[0,2,1,3]}
  r7: f32[1,6,8] = slice r4 {axis=2, stop=8}
  r11: f32[1,6,8] = copy r7
  r8: f32[1,2,6,4] = reshape r11 {shape=[1,2,6,4]}
  r9: f32[1,6,2,4] = attention r6, r8, r1 {scale=0.5, seq_major=true}
  return r9
}
"""


def _check(text: str) -> Program:
    """The rewritten segment, which gives what the original gives."""
    program = parse(text)
    rng = np.random.default_rng(SEED)
    found = {leaf.name: leaf.type.shape for c in program.constants.values() for leaf in leaves(c.recipe)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in found.items()}
    inputs = [rng.standard_normal(r.type.shape).astype(np.float32) for r in program.main.params]

    def value(constant: Constant) -> np.ndarray:
        return evaluate(constant.recipe, tensors.__getitem__)

    legal = legalise_segment(program)
    values = legal.values(value)
    rewritten = {c.key: values(c) for c in legal.program.constants.values()}
    expected = Interpreter(program, tensors.__getitem__).run(inputs)
    given = {name: values(c) for name, c in legal.program.constants.items()}
    assert rewritten
    for ours, theirs in zip(_run(legal.program, inputs, given), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=f"seed {SEED}")
    return legal.program


def _run(program: Program, inputs: list[np.ndarray], constants: dict[str, np.ndarray]) -> list[np.ndarray]:
    interpreter = Interpreter(program, {}.__getitem__)
    interpreter._constants.update(constants)
    return interpreter.run(inputs)


def _ops(program: Program) -> list[str]:
    return [instr.op for instr in program.main.body]


def test_projections_are_split_and_the_scale_is_folded() -> None:
    verify(parse(ATTENTION))
    program = _check(ATTENTION)
    assert _ops(program).count("linear") == 2
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert attention.attrs["scale"] == 1.0


@pytest.mark.parametrize("weights", ["int8", "int4:channel"])
def test_compressed_projections_are_split_and_scaled_too(weights: str) -> None:
    program = _check(to_text(compress(parse(ATTENTION), WeightSpec.parse(weights))))
    assert [i.operands[1].type.shape for i in program.main.body if i.op == "linear_q"] == [(8, 8), (16, 8)]
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert attention.attrs["scale"] == 1.0


def test_bf16_weights_have_no_scales_to_take_a_factor() -> None:
    program = _check(to_text(compress(parse(ATTENTION), WeightSpec.parse("bf16"))))
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert _ops(program).count("linear_q") == 2 and attention.attrs["scale"] == 0.5


def test_a_product_with_another_reader_stays_whole() -> None:
    program = _check(
        ATTENTION.replace('(r9 "y": f32[1,6,2,4])', '(r9 "y": f32[1,6,2,4], r2 "z": f32[1,6,24])').replace(
            "return r9", "return r9, r2"
        )
    )
    assert _ops(program).count("linear") == 1
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert attention.attrs["scale"] == 0.5


def test_queries_with_another_reader_keep_their_scale() -> None:
    text = ATTENTION.replace('(r9 "y": f32[1,6,2,4])', '(r9 "y": f32[1,6,2,4], r6 "z": f32[1,2,6,4])')
    program = _check(text.replace("return r9", "return r9, r6"))
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert attention.attrs["scale"] == 0.5


@pytest.mark.parametrize(
    "old, new", [("axis=2, stop=8}\n  r4", "axis=1, stop=6}\n  r4"), ("c0, c1\n", 'c0, c1 {act="relu"}\n')]
)
def test_near_misses_mean_the_same(old: str, new: str) -> None:
    text = ATTENTION.replace(old, new)
    if "axis=1" in new:
        text = text.replace("r3: f32[1,6,8]", "r3: f32[1,6,24]").replace(
            "r5: f32[1,6,2,4] = reshape r3 {shape=[1,6,2,4]}",
            "r10: f32[1,6,8] = slice r3 {axis=2, stop=8}\n  r5: f32[1,6,2,4] = reshape r10 {shape=[1,6,2,4]}",
        )
    program = _check(text)
    (attention,) = [instr for instr in program.main.body if instr.op == "attention"]
    assert attention.attrs["scale"] == 0.5
