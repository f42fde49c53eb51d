"""Converters of operators that solve systems of equations."""

from __future__ import annotations

from typing import Any

import torch

from ...graph import torch_dtype
from .builder import FunctionBuilder
from .elementwise import literal
from .registry import lowers
from .shape import constant_pad, slice_axis, swapped


@lowers("aten.linalg_solve_triangular")
def solve_triangular(
    b: FunctionBuilder, self: Any, B: Any, upper: bool, left: bool, unitriangular: bool
) -> Any:
    """X of ``self X = B``, or of ``X self = B`` where not ``left``."""
    if not left:
        x = _solve(b, swapped(b, self, -2, -1), swapped(b, B, -2, -1), not upper, unitriangular)
        return swapped(b, x, -2, -1)
    return _solve(b, self, B, upper, unitriangular)


def _solve(b: FunctionBuilder, system: Any, values: Any, upper: bool, unit: bool) -> Any:
    if 0 in system.type.shape or 0 in values.type.shape:
        return values
    key = ("inverse", system, upper, unit)
    if key not in b.made:
        b.made[key] = _inverse_and_diagonal(b, system, upper, unit)
    inverse, diagonal = b.made[key]
    right = values if diagonal is None else b.emit("div", values, diagonal)
    return b.emit("matmul", inverse, right)


def _inverse_and_diagonal(b: FunctionBuilder, system: Any, upper: bool, unit: bool) -> tuple[Any, Any]:
    """The inverse of a triangle whose rows are divided by its diagonal, and that as a column; no diagonal of
    ones."""
    lower = swapped(b, system, -2, -1) if upper else system
    diagonal = None
    if not unit:
        on_it = b.tensor(torch.eye(lower.type.shape[-1], dtype=torch.bool))
        alone = b.emit("where", on_it, lower, literal(0, lower.type.dtype))
        diagonal = b.emit("sum", alone, axes=(lower.type.rank - 1,), keepdims=True)
        # Columns of what is transposed are rows of the triangle.
        lower = b.emit("div", lower, swapped(b, diagonal, -2, -1) if upper else diagonal)
    inverse = _inverse(b, lower)
    return (swapped(b, inverse, -2, -1) if upper else inverse), diagonal


def _inverse(b: FunctionBuilder, lower: Any) -> Any:
    """The inverse of triangles below ones, of which the elements above are not read: block by block,

        [[P, 0], [C, Q]] has the inverse [[P', 0], [-Q' C P', Q']],

    all blocks of a size at once.
    """
    *batch, size, _ = lower.type.shape
    whole = 1 << (size - 1).bit_length()
    filled = constant_pad(b, lower, (0, whole - size, 0, whole - size), 0)
    row = len(batch) + 1
    blocks = b.reshape(filled, (*batch, 1, whole, whole))
    corners = []
    for half in (whole >> i for i in range(1, whole.bit_length())):
        corners.append(_quarter(b, blocks, row, half, 1, 0))
        first, second = (_quarter(b, blocks, row, half, i, i) for i in range(2))
        blocks = _side_by_side(b, first, second, row)
    zero = b.tensor(torch.zeros((), dtype=torch_dtype(lower.type.dtype)))
    one = b.tensor(torch.ones((), dtype=torch_dtype(lower.type.dtype)))
    inverse = b.emit("expand", one, shape=(*batch, whole, 1, 1))
    for corner in reversed(corners):
        shape = corner.type.shape
        pairs = b.reshape(inverse, (*shape[:row], 2, *shape[row:]))
        first, second = (b.reshape(slice_axis(b, pairs, row, i, i + 1), shape) for i in range(2))
        below = b.emit("neg", b.emit("matmul", b.emit("matmul", second, corner), first))
        above = b.emit("concat", first, b.emit("expand", zero, shape=shape), axis=row + 1)
        inverse = b.emit("concat", above, b.emit("concat", below, second, axis=row + 1), axis=row)
    inverse = b.reshape(inverse, (*batch, whole, whole))
    for axis in (row - 1, row):
        inverse = slice_axis(b, inverse, axis, 0, size)
    return inverse


def _quarter(b: FunctionBuilder, blocks: Any, row: int, half: int, down: int, right: int) -> Any:
    part = slice_axis(b, blocks, row, down * half, (down + 1) * half)
    return slice_axis(b, part, row + 1, right * half, (right + 1) * half)


def _side_by_side(b: FunctionBuilder, first: Any, second: Any, row: int) -> Any:
    """Blocks of two kinds [..., n, rows, columns] in turn."""
    shape = first.type.shape
    apart = [b.reshape(x, (*shape[:row], 1, *shape[row:])) for x in (first, second)]
    return b.reshape(
        b.emit("concat", *apart, axis=row), (*shape[: row - 1], 2 * shape[row - 1], *shape[row:])
    )
