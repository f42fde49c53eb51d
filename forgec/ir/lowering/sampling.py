"""Converters of sampling at coordinates that are computed: ``grid_sample`` of images and volumes.

Coordinates become indices of the elements around them, one look-up per corner, and weights by their distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import UnsupportedOpError
from ..program import Literal
from ..types import DType
from .builder import FunctionBuilder
from .elementwise import literal
from .registry import lowers
from .shape import permute, slice_axis

_INTERPOLATIONS = ("bilinear", "nearest", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")
"""torch's numbers of them are their places here."""


@lowers("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d")
def grid_sampler(
    b: FunctionBuilder,
    input: Any,
    grid: Any,
    interpolation_mode: int,
    padding_mode: int,
    align_corners: bool,
) -> Any:
    """[N, C, *sizes] at [N, *outputs, len(sizes)] of coordinates from -1 to 1, the last axis first."""
    mode = _INTERPOLATIONS[interpolation_mode]
    if mode == "bicubic":
        raise UnsupportedOpError(
            "grid_sample of mode 'bicubic' has no lowering", hint="use mode='bilinear' or 'nearest'"
        )
    rank, sizes = input.type.rank, input.type.shape[2:]
    axes = [
        _Axis(b, size, _PADDINGS[padding_mode], align_corners).taps(
            b.reshape(slice_axis(b, grid, -1, at, at + 1), grid.type.shape[:-1]), mode
        )
        for size, at in zip(sizes, reversed(range(rank - 2)), strict=True)
    ]
    rows = permute(b, input, [0, *range(2, rank), 1])
    batch = b.tensor(torch.arange(input.type.shape[0]).reshape(-1, *[1] * (rank - 2)))
    total = None
    for corner in itertools.product(*axes):
        taken = b.emit("gather", rows, batch, *(tap.index for tap in corner), axis=0)
        y = _weighted(b, taken, corner)
        total = y if total is None else b.emit("add", total, y)
    return permute(b, total, [0, rank - 1, *range(1, rank - 1)])


@dataclass(frozen=True)
class _Tap:
    """Elements of one axis for all results: their indices, weights (None: one), and which there are (None:
    all)."""

    index: Any
    weight: Any
    there: Any


def _weighted(b: FunctionBuilder, taken: Any, corner: Sequence[_Tap]) -> Any:
    """Rows of elements by the product of their weights; zeros where there are none."""

    def product(op: str, factors: Sequence[Any]) -> Any:
        given = [x for x in factors if x is not None]
        found = given[0] if given else None
        for other in given[1:]:
            found = b.emit(op, found, other)
        return None if found is None else b.reshape(found, (*found.type.shape, 1))

    weight = product("mul", [tap.weight for tap in corner])
    there = product("and", [tap.there for tap in corner])
    y = taken if weight is None else b.emit("mul", taken, weight)
    return y if there is None else b.emit("where", there, y, literal(0, y.type.dtype))


@dataclass(frozen=True)
class _Axis:
    """An axis of ``size`` elements that is sampled."""

    b: FunctionBuilder
    size: int
    padding: str
    corners: bool

    def taps(self, coordinates: Any, mode: str) -> list[_Tap]:
        """What is taken of it at coordinates from -1 to 1."""
        at = self._padded(self._scaled(coordinates))
        if mode == "nearest":
            return [self._tap(self.b.emit("round", at), None)]
        low = self.b.emit("floor", at)
        upper = self.b.emit("sub", at, low)
        lower = self.b.emit("sub", Literal(1.0), upper)
        return [self._tap(low, lower), self._tap(self.b.emit("add", low, Literal(1.0)), upper)]

    def _tap(self, at: Any, weight: Any) -> _Tap:
        b = self.b
        above = b.emit("ge", at, Literal(0.0))
        there = b.emit("and", above, b.emit("le", at, Literal(self.size - 1.0)))
        index = b.cast(b.emit("where", there, at, Literal(0.0)), DType.I64)
        return _Tap(index, weight, there)

    def _scaled(self, x: Any) -> Any:
        """In units of elements, the first at 0."""
        b = self.b
        moved = b.emit("add", x, Literal(1.0))
        if self.corners:
            return b.emit("mul", moved, Literal((self.size - 1) / 2))
        return b.emit(
            "mul", b.emit("sub", b.emit("mul", moved, Literal(float(self.size))), Literal(1.0)), Literal(0.5)
        )

    def _padded(self, x: Any) -> Any:
        """Coordinates outside led back inside, unless there are zeros."""
        if self.padding == "zeros":
            return x
        if self.padding == "reflection":
            x = self._reflected(x)
        return self.b.emit("minimum", self.b.emit("maximum", x, Literal(0.0)), Literal(self.size - 1.0))

    def _reflected(self, x: Any) -> Any:
        """Reflected at the first and the last element, or at their outer borders, as often as needed."""
        b = self.b
        first, span = (0.0, self.size - 1.0) if self.corners else (-0.5, float(self.size))
        if not span:
            return b.emit("mul", x, Literal(0.0))
        distance = b.emit("abs", b.emit("sub", x, Literal(first)))
        turns = b.emit("floor", b.emit("div", distance, Literal(span)))
        rest = b.emit("sub", distance, b.emit("mul", turns, Literal(span)))
        back = b.emit("ne", b.emit("mod", turns, Literal(2.0)), Literal(0.0))
        inside = b.emit("where", back, b.emit("sub", Literal(span), rest), rest)
        return b.emit("add", inside, Literal(first))
