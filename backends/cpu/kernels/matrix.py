"""Matrix products through BLAS, with bias, activation and residual applied to the output in place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from forgec.ir.ops.linear import by_expert

from .elementwise import bind_activation
from .registry import Array, Call, Step, is_blas_float, kernel, overlap

__all__ = ["as_rows", "blas_ready", "product_of"]


def _is_blas_matrix(x: Array) -> bool:
    """True if BLAS can read the last two axes as they lie: one has unit stride, the other covers it."""
    rows, columns = x.shape[-2:]
    by_row, by_column = (stride // x.itemsize for stride in x.strides[-2:])
    return (by_column == 1 and by_row >= columns) or (by_row == 1 and by_column >= rows)


def blas_ready(x: Array, call: Call) -> tuple[Array, Step | None]:
    """``x``, or scratch in its place and the step that fills it, so that its matrices suit BLAS."""
    if _is_blas_matrix(x):
        return x, None
    work = call.scratch.take(x.shape, x.dtype)
    return work, partial(np.copyto, work, x)


def as_rows(x: Array, call: Call) -> tuple[Array, Step | None]:
    """All leading axes of ``x`` as one, in memory that suits BLAS."""
    shape = (int(np.prod(x.shape[:-1])), x.shape[-1])
    rows = x.reshape(shape)
    if overlap(rows, x) and _is_blas_matrix(rows):
        return rows, None
    work = call.scratch.take(x.shape, x.dtype)
    return work.reshape(shape), partial(np.copyto, work, x)


@dataclass(frozen=True)
class Product:
    """Where a product goes, its rows flat, and what follows it: bias, activation, residual sum."""

    flat: Array
    finish: Step


def product_of(call: Call, columns: int) -> Product:
    """For ``linear`` and ``linear_q``, whose last two operands are a bias and a residual."""
    (bias, residual), out, act = call.inputs[-2:], call.out, call.attrs["act"]
    product = call.scratch.take(out.shape, out.dtype) if overlap(residual, out) else out
    flat = product.reshape(-1, columns)
    activate = bind_activation(act, product, product, call) if act else None

    def finish() -> None:
        if bias is not None:
            np.add(flat, bias, flat)
        if activate is not None:
            activate()
        if residual is not None:
            np.add(product, residual, out)

    return Product(flat, finish)


@kernel("expert_linear")
def _expert_linear(call: Call) -> Step | None:
    x, weight, ids = call.array(0), call.array(1), call.array(2)
    if not is_blas_float(x):
        return None
    return lambda: np.copyto(call.out, by_expert(x, weight, ids, call.attrs["experts"]))


@kernel("linear")
def _linear(call: Call) -> Step | None:
    x, weight = call.array(0), call.array(1)
    if not is_blas_float(x):
        return None
    rows, prepare = as_rows(x, call)
    columns, prepare_weight = blas_ready(weight, call)
    product = product_of(call, weight.shape[0])
    transposed = columns.T

    def step() -> None:
        if prepare is not None:
            prepare()
        if prepare_weight is not None:
            prepare_weight()
        np.matmul(rows, transposed, product.flat)
        product.finish()

    return step


@kernel("matmul")
def _matmul(call: Call) -> Step | None:
    if not is_blas_float(call.out):
        return None
    a, prepare_a = blas_ready(call.array(0), call)
    b, prepare_b = blas_ready(call.array(1), call)
    product = partial(np.matmul, a, b, call.out)
    prepares = [prepare for prepare in (prepare_a, prepare_b) if prepare is not None]
    if not prepares:
        return product

    def step() -> None:
        for prepare in prepares:
            prepare()
        product()

    return step
