"""What the weights member of a file holds: constants as they are, in the layouts of backends, or both.

A constant that every reader wants in a layout of its own is stored in that layout only, so that a load maps
it and nothing is packed or copied. One that is also read in another way is stored twice: only the pages that
are read take memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from forgec.backends.base import Backend, Packing
from forgec.backends.packing import packed_type, stored_name

from ..ir.program import Constant, Program
from ..plan.plan import Plan
from .constants import Constants
from .writer import LazyTensor

__all__ = ["constant_tensors"]


def constant_tensors(
    plan: Plan, segments: Sequence[Program], constants: Constants, backend: Callable[[str], Backend]
) -> list[LazyTensor]:
    """The constants of a plan with its segments' programs, in its order, computed when they are written."""
    packed: dict[str, dict[str, LazyTensor]] = {}
    wanted_packed: set[str] = set()
    wanted_plain: set[str] = set()
    for segment, program in zip(plan.segments, segments, strict=True):
        packings = backend(segment.device).packings(program)
        for name, constant in program.constants.items():
            packing = packings.get(name)
            if packing is not None:
                stored = stored_name(constant.key, packing.layout)
                compute = partial(_packed, constants, constant, packing)
                type_ = packed_type(packing.layout, constant.type)
                packed.setdefault(constant.key, {})[stored] = LazyTensor(stored, type_, compute)
            alone = packing is not None and packing.alone
            (wanted_packed if alone else wanted_plain).add(constant.key)
    found: dict[str, LazyTensor] = {}
    for constant in plan.program.constants.values():
        if constant.key not in wanted_packed - wanted_plain:
            compute = partial(_plain, constants, constant)
            found[constant.key] = LazyTensor(constant.key, constant.type.stored, compute)
        found.update(packed.get(constant.key, {}))
    return list(found.values())


def _plain(constants: Constants, constant: Constant) -> np.ndarray:
    """A constant as the file holds it."""
    return constants.once(constant).view(constant.type.stored.dtype.numpy)


def _packed(constants: Constants, constant: Constant, packing: Packing) -> np.ndarray:
    known = constants.derived.get(stored_name(constant.key, packing.layout))
    return packing.pack(constants.once(constant)) if known is None else known
