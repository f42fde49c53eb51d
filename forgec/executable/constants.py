"""Where the constants of an executable come from: recipes over a model's tensors, or a file.

A constant is computed at its first use and kept, shared by all clones. Recipes of views give views, so a
model's own memory is used as it is wherever numpy can; a file's tensors are read-only maps of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

import numpy as np

from forgec.backends.packing import packed_type, split_name, stored_name, unpack

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
        """What backends computed from constants (packed weights), or a file holds of that, by stored name."""
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


def from_file(tensors: Mapping[str, np.ndarray], needed: Mapping[str, Constant]) -> Constants:
    """Constants that a file holds; :class:`ArtifactError` unless it has every needed one with its type.

    A constant may be there as it is, in a layout of some backend, or both.
    """
    packed: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        key, layout = split_name(name)
        if layout:
            packed.setdefault(key, {})[layout] = array
    derived: dict[str, np.ndarray] = {}
    for constant in needed.values():
        stored = packed.get(constant.key, {})
        for layout, array in stored.items():
            _require_type(constant, array, packed_type(layout, constant.type))
            derived[stored_name(constant.name, layout)] = array
        if constant.key in tensors:
            _require_type(constant, tensors[constant.key], constant.type)
        elif not stored:
            raise ArtifactError(f"the file lacks the weight {constant.key!r} of constant {constant.name}")

    def compute(constant: Constant) -> np.ndarray:
        if constant.key in tensors:
            return tensors[constant.key]
        layout, array = next(iter(packed[constant.key].items()))
        return unpack(layout, array, constant.type)

    constants = Constants(compute)
    constants.derived.update(derived)
    return constants


def _require_type(constant: Constant, array: np.ndarray, expected: TensorType) -> None:
    if TensorType.of(array) != expected:
        raise ArtifactError(
            f"the weight {constant.key!r} is {TensorType.of(array)}, "
            f"and constant {constant.name} is {constant.type}"
        )
