"""The table of CPU kernels and what a kernel is bound to.

A kernel takes a :class:`Call`, which has everything that is known before the first run: arrays at their final
addresses, literals as read-only arrays of rank 0, attributes with defaults. It returns a step, a callable
without arguments that does the work, or None if this combination of types is not its own; then the op's
reference evaluation runs instead, and its result is copied.

Aliasing: outputs are contiguous and share no bytes with inputs, except where the op record allows an output
to overwrite an input (``Op.inplace``); every kernel handles exactly these cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["KERNELS", "Call", "Kernel", "Scratch", "Step", "is_blas_float", "kernel", "overlap"]

Array = np.ndarray
Step = Callable[[], Any]
Kernel = Callable[["Call"], "Step | None"]

KERNELS: dict[str, Kernel] = {}


class Scratch:
    """Working memory that all kernels of a program share, because they run one after the other.

    Every kernel starts with all of it. A buffer that is too small is replaced by one of at least twice its
    size, so all buffers together hold less than twice what the hungriest kernel needs, plus that.
    """

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.uint8)
        self._used = 0

    def begin(self) -> None:
        """Start the next kernel."""
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """An uninitialised contiguous array that no other array of this kernel overlaps."""
        nbytes = math.prod(shape) * dtype.itemsize
        if self._used + nbytes > self._buffer.nbytes:
            self._buffer = np.empty(max(nbytes, 2 * self._buffer.nbytes), np.uint8)
            self._used = 0
        start = self._used
        self._used += -(-nbytes // 64) * 64
        return self._buffer[start : start + nbytes].view(dtype).reshape(shape)


@dataclass(frozen=True)
class Call:
    """One instruction bound to memory; ``place`` says in errors where it comes from."""

    op: str
    inputs: list[Array | None]
    outputs: list[Array]
    attrs: Mapping[str, Any]
    scratch: Scratch
    place: str | None = None

    @property
    def out(self) -> Array:
        """The first output."""
        return self.outputs[0]

    def array(self, index: int) -> Array:
        """An input that must be there."""
        value = self.inputs[index]
        if value is None:
            raise TypeError(f"{self.op} lacks operand {index}")
        return value


def kernel(*names: str) -> Callable[[Kernel], Kernel]:
    """Register the decorated function for some ops."""

    def register(function: Kernel) -> Kernel:
        KERNELS.update(dict.fromkeys(names, function))
        return function

    return register


def is_blas_float(array: Array) -> bool:
    """True for the element types that numpy and BLAS compute in directly: f32 and f64."""
    return array.dtype.char in "fd"


def overlap(a: Array | None, b: Array) -> bool:
    """True if two arrays may share bytes."""
    return a is not None and np.may_share_memory(a, b)
