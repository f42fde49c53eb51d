"""The arrays of states: made when they are first needed, kept from run to run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import InternalError
from ..ir.types import TensorType
from .locks import forkable_lock

__all__ = ["States"]


class States:
    """Writable arrays by name; those that ``initial`` does not name begin at zero.

    Programs of one file have them in common, so they also share ``lock``: one run at a time.
    """

    def __init__(self, types: Mapping[str, TensorType], initial: Mapping[str, np.ndarray]) -> None:
        for name, array in initial.items():
            if types.get(name) != TensorType.of(array):
                raise InternalError(f"the initial value {TensorType.of(array)} fits no state {name!r}")
        self.types = types
        self.initial = initial
        self.lock = forkable_lock()
        self._arrays: dict[str, np.ndarray] = {}

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays. Memory that is zero and was never written takes no space."""
        if not self._arrays:
            self._arrays = {name: np.zeros(t.shape, t.dtype.numpy) for name, t in self.types.items()}
            for name, value in self.initial.items():
                self._arrays[name][...] = value
        return self._arrays

    def reset(self) -> None:
        """Give all states their initial values."""
        for name, array in self._arrays.items():
            array[...] = self.initial.get(name, 0)

    def copy(self) -> States:
        """The same states with their initial values, in memory of their own."""
        return States(self.types, self.initial)

    def release(self) -> None:
        """Let go of the memory; the next use starts with initial values."""
        self._arrays = {}
