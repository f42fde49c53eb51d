"""A program on memory of the caller: inputs are read and outputs written where they lie, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..ir.program import Register
from .convert import memory_of
from .run import BoundProgram
from .signature import Signature
from .states import States

__all__ = ["BoundCall"]

Make = Callable[[Mapping[Register, np.ndarray]], BoundProgram]
"""The program with these arrays in place of its own."""


class BoundCall:
    """Calling it runs the program on what ``inputs`` hold by then, and writes ``outputs``.

    Both are arrays in order of the signature. It has an arena of its own and the states of its executable.
    """

    def __init__(
        self,
        signature: Signature,
        registers: tuple[Sequence[Register], Sequence[Register]],
        states: States,
        make: Make,
        inputs: Sequence[Any],
        outputs: Sequence[Any] | None,
    ) -> None:
        read, written = signature.inputs, signature.results
        if outputs is None:
            outputs = [np.empty(leaf.type.shape, leaf.type.dtype.numpy) for leaf in written]
        for what, arrays, leaves in (("inputs", inputs, read), ("outputs", outputs, written)):
            if len(arrays) != len(leaves):
                raise InputError(f"{len(arrays)} {what} given, the program has {len(leaves)}: {signature}")
        self.inputs = [
            memory_of(x, leaf.type, leaf.name, False) for x, leaf in zip(inputs, read, strict=True)
        ]
        self.outputs = [
            memory_of(x, leaf.type, leaf.name, True) for x, leaf in zip(outputs, written, strict=True)
        ]
        _require_apart(self.inputs, self.outputs, [leaf.name for leaf in written])
        params, results = registers
        given = dict(zip(params, self.inputs, strict=True))
        for register, array in zip(results, self.outputs, strict=True):
            given.setdefault(register, array)
        self._states = states
        self._program = make(given)

    def __call__(self) -> list[np.ndarray]:
        """Run; the outputs. Calls from several threads are right, one after the other."""
        with self._states.lock:
            self._program.run_in_place(self.outputs)
        return self.outputs


def _require_apart(inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], names: Sequence[str]) -> None:
    for number, (array, name) in enumerate(zip(outputs, names, strict=True)):
        if any(np.may_share_memory(array, other) for other in (*inputs, *outputs[:number])):
            raise InputError(f"output {name!r} shares memory with another array of the call")
