"""A tiny program in IR text as an executable, so that the verbs are tested without compiling a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from forgec.backends.base import Backend
from forgec.backends.cpu import CpuBackend

from forgec import backends
from forgec.executable import Executable, Info, SelfTest
from forgec.executable.signature import Signature
from forgec.ir.inline import inline
from forgec.ir.op import get
from forgec.ir.parser import parse
from forgec.ir.verifier import verify
from forgec.plan.planner import make_plan

OUTPUTS = '(r4 "logits": f32[1,4,9], r3 "hidden": f32[1,4,8])'
TEXT = f"""\
program @main(r0 "input_ids": i64[1,4], r1 "bias": f32[4,8]) -> {OUTPUTS} {{
  const c0: f32[9,8] = "wte"
  const c1: f32[8,8] = transpose("w": f32[8,8]) {{perm=[1,0]}}
  r2: f32[1,4,8] = embedding c0, r0                        # aten.embedding, model.py:3, wte
  r3: f32[1,4,8] = call @block r2, r1, c1
  r4: f32[1,4,9] = linear r3, c0                           # aten.linear, model.py:9, head
  return r4, r3
}}

function @block(r0: f32[1,4,8], r1: f32[4,8], k0: f32[8,8]) -> (f32[1,4,8]) {{
  r2: f32[1,4,8] = linear r0, k0
  r3: f32[1,4,8] = gelu r2                                 # aten.gelu, model.py:6, act
  r4: f32[1,4,8] = add r3, r1
  return r4
}}
"""


def _tensor(index: int, name: str, kind: str) -> dict[str, Any]:
    return {"kind": "tensor", "index": index, "name": name, "type": kind}


SIGNATURE = Signature(
    {"kind": "tuple", "items": [_tensor(0, "input_ids", "i64[1,4]"), _tensor(1, "bias", "f32[4,8]")]},
    {"kind": "dict", "items": {}},
    {
        "kind": "dict",
        "items": {"logits": _tensor(0, "logits", "f32[1,4,9]"), "hidden": _tensor(1, "hidden", "f32[1,4,8]")},
    },
    ("input_ids", "bias"),
)


def tensors() -> dict[str, np.ndarray]:
    """The weights."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in (("wte", (9, 8)), ("w", (8, 8)))}


def example() -> list[np.ndarray]:
    """Inputs; ids from 2 to 7."""
    return [np.array([[2, 5, 7, 2]]), np.linspace(0, 1, 32, dtype=np.float32).reshape(4, 8)]


def toy(
    *,
    selftest: bool = True,
    backend: Callable[[str], Backend] = backends.get,
    target: str = "cpu",
    text: str = TEXT,
    **more: Any,
) -> Executable:
    """The executable, with its example and the outputs that it gives unless told not to store them."""
    program = parse(text)
    verify(program)
    plan = make_plan(
        inline(program), backends=[backend(name) for name in dict.fromkeys((target, "cpu"))], target=target
    )

    def make(stored: SelfTest | None) -> Executable:
        return Executable(
            program, plan, SIGNATURE, tensors().__getitem__,
            info=Info("toy", target, {"fusion": 1.0}), selftest=stored, backend=backend, **more,
        )  # fmt: skip

    return make(SelfTest(example(), make(None).run_flat(example())) if selftest else None)


class Wrong(CpuBackend):
    """A CPU whose kernel for one op adds ``error`` to the first element of the result."""

    def __init__(self, op, error):
        super().__init__()
        self.op, self.error = op, error

    def load(self, segment, code, memory):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FORGEC_CPU", "numpy")  # which has one step per instruction
            steps = super().load(segment, code, memory)
        kernels = [instr for instr in segment.main.body if not get(instr.op).view]
        return [
            step for instr, s in zip(kernels, steps, strict=True) for step in (s, self._spoil(instr, memory))
        ]

    def _spoil(self, instr, memory):
        def spoil():
            if instr.op == self.op:
                memory(instr.results[0]).flat[0] += self.error

        return spoil
