"""Products with compressed weights: a block of rows of the weight at a time is decoded for BLAS."""

from __future__ import annotations

import numpy as np

from forgec.ir.ops.compressed import dequantise

from .elementwise import bind_activation
from .matrix import as_rows
from .registry import Call, Step, is_blas_float, kernel, overlap

_BLOCK = 1 << 20
"""Elements of the weight that are decoded at a time."""


@kernel("linear_q")
def _linear_q(call: Call) -> Step | None:
    x, weight, scales, bias, residual = call.array(0), call.array(1), *call.inputs[2:]
    out, act, group = call.out, call.attrs["act"], call.attrs["group"]
    if not is_blas_float(x) or call.attrs["dynamic"]:
        return None
    rows, prepare = as_rows(x, call)
    product = call.scratch.take(out.shape, out.dtype) if overlap(residual, out) else out
    flat = product.reshape(-1, weight.shape[0])
    activate = bind_activation(act, product, product, call) if act else None
    step_rows = max(1, _BLOCK // max(1, x.shape[-1]))

    def step() -> None:
        if prepare is not None:
            prepare()
        for first in range(0, weight.shape[0], step_rows):
            part = slice(first, first + step_rows)
            picked = None if scales is None else scales[:, part]
            flat[:, part] = rows @ dequantise(weight[part], picked, group, x.dtype).T
        if bias is not None:
            np.add(flat, bias, flat)
        if activate is not None:
            activate()
        if residual is not None:
            np.add(product, residual, out)

    return step
