"""Codes that a model brings for its weights: how a program keeps them instead of rounding anew.

The model computes with ``weight = codes * scales``, or with zero points ``codes * scales + offsets``, which
is a source tensor like any other; its scales are one more, and its offsets another. A weight of the program
is some movement of source tensors (transposed, sliced, side by side), and :func:`moved` takes their scales
and offsets through the same movement, on a block of the weight per scale. Rounding the weight less its
offsets by these scales gives the codes back exactly: a code and its quotient differ by a few units in the
last place, of offsets that are no more than a thousand scales. Linear in the size of a recipe; nothing is
evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .program import Apply, Leaf, Program, Recipe, leaves
from .recipes import applied
from .types import DType, TensorType

__all__ = ["CODES", "ONE", "Moved", "Stored", "StoredCodes", "Unkept", "moved", "one_each", "transposed"]

CODES = "codes"
"""A precision: activations are rounded to codes, and what lies at the border of two may become either."""

_SCALES, _OFFSETS = "stored.", "stored_offsets."
"""Of the names under which recipes read scales and offsets, before the name of the weight."""

ONE = Leaf("stored_one", TensorType(DType.F32, (1, 1)))
"""A source tensor beside offsets."""


@dataclass(frozen=True, eq=False)
class StoredCodes:
    """The codes of one weight [rows, columns], of ``bits`` 8, in [-128, 127], or 4, in [-8, 7].

    ``weight[i, j]`` is a code times ``scales[i // blocks[0], j // blocks[1]]`` (f32 [blocks of rows, blocks
    of columns]), plus the one of ``offsets`` in the same place, which have the same shape, if there are any.
    ``rounds`` says that products with it round the other side to 8 bits as well; ``nbytes`` is what the codes
    take in the model's file.
    """

    scales: np.ndarray
    blocks: tuple[int, int]
    bits: int
    rounds: bool
    nbytes: int
    offsets: np.ndarray | None = None


@dataclass(frozen=True)
class Unkept:
    """Codes that no program can keep, and why; ``nbytes`` is what they take in the model's file."""

    reason: str
    nbytes: int


@dataclass(frozen=True)
class Stored:
    """What a model brings: ``codes`` by the name of the source tensor that they make or, of those that are
    :class:`Unkept`, are, and the bytes of all in its file."""

    codes: Mapping[str, StoredCodes | Unkept] = field(default_factory=dict)
    nbytes: int = 0

    def tensors(self) -> dict[str, np.ndarray]:
        """Scales, offsets and :data:`ONE` by the name of the leaf that reads them."""
        found = dict[str, np.ndarray]()
        for name, codes in self.codes.items():
            if isinstance(codes, StoredCodes):
                found[_SCALES + name] = codes.scales
                if codes.offsets is not None:
                    found[_OFFSETS + name] = codes.offsets
                    found[ONE.name] = np.ones(ONE.type.shape, np.float32)
        return found

    def floats(self, program: Program) -> list[StoredCodes | Unkept]:
        """Codes that a program has as floats: neither beside scales, nor as the tensor that they are."""
        used = {leaf.name for constant in program.constants.values() for leaf in leaves(constant.recipe)}
        integers = {
            c.recipe.name
            for c in program.constants.values()
            if isinstance(c.recipe, Leaf) and not c.type.dtype.is_float
        }
        return [c for name, c in self.codes.items() if _SCALES + name not in used and name not in integers]


@dataclass(frozen=True)
class Moved:
    """Scales and offsets of a weight of the program, as of :class:`StoredCodes`."""

    scales: Recipe
    blocks: tuple[int, int]
    bits: int
    rounds: bool
    offsets: Recipe | None = None


