"""Products with compressed weights: a block of rows of the weight at a time is decoded for BLAS."""

from __future__ import annotations

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
