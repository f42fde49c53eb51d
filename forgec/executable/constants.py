"""Where the constants of an executable come from: recipes over a model's tensors, or a file.

A constant is computed at its first use and kept, shared by all clones. Recipes of views give views, so a
model's own memory is used as it is wherever numpy can; a file's tensors are read-only maps of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import numpy as np

from ..errors import ArtifactError, InternalError
from ..ir.program import Constant
from ..ir.recipes import evaluate
from ..ir.types import TensorType

__all__ = ["Constants", "from_file", "from_recipes"]


class Constants:
    """Read-only arrays by constant; ``compute`` makes one. Safe to use from several threads."""

    def __init__(self, compute: Callable[[Constant], np.ndarray]) -> None:
        self._compute = compute
        self._arrays: dict[str, np.ndarray] = {}
        self.derived: dict[str, np.ndarray] = {}
        """What backends computed from constants (packed weights), by names of their own."""
        self._lock = Lock()

    def get(self, constant: Constant) -> np.ndarray:
        """The array, kept from now on."""
        with self._lock:
            array = self._arrays[constant.key] = self.once(constant)
        return array

    def once(self, constant: Constant) -> np.ndarray:
        """The array for this one use: what is not kept yet is computed and not kept."""
        array = self._arrays.get(constant.key)
        if array is None:
            array = self._compute(constant).view()
            if TensorType.of(array) != constant.type:
                raise InternalError(
                    f"constant {constant.name} is {TensorType.of(array)}, not {constant.type}"
                )
            array.flags.writeable = False
        return array


def from_recipes(tensors: Callable[[str], np.ndarray]) -> Constants:
    """Constants computed from source tensors by name."""
    return Constants(lambda constant: evaluate(constant.recipe, tensors))


def from_file(tensors: Mapping[str, np.ndarray], needed: Sequence[Mapping[str, Constant]]) -> Constants:
    """Constants that a file holds; :class:`ArtifactError` unless it has every one that a program needs, with
    its type."""
    for constant in (constant for table in needed for constant in table.values()):
        array = tensors.get(constant.key)
        if array is None:
            raise ArtifactError(f"the file lacks the weight {constant.key!r} of constant {constant.name}")
        if TensorType.of(array) != constant.type.stored:
            raise ArtifactError(
                f"the weight {constant.key!r} is {TensorType.of(array)}, "
                f"and constant {constant.name} is {constant.type}"
            )
    return Constants(lambda constant: tensors[constant.key].view(constant.type.dtype.numpy))
