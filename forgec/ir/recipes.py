"""Evaluation of constant recipes, one tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..errors import InternalError
from . import ops  # noqa: F401  (registers the records)
from .op import get
from .program import Apply, AttrValue, Leaf, Literal, Recipe
from .types import TensorType

__all__ = ["Evaluator", "applied", "evaluate"]

Tensors = Callable[[str], np.ndarray]
Kernels = Mapping[str, Callable[..., np.ndarray]]
"""Evaluations of ops by name, in place of the reference ones, called with the operands and all attributes."""

_REMEMBERED = 32 << 20
"""Bytes of results that an evaluator keeps at most."""


def applied(op: str, args: Sequence[Recipe], **attrs: AttrValue) -> Apply:
    """The recipe that applies an op with one result; attributes at their defaults are left out."""
    kept = tuple(sorted((key, value) for key, value in attrs.items() if get(op).attrs[key] != value))
    return Apply(op, tuple(args), kept, _result(op, tuple(a.type for a in args), kept))


@lru_cache(maxsize=1024)
def _result(op: str, types: tuple[TensorType, ...], attrs: tuple[tuple[str, AttrValue], ...]) -> TensorType:
    """Type of a recipe's result: layers have the same again and again."""
    (result,) = get(op).result_types(types, dict(attrs))
    return result


def evaluate(recipe: Recipe, tensors: Tensors) -> np.ndarray:
    """The tensor that a recipe describes; view ops give views, so nothing is copied without need.

    ``tensors`` maps the name of a source tensor to its array. Parts that occur twice are computed once.
    """
    return _evaluate(recipe, tensors, {}, {})


class Evaluator:
    """Evaluates recipes over the same tensors, one after the other. Small parts are remembered for the next
    recipes: the codes of a weight need its scales, which are a constant too. Safe for several threads."""

    def __init__(self, tensors: Tensors, kernels: Callable[[], Kernels] = dict) -> None:
        self._tensors = tensors
        self._kernels = kernels
        self._recent: dict[Recipe, np.ndarray] = {}

    def __call__(self, recipe: Recipe) -> np.ndarray:
        """:func:`evaluate` of a recipe."""
        done = dict(self._recent)
        array = _evaluate(recipe, self._tensors, self._kernels(), done)
        del done[recipe]
        self._recent = _latest(done)
        return array


def _latest(done: dict[Recipe, np.ndarray]) -> dict[Recipe, np.ndarray]:
    """The results with memory of their own that were computed last, as many as are to be kept."""
    found, left = [], _REMEMBERED
    for recipe, array in reversed(done.items()):
        if isinstance(recipe, Apply) and array.base is None and array.nbytes <= left:
            found.append((recipe, array))
            left -= array.nbytes
    return dict(reversed(found))


def _evaluate(
    recipe: Recipe, tensors: Tensors, kernels: Kernels, done: dict[Recipe, np.ndarray]
) -> np.ndarray:
    """The same; what is in ``done`` is not computed again."""
    if recipe in done:
        return done[recipe]
    if isinstance(recipe, Leaf):
        array = tensors(recipe.name)
    else:
        operands = [
            arg.value
            if isinstance(arg, Literal)
            else None
            if arg is None
            else _evaluate(arg, tensors, kernels, done)
            for arg in recipe.args
        ]
        record, attrs = get(recipe.op), dict(recipe.attrs)
        if recipe.op in kernels:
            array = kernels[recipe.op](*operands, **{**record.attrs, **attrs})
        else:
            (array,) = record.evaluate(operands, attrs)
    if TensorType.of(array) != recipe.type:
        raise InternalError(f"recipe gave {TensorType.of(array)}, its type says {recipe.type}")
    done[recipe] = array
    return array
