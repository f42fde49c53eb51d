"""Products with compressed weights: a block of rows of the weight at a time is decoded for BLAS."""

from __future__ import annotations

import numpy as np

from forgec.ir.ops.compressed import dequantise

from .matrix import as_rows, product_of
from .registry import Call, Step, is_blas_float, kernel

_BLOCK = 1 << 20
"""Elements of the weight that are decoded at a time."""


@kernel("linear_q")
def _linear_q(call: Call) -> Step | None:
    x, weight, scales, group = call.array(0), call.array(1), call.inputs[2], call.attrs["group"]
    if not is_blas_float(x) or call.attrs["dynamic"]:
        return None
    rows, prepare = as_rows(x, call)
    product = product_of(call, weight.shape[0])
    step_rows = max(1, _BLOCK // max(1, x.shape[-1]))

    def step() -> None:
        if prepare is not None:
            prepare()
        for first in range(0, weight.shape[0], step_rows):
            part = slice(first, first + step_rows)
            picked = None if scales is None else scales[:, part]
            product.flat[:, part] = rows @ dequantise(weight[part], picked, group, x.dtype).T
        product.finish()

    return step


@kernel("expert_linear_q")
def _expert_linear_q(call: Call) -> Step | None:
    x, weight, ids, scales = call.array(0), call.array(1), call.array(2), call.inputs[3]
    outs, group, experts = call.out.shape[1], call.attrs["group"], call.attrs["experts"]
    if not is_blas_float(x):
        return None

    def step() -> None:
        for expert in np.unique(ids):
            if not -experts <= expert < experts:
                raise IndexError(f"index {expert} is outside an axis of {experts}")
            rows, first = ids == expert, expert % experts * outs
            part = slice(first, first + outs)
            picked = None if scales is None else scales[:, part]
            call.out[rows] = x[rows] @ dequantise(weight[part], picked, group, x.dtype).T

    return step
