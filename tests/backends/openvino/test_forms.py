"""Every platform's forms of one block, on OpenVINO's CPU device: the numbers stay, and each form is there."""

from __future__ import annotations

from collections import Counter

import numpy as np
import openvino as ov
import pytest
from forgec.backends.openvino.emit import emit
from forgec.backends.openvino.rules import legalise_segment
from forgec.backends.openvino.runner import EMULATION

from forgec.ir.interpreter import Interpreter
from forgec.ir.parser import parse
from forgec.ir.program import Leaf

SEED = 41
BLOCK = parse(
    """program @main(r0 "x": f32[1,8,448]) -> (r13 "y": f32[1,448,320]) {
  const c0: f32[320,8,3] = "taps"
  const c1: f32[320] = "scale"
  const c2: f32[320] = "shift"
  const c3: f32[320,320] = "query"
  const c4: f32[2048,320] = "up"
  const c5: f32[2048] = "bias"
  const c6: f32[320,2048] = "down"
  r1: f32[1,320,448] = conv r0, c0, _ {stride=[1], padding=[1], dilation=[1]}
  r2: f32[1,448,320] = transpose r1 {perm=[0,2,1]}
  r3: f32[1,448,320] = layer_norm r2, c1, c2
  r4: f32[1,448,320] = linear r3, c3, _, _
  r5: f32[1,448,16,20] = reshape r4 {shape=[1,448,16,20]}
  r6: f32[1,16,448,20] = transpose r5 {perm=[0,2,1,3]}
  r7: f32[1,448,16,20] = attention r6, r6, r6, _, _ {scale=0.25, seq_major=true}
  r8: f32[1,448,320] = reshape r7 {shape=[1,448,320]}
  r9: f32[1,448,320] = add r8, r2
  r10: f32[1,448,320] = layer_norm r9, c1, c2
  r11: f32[1,448,2048] = linear r10, c4, c5, _ {act="gelu"}
  r12: f32[1,448,320] = linear r11, c6, _, r9
  r13: f32[1,448,320] = tanh r12
  return r13
}
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "products", "image", "hidden", "heads"),
    [("3720", 8, True, 3, 16), ("4000", 5, True, 2, 2), ("5010", 5, False, 1, 0)],
)
def test_a_block_in_the_forms_of_a_platform(
    platform: str, products: int, image: bool, hidden: int, heads: int
) -> None:
    rng = np.random.default_rng(SEED)
    tensors = {
        c.recipe.name: (rng.standard_normal(c.type.shape) / c.type.shape[-1] ** 0.5).astype(np.float32)
        for c in BLOCK.constants.values()
        if isinstance(c.recipe, Leaf)
    }
    legal = legalise_segment(BLOCK, platform)
    ops = Counter(instr.op for instr in legal.program.main.body)
    assert ops["conv" if image else "linear"] == products and ops["gelu"] == hidden, ops
    assert ops["softmax"] == heads and ops["exp"] == (0 if heads else 16)
    norms = [instr for instr in legal.program.main.body if instr.op == "layer_norm"]
    assert len(norms) == 2 and all(instr.operands[1:] == (None, None) for instr in norms)

    model = emit(legal.program, legal.values(lambda c: tensors[c.recipe.name]))
    compiled = ov.Core().compile_model(model, "CPU", {**EMULATION, "INFERENCE_NUM_THREADS": 1})
    for _ in range(2):
        x = rng.standard_normal((1, 8, 448)).astype(np.float32)
        (want,) = Interpreter(BLOCK, tensors.__getitem__).run([x])
        (got,) = compiled([x.astype(np.float16)]).values()
        np.testing.assert_allclose(got, want, atol=1e-2, err_msg=f"seed {SEED}")
