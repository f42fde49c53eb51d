"""Ops that move or re-index elements: views, copies, concatenation, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..op import IRTypeError, Sample, op
from ..types import DType, TensorType
from .rules import (
    broadcast_shapes,
    normalise_axes,
    normalise_axis,
    require,
    require_exact,
    require_sizes,
    same,
    tensor,
)

Array = np.ndarray


def _no_flops(*_: Any) -> float:
    return 0.0


def _x(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _reshape_rule(x: TensorType | None, *, shape: tuple[int, ...]) -> TensorType:
    t = tensor(x)
    require_sizes(shape)
    require(
        math.prod(shape) == t.numel, f"{t} has {t.numel} elements, shape {list(shape)} has {math.prod(shape)}"
    )
    return TensorType(t.dtype, tuple(shape))


@op(
    "reshape",
    "x",
    rule=_reshape_rule,
    attrs={"shape": ()},
    view=True,
    flops=_no_flops,
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 4),), {"shape": (6, 4)}),
        Sample((_x(rng, 1),), {"shape": ()}),
    ],
)
def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    """Other shape, same elements in row-major order; a view when the strides allow it."""
    return x.reshape(shape)


def _transpose_rule(x: TensorType | None, *, perm: tuple[int, ...]) -> TensorType:
    t = tensor(x)
    require(sorted(perm) == list(range(t.rank)), f"perm {list(perm)} is no permutation of the axes of {t}")
    return TensorType(t.dtype, tuple(t.shape[axis] for axis in perm))


@op(
    "transpose",
    "x",
    rule=_transpose_rule,
    attrs={"perm": ()},
    view=True,
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 4),), {"perm": (2, 0, 1)})],
)
def transpose(x: Array, *, perm: tuple[int, ...]) -> Array:
    """Axes permuted; a view."""
    return x.transpose(perm)


def _slice_rule(x: TensorType | None, *, axis: int, start: int, stop: int, step: int) -> TensorType:
    t = tensor(x)
    axis = normalise_axis(axis, t.rank)
    require(0 <= start <= stop <= t.shape[axis], f"slice {start}:{stop} is outside axis {axis} of {t}")
    require(step >= 1, f"step must be at least 1, not {step}")
    require(t.dtype is not DType.I4 or axis < t.rank - 1, f"{t} has two numbers in a byte on axis {axis}")
    shape = list(t.shape)
    shape[axis] = -(-(stop - start) // step)
    return TensorType(t.dtype, tuple(shape))


@op(
    "slice",
    "x",
    rule=_slice_rule,
    attrs={"axis": 0, "start": 0, "stop": 0, "step": 1},
    view=True,
    takes_i4=True,
    flops=_no_flops,
    samples=lambda rng: [
        Sample((_x(rng, 2, 6, 4),), {"axis": 1, "start": 1, "stop": 5, "step": 2}),
        Sample((_x(rng, 2, 6),), {"axis": 1, "start": 3, "stop": 3}),
    ],
)
def slice_(x: Array, *, axis: int, start: int, stop: int, step: int) -> Array:
    """Elements start, start+step, ... below stop on one axis; a view."""
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop, step),)]


def _expand_rule(x: TensorType | None, *, shape: tuple[int, ...]) -> TensorType:
    t = tensor(x)
    require_sizes(shape)
    require(broadcast_shapes(t.shape, tuple(shape)) == tuple(shape), f"{t} does not expand to {list(shape)}")
    return TensorType(t.dtype, tuple(shape))


@op(
    "expand",
    "x",
    rule=_expand_rule,
    attrs={"shape": ()},
    view=True,
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 3, 1, 4),), {"shape": (2, 3, 5, 4)})],
)
def expand(x: Array, *, shape: tuple[int, ...]) -> Array:
    """Broadcast to a shape; a view with stride 0."""
    return np.broadcast_to(x, shape)


@op(
    "copy",
    "x",
    rule=same,
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 3, 4).T,), {})],
)
def copy(x: Array) -> Array:
    """The same elements, contiguous in row-major order."""
    return np.asarray(x, order="C")


def _concat_rule(*parts: TensorType | None, axis: int) -> TensorType:
    types = [tensor(part) for part in parts]
    first = types[0]
    axis = normalise_axis(axis, first.rank)
    for other in types[1:]:
        fits = other.dtype is first.dtype and other.rank == first.rank
        if not fits or any(
            a != b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != axis
        ):
            raise IRTypeError(f"cannot concatenate {first} and {other} on axis {axis}")
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in types)
    return TensorType(first.dtype, tuple(shape))


@op(
    "concat",
    "*parts",
    rule=_concat_rule,
    attrs={"axis": 0},
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 2, 3), _x(rng, 2, 1), _x(rng, 2, 4)), {"axis": 1})],
)
def concat(*parts: Array, axis: int) -> Array:
    """The parts one after the other on an axis."""
    return np.concatenate(parts, axis=axis)


def _pad_rule(
    x: TensorType | None, *, before: tuple[int, ...], after: tuple[int, ...], value: float
) -> TensorType:
    t = tensor(x)
    require(len(before) == len(after) == t.rank, f"pad needs {t.rank} sizes a side for {t}")
    require(min((*before, *after), default=0) >= 0, "pad sizes must not be negative")
    require_exact(value, t.dtype, "value")
    return TensorType(t.dtype, tuple(n + b + a for n, b, a in zip(t.shape, before, after, strict=True)))


@op(
    "pad",
    "x",
    rule=_pad_rule,
    attrs={"before": (), "after": (), "value": 0.0},
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 2, 3),), {"before": (0, 1), "after": (2, 0), "value": -1.0})],
)
def pad(x: Array, *, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Array:
    """x with a border of one value."""
    y = np.full([n + b + a for n, b, a in zip(x.shape, before, after, strict=True)], value, x.dtype)
    y[tuple(slice(b, b + n) for n, b in zip(x.shape, before, strict=True))] = x
    return y


def _flip_rule(x: TensorType | None, *, axes: tuple[int, ...]) -> TensorType:
    t = tensor(x)
    normalise_axes(axes, t.rank)
    return t


@op(
    "flip",
    "x",
    rule=_flip_rule,
    attrs={"axes": ()},
    flops=_no_flops,
    samples=lambda rng: [Sample((_x(rng, 2, 3, 4),), {"axes": (0, 2)})],
)
def flip(x: Array, *, axes: tuple[int, ...]) -> Array:
    """x with the order of elements on some axes reversed."""
    return np.flip(x, axes).copy()
