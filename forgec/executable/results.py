"""Large results without a copy: kernels write them into memory that the caller then has.

A program is bound to the memory of its results as to all its memory. So that a run leaves alone what an
earlier one gave away, there are several *turns*: the same steps, each with results elsewhere. A turn comes
back when nothing refers to its arrays any more, so that a loop over runs goes through two of them and touches
no new page: logits of 128 tokens over 150,000 words are 78 MB, and to copy them into new pages takes as long
as the product that makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from forgec.backends.base import Step

from .pages import allocate_array

__all__ = ["LEAST", "Turn", "Turns"]

LEAST = 1 << 20
"""Bytes of a result from which on it is not copied. A smaller copy is cheaper than another turn."""

_SPARE = 1
"""Turns beside the first that wait for a run at most; more are released when they come back."""


class Turns:
    """The turns of one program.

    ``own`` has, by number, the results that lie in memory of their own, contiguous. Every step has a method
    ``moved`` if there are any of these.
    """

    def __init__(self, steps: Sequence[Step], own: Mapping[int, np.ndarray]) -> None:
        self._first = _Variant(steps, own)
        self._waiting = [self._first]

    def take(self) -> Turn:
        """A turn that no caller has results of."""
        try:
            variant = self._waiting.pop()
        except IndexError:
            variant = self._first.elsewhere()
        return Turn(variant, self._give_back)

    def _give_back(self, variant: _Variant) -> None:
        spare = sum(other is not self._first for other in self._waiting)
        if variant is self._first or spare < _SPARE:
            self._waiting.append(variant)


class _Variant:
    """Steps, and the results that they write, by number."""

    def __init__(self, steps: Sequence[Step], results: Mapping[int, np.ndarray]) -> None:
        self.steps, self.results = steps, results

    def elsewhere(self) -> _Variant:
        """The same with other memory for the results."""
        results = {n: allocate_array(array.shape, array.dtype) for n, array in self.results.items()}
        old, new = list(self.results.values()), list(results.values())
        moved = [step.moved(old, new) for step in self.steps] if new else self.steps  # type: ignore[attr-defined]
        return _Variant(moved, results)


class Turn:
    """One run: its steps and results. It is over when neither this nor any of its arrays is used any more."""

    def __init__(self, variant: _Variant, over: Callable[[_Variant], None]) -> None:
        self._variant, self._over = variant, over

    @property
    def steps(self) -> Sequence[Step]:
        return self._variant.steps

    def result(self, number: int) -> np.ndarray | None:
        """A result for the caller to have, None if that one lies elsewhere."""
        array = self._variant.results.get(number)
        if array is None:
            return None
        data = np.asarray(_Part(array.reshape(-1).view(np.uint8), self))
        return data.view(array.dtype).reshape(array.shape)

    def __del__(self) -> None:
        self._over(self._variant)


class _Part:
    """Memory of a turn, which lasts as long as an array on it does."""

    def __init__(self, data: np.ndarray, turn: Turn) -> None:
        self.__array_interface__ = data.__array_interface__
        self._turn = turn
