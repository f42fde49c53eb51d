"""Where the constants of an executable come from: recipes over a model's tensors, or a file.

A constant is computed at its first use and kept, shared by all clones. Recipes of views give views, so a
model's own memory is used as it is wherever numpy can; a file's tensors are read-only maps of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forgec.backends.cpu.recipes import recipe_kernels
from forgec.backends.packing import packed_type, split_name, stored_name, unpack

from ..errors import ArtifactError, InternalError
from ..ir.program import Constant, Leaf
from ..ir.recipes import Evaluator
from ..ir.types import DType, TensorType
from .locks import forkable_lock

__all__ = ["Constants", "Kept", "from_file", "from_recipes"]


class Kept:
    """What is known of constants, by key: programs of one model share it, and compute nothing twice.
    ``several`` says that there are such programs."""

    def __init__(self, several: bool = False) -> None:
        self.several = several
        self.arrays: dict[str, np.ndarray] = {}
        self.derived: dict[str, np.ndarray] = {}
        """What backends computed from constants (packed weights), or a file has, by :func:`stored_name`."""
        self.nans: dict[str, int] = {}
        """How many NaN there are in source tensors that were looked at, by name."""
        self.halves: dict[str, DType | None] = {}
        """The type of 16 bits that holds all numbers of a source tensor of f32, by name."""
        self.lock = forkable_lock()

    def clear(self) -> None:
        """Forget what was computed: some sources give something else from now on."""
        self.arrays.clear()
        self.derived.clear()


class Constants:
    """Read-only arrays by constant; ``compute`` makes one, a mere view if it is ``at_hand``. Safe to use from
    several threads."""

    def __init__(
        self,
        compute: Callable[[Constant], np.ndarray],
        at_hand: Callable[[Constant], bool],
        kept: Kept | None = None,
    ) -> None:
        self._compute = compute
        self.at_hand = at_hand
        self.kept = kept or Kept()

    @property
    def derived(self) -> dict[str, np.ndarray]:
        """:attr:`Kept.derived`."""
        return self.kept.derived

    def get(self, constant: Constant) -> np.ndarray:
        """The array, kept from now on."""
        with self.kept.lock:
            array = self.kept.arrays[constant.key] = self.once(constant)
        return array

    def once(self, constant: Constant) -> np.ndarray:
        """The array for this one use: what is not kept yet is computed and not kept."""
        array = self.kept.arrays.get(constant.key)
        if array is None:
            array = self._compute(constant).view()
            array.flags.writeable = False
        if TensorType.of(array) != constant.type:
            raise InternalError(f"constant {constant.name} is {TensorType.of(array)}, not {constant.type}")
        return array


def from_recipes(tensors: Callable[[str], np.ndarray], kept: Kept | None = None) -> Constants:
    """Constants computed from source tensors by name."""
    evaluator = Evaluator(tensors, recipe_kernels)
    return Constants(
        lambda constant: evaluator(constant.recipe),
        lambda constant: isinstance(constant.recipe, Leaf),
        kept,
    )


def from_file(tensors: Mapping[str, np.ndarray], needed: Sequence[Mapping[str, Constant]]) -> Constants:
    """Constants that a file holds; :class:`ArtifactError` unless it has every one that a program needs, with
    its type.

    A constant may be there as it is, in a layout of some backend, or both.
    """
    packed: dict[str, list[str]] = {}
    for stored in tensors:
        key, layout = split_name(stored)
        if layout:
            packed.setdefault(key, []).append(layout)
    for constant in (constant for table in needed for constant in table.values()):
        for layout in packed.get(constant.key, ()):
            array = tensors[stored_name(constant.key, layout)]
            _require_type(constant, array, packed_type(layout, constant.type))
        if constant.key in tensors:
            _require_type(constant, tensors[constant.key], constant.type.stored)
        elif constant.key not in packed:
            raise ArtifactError(f"the file lacks the weight {constant.key!r} of constant {constant.name}")

    def compute(constant: Constant) -> np.ndarray:
        if constant.key in tensors:
            return tensors[constant.key].view(constant.type.dtype.numpy)
        layout = packed[constant.key][0]
        return unpack(layout, tensors[stored_name(constant.key, layout)], constant.type)

    constants = Constants(compute, lambda constant: constant.key in tensors)
    for key, layouts in packed.items():
        constants.derived.update((stored_name(key, x), tensors[stored_name(key, x)]) for x in layouts)
    return constants


def _require_type(constant: Constant, array: np.ndarray, expected: TensorType) -> None:
    if TensorType.of(array) != expected:
        raise ArtifactError(
            f"the weight {constant.key!r} is {TensorType.of(array)}, "
            f"and constant {constant.name} is {constant.type}"
        )
