"""A small language model in IR text (tied embedding, one block called twice), and a counter with a state."""

from __future__ import annotations

import numpy as np
from forgec.backends.cpu import CpuBackend

from forgec.executable import Executable, Info, SelfTest
from forgec.executable.signature import Signature
from forgec.ir.compress import compress
from forgec.ir.in_place import flatten
from forgec.ir.parser import parse
from forgec.ir.verifier import verify
from forgec.plan.plan import Plan
from forgec.plan.planner import make_plan
from forgec.weights import WeightSpec

TEXT = """\
program @main(r0 "ids": i64[2,4], r1 "mask": bool[2,1,1,4]) -> (r7 "y": f32[2,4,9], r6 "h": f32[2,4,8]) {
  const c0: f32[9,8] = "wte"
  const c1: f32[8,8] = "h.0.w"
  const c2: f32[8,8] = transpose("h.1.w": f32[8,8]) {perm=[1,0]}
  const c3: f32[8] = mul("scale": f32[8], 2.0)
  r2: f32[2,4,8] = embedding c0, r0                        # aten.embedding, model.py:3, wte
  r3: f32[2,4,8] = call @block r2, r1, c1
  r4: f32[2,4,8] = call @block r3, r1, c2
  r5: f32[2,4,8] = mul r4, c3
  r6: f32[2,4,8] = rms_norm r5
  r7: f32[2,4,9] = linear r6, c0
  return r7, r6
}

function @block(r0: f32[2,4,8], r1: bool[2,1,1,4], k0: f32[8,8]) -> (f32[2,4,8]) {
  r2: f32[2,4,8] = linear r0, k0
  r3: f32[2,4,2,4] = reshape r2 {shape=[2,4,2,4]}
  r4: f32[2,2,4,4] = transpose r3 {perm=[0,2,1,3]}
  r5: f32[2,4,2,4] = attention r4, r4, r4, r1 {scale=0.5, seq_major=true}
  r6: f32[2,4,8] = reshape r5 {shape=[2,4,8]}
  r7: f32[2,4,8] = gelu r6
  r8: f32[2,4,8] = add r7, r0
  return r8
}
"""

COUNTER = """\
program @main(r0 "x": f32[3]) -> (r2 "total": f32[3]) {
  state s0: f32[3]
  r1: f32[3] = read_state s0
  r2: f32[3] = add r1, r0
  write_state s0, r2
  return r2
}
"""


def source_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"wte": (9, 8), "h.0.w": (8, 8), "h.1.w": (8, 8), "scale": (8,)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def example(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.random((2, 1, 1, 4)) > 0.3
    mask[..., 0] = True
    return rng.integers(0, 9, (2, 4)), mask


def tensor(index: int, name: str, kind: str) -> dict:
    return {"kind": "tensor", "index": index, "name": name, "type": kind}


SIGNATURE = Signature(
    {"kind": "tuple", "items": [tensor(0, "ids", "i64[2,4]")]},
    {"kind": "dict", "items": {"mask": tensor(1, "mask", "bool[2,1,1,4]")}},
    {
        "kind": "dict",
        "items": {"logits": tensor(0, "logits", "f32[2,4,9]"), "hidden": tensor(1, "hidden", "f32[2,4,8]")},
    },
    ("ids", "mask"),
)
COUNTER_SIGNATURE = Signature(
    {"kind": "tuple", "items": [tensor(0, "x", "f32[3]")]},
    {"kind": "dict", "items": {}},
    tensor(0, "total", "f32[3]"),
    ("x",),
)


def plan_of(text: str, weights: str = "fp32") -> tuple:
    program = compress(parse(text), WeightSpec.parse(weights))
    verify(program)
    plan: Plan = make_plan(flatten(program), backends=[CpuBackend()], target="cpu")
    return program, plan


def toy(seed: int = 0, weights: str = "fp32", **more) -> Executable:
    program, plan = plan_of(TEXT, weights)
    return Executable(program, plan, SIGNATURE, source_tensors(seed).__getitem__, info=Info("toy"), **more)


def computed_keys() -> list[str]:
    """Keys of the toy's two computed constants: a transpose of h.1.w, and scale * 2."""
    constants = toy().plan.program.constants
    return [constants[name].key for name in ("c2", "c3")]


def counter(**more) -> Executable:
    program, plan = plan_of(COUNTER)
    return Executable(program, plan, COUNTER_SIGNATURE, {}.__getitem__, **more)


def with_selftest(seed: int = 0) -> Executable:
    inputs = example()
    return toy(seed, selftest=SelfTest(inputs, toy(seed).run_flat(inputs)), extra={"vocab.txt": b"a b c"})


def reference(seed: int, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model written out in numpy, sharing no code with forgec."""
    w = source_tensors(seed)
    x = w["wte"][ids]
    for weight in (w["h.0.w"], w["h.1.w"].T):
        q = (x @ weight.T).reshape(2, 4, 2, 4).transpose(0, 2, 1, 3)
        scores = np.where(mask, q @ q.swapaxes(-1, -2) * 0.5, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        y = (p / p.sum(-1, keepdims=True) @ q).transpose(0, 2, 1, 3).reshape(2, 4, 8)
        x = y * 0.5 * (1 + np.vectorize(__import__("math").erf)(y / np.sqrt(2))) + x
    x = x * w["scale"] * 2
    hidden = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return hidden @ w["wte"].T, hidden
