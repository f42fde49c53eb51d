"""Operators that re-arrange elements or make tensors of shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import Array, Ints, Number, Shape, Unsupported, converts
from ..tensors import computed_type, to_tensor, widened


@converts("Shape")
def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Array:
    return np.asarray(x.shape[start:end], np.int64)


@converts("Size")
def size(x: Tensor) -> Array:
    return np.asarray(x.numel(), np.int64)


@converts("Reshape", since=5, view=True)
def reshape(x: Tensor, target: Ints, *, allowzero: int = 0) -> Tensor:
    wanted = [x.shape[i] if n == 0 and not allowzero and i < x.ndim else n for i, n in enumerate(target)]
    return x.reshape(wanted)


@converts("Transpose")
def transpose(x: Tensor, *, perm: Any = None) -> Tensor:
    order = list(range(x.ndim))[::-1] if perm is None else list(perm)
    moved = [i for i, axis in enumerate(order) if i != axis]
    # A swap of two axes is the form that models are written in, and passes look for.
    return x.transpose(*moved) if len(moved) == 2 else x.permute(order)


@converts("Flatten", view=True)
def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    axis = axis % x.ndim if axis < 0 else axis
    rows = 1
    for n in x.shape[:axis]:
        rows *= n
    return x.reshape(rows, x.numel() // rows if rows else 0)


@converts("Squeeze", since=13, view=True)
def squeeze(x: Tensor, axes: Ints | None = None) -> Tensor:
    return _squeezed(x, axes)


@converts("Squeeze", view=True)
def old_squeeze(x: Tensor, *, axes: Any = None) -> Tensor:
    return _squeezed(x, axes)


def _squeezed(x: Tensor, axes: Any) -> Tensor:
    if axes is None:
        axes = [i for i, n in enumerate(x.shape) if n == 1]
    if any(x.shape[axis] != 1 for axis in axes):
        raise Unsupported(f"axes {list(axes)} of {list(x.shape)}, which are not all 1")
    drop = {axis % x.ndim for axis in axes}
    return x.reshape([n for i, n in enumerate(x.shape) if i not in drop])


@converts("Unsqueeze", since=13, view=True)
def unsqueeze(x: Tensor, axes: Ints) -> Tensor:
    return _unsqueezed(x, axes)


@converts("Unsqueeze", view=True)
def old_unsqueeze(x: Tensor, *, axes: Any) -> Tensor:
    return _unsqueezed(x, axes)


def _unsqueezed(x: Tensor, axes: Any) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@converts("Concat")
def concat(*xs: Tensor, axis: int) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat(xs, axis)


@converts("Split", since=13)
def split(x: Tensor, sizes: Ints | None = None, *, outputs: int, axis: int = 0, num_outputs: int = 0) -> Any:
    if sizes is None:
        part = -(-x.shape[axis] // (num_outputs or outputs))
        sizes = tuple(min(part, x.shape[axis] - part * i) for i in range(num_outputs or outputs))
    return torch.split(x, list(sizes), axis)


@converts("Split", since=2)
def old_split(x: Tensor, *, outputs: int, axis: int = 0, split: Any = None) -> Any:
    sizes = list(split) if split else [x.shape[axis] // outputs] * outputs
    return torch.split(x, sizes, axis)


@converts("Slice", since=10)
def slice_(
    x: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> Tensor:
    return _sliced(x, starts, ends, axes, steps)


@converts("Slice")
def old_slice(x: Tensor, *, starts: Any, ends: Any, axes: Any = None) -> Tensor:
    return _sliced(x, starts, ends, axes, None)


def _sliced(x: Tensor, starts: Any, ends: Any, axes: Any, steps: Any) -> Tensor:
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        taken = range(*slice(start, end, step).indices(x.shape[axis]))
        if step < 0:
            first = taken[-1] if taken else 0
            x = _cut(x, axis, first, first + (taken[0] - first + 1 if taken else 0), -step).flip(axis)
        elif len(taken) != x.shape[axis]:
            x = _cut(x, axis, taken.start, max(taken.start, taken.stop), step)
    return x


def _cut(x: Tensor, axis: int, start: int, stop: int, step: int) -> Tensor:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop, step),)]


@converts("Expand")
def expand(x: Tensor, target: Shape) -> Tensor:
    wanted = torch.broadcast_shapes(x.shape, tuple(target))
    return x.expand(wanted)


@converts("Tile", since=6)
def tile(x: Tensor, repeats: Shape) -> Tensor:
    return x.repeat(list(repeats))


@converts("Pad", since=11)
def pad(
    x: Tensor,
    pads: Ints,
    value: Number | None = None,
    axes: Ints | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    return _padded(x, pads, value or 0, axes, mode)


@converts("Pad", since=2)
def old_pad(x: Tensor, *, pads: Any, value: float = 0.0, mode: str = "constant") -> Tensor:
    return _padded(x, pads, value, None, mode)


def _padded(x: Tensor, pads: Any, value: float, axes: Any, mode: str) -> Tensor:
    axes = tuple(range(x.ndim)) if axes is None else axes
    if mode != "constant":
        for i, axis in enumerate(axes):
            x = _mirrored(x, axis, pads[i], pads[len(axes) + i], mode)
        return x
    sides = [0] * (2 * x.ndim)
    for i, axis in enumerate(axes):
        at = 2 * (x.ndim - 1 - axis % x.ndim)
        sides[at], sides[at + 1] = pads[i], pads[len(axes) + i]
    while sides and not any(sides[-2:]):
        sides = sides[:-2]
    return F.pad(x, sides, value=value) if sides else x


def _mirrored(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """An axis with more elements at its ends, which are copies of others; less where a number is negative."""
    size = x.shape[axis]
    at = np.arange(-before, size + after)
    match mode:
        case "edge":
            at = np.clip(at, 0, size - 1)
        case "wrap":
            at = at % size
        case "reflect":
            at = np.abs((at + size - 1) % max(2 * size - 2, 1) - (size - 1))
        case _:
            raise Unsupported(f"mode {mode}")
    return x.index_select(axis, torch.from_numpy(at)) if before or after else x


@converts("Range")
def range_(start: Array, limit: Array, delta: Array) -> Tensor:
    dtype = widened(to_tensor(start)).dtype
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=dtype)


@converts("ConstantOfShape")
def constant_of_shape(target: Shape, *, value: Any = None) -> Tensor:
    if value is None:
        return torch.zeros(target)
    return torch.full(target, value.item(), dtype=widened(to_tensor(value)).dtype)


@converts("EyeLike")
def eye_like(x: Tensor, *, dtype: int = 0, k: int = 0) -> Tensor:
    rows, columns = x.shape
    eye = torch.arange(rows)[:, None] + k == torch.arange(columns)[None, :]
    return eye.to(computed_type(dtype) if dtype else x.dtype)


@converts("Trilu")
def trilu(x: Tensor, k: Number | None = None, *, upper: int = 1) -> Tensor:
    diagonal = int(k or 0)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


@converts("DepthToSpace")
def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    n, c, h, w = x.shape
    inner = c // blocksize**2
    if mode == "DCR":
        parts = x.reshape(n, blocksize, blocksize, inner, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, inner, blocksize, blocksize, h, w).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, inner, h * blocksize, w * blocksize)


@converts("SpaceToDepth")
def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)
