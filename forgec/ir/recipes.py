"""Evaluation of constant recipes, one tensor at a time, with the ops' reference evaluations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import InternalError
from . import ops  # noqa: F401  (registers the records)
from .op import get
from .program import Leaf, Literal, Recipe
from .types import TensorType

__all__ = ["evaluate"]


def evaluate(recipe: Recipe, tensors: Callable[[str], np.ndarray]) -> np.ndarray:
    """The tensor that a recipe describes; view ops give views, so nothing is copied without need.

    ``tensors`` maps the name of a source tensor to its array. Parts that occur twice are computed once.
    """
    return _evaluate(recipe, tensors, {})


def _evaluate(
    recipe: Recipe, tensors: Callable[[str], np.ndarray], done: dict[Recipe, np.ndarray]
) -> np.ndarray:
    """The same; what is in ``done`` is not computed again."""
    if recipe in done:
        return done[recipe]
    if isinstance(recipe, Leaf):
        array = tensors(recipe.name)
    else:
        operands = [
            arg.value if isinstance(arg, Literal) else None if arg is None else _evaluate(arg, tensors, done)
            for arg in recipe.args
        ]
        (array,) = get(recipe.op).evaluate(operands, dict(recipe.attrs))
    if TensorType.of(array) != recipe.type:
        raise InternalError(f"recipe gave {TensorType.of(array)}, its type says {recipe.type}")
    done[recipe] = array
    return array