def moved(recipe: Recipe, codes: Mapping[str, StoredCodes | Unkept]) -> Moved | str:
    """The scales and offsets of a weight that ``recipe`` makes of source tensors with codes, or why it has
    none."""
    if isinstance(recipe, Leaf):
        found = codes.get(recipe.name)
        if isinstance(found, Unkept):
            return found.reason
        if found is None:
            return f"beside {recipe.name}, which has no codes, in one product"
        scales, offsets = (
            Leaf(prefix + recipe.name, TensorType(DType.F32, found.scales.shape))
            for prefix in (_SCALES, _OFFSETS)
        )
        return Moved(
            scales, found.blocks, found.bits, found.rounds, None if found.offsets is None else offsets
        )
    parts = [moved(arg, codes) for arg in recipe.args if isinstance(arg, Leaf | Apply)]
    for part in parts:
        if isinstance(part, str):
            return part
    found_parts = [part for part in parts if isinstance(part, Moved)]
    attrs = dict(recipe.attrs)
    made: Moved | None = None
    if recipe.op == "transpose" and attrs["perm"] == (1, 0):
        (part,) = found_parts
        made = replace(_through(part, transposed), blocks=part.blocks[::-1])
    elif recipe.op == "slice" and attrs.get("step", 1) == 1:
        made = _sliced(found_parts[0], recipe.args[0], attrs)
    elif recipe.op == "concat":
        made = _joined(
            found_parts, [arg.type.shape for arg in recipe.args if isinstance(arg, Leaf | Apply)], attrs
        )
    return made or f"what is computed of them ({recipe.op}) has no codes of the same kind"


def _through(part: Moved, move: Callable[[Recipe], Recipe]) -> Moved:
    """With what moves scales and offsets alike."""
    offsets = None if part.offsets is None else move(part.offsets)
    return replace(part, scales=move(part.scales), offsets=offsets)


def transposed(recipe: Recipe) -> Recipe:
    """A matrix turned; one that was turned already as it was."""
    if isinstance(recipe, Apply) and recipe.op == "transpose":
        (inner,) = recipe.args
        assert isinstance(inner, Leaf | Apply)
        return inner
    return applied("transpose", [recipe], perm=(1, 0))


def _sliced(part: Moved, source: object, attrs: Mapping[str, object]) -> Moved | None:
    assert isinstance(source, Leaf | Apply)
    axis, start, stop = (int(str(attrs.get(key, 0))) for key in ("axis", "start", "stop"))
    size, block = source.type.shape[axis], part.blocks[axis]
    if block >= size:
        return replace(part, blocks=_with(part.blocks, axis, stop - start))
    if start % block:
        return None
    first, last = start // block, -(-stop // block)
    return _through(part, lambda x: applied("slice", [x], axis=axis, start=first, stop=last))


def _joined(parts: list[Moved], shapes: list[tuple[int, ...]], attrs: Mapping[str, object]) -> Moved | None:
    axis = int(str(attrs.get("axis", 0)))
    first, other = parts[0], 1 - axis
    if any(part.bits != first.bits or part.blocks[other] != first.blocks[other] for part in parts):
        return None
    if any(
        part.blocks[axis] != 1 and part.blocks[axis] < shape[axis]
        for part, shape in zip(parts, shapes, strict=True)
    ):
        return None
    each = [one_each(part, axis, shape[axis]) for part, shape in zip(parts, shapes, strict=True)]
    offsets: list[Recipe] = []
    if any(part.offsets is not None for part in parts):
        offsets = [part.offsets or applied("sub", [part.scales, part.scales]) for part in each]
    return Moved(
        applied("concat", [part.scales for part in each], axis=axis),
        _with(first.blocks, axis, 1),
        first.bits,
        all(part.rounds for part in parts),
        applied("concat", offsets, axis=axis) if offsets else None,
    )


def one_each(part: Moved, axis: int, size: int) -> Moved:
    """Scales and offsets with one for each index of an axis of this size, which has one for each already or
    one for all."""
    shape = part.scales.type.shape
    if shape[axis] == size:
        return part
    return _through(part, lambda x: applied("expand", [x], shape=_with(shape, axis, size)))


def _with(pair: tuple[int, ...], axis: int, value: int) -> tuple[int, int]:
    first, second = pair
    return (value, second) if axis == 0 else (first, value)
