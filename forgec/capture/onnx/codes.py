"""Weights that a file has as codes: as the floats that they stand for, with their scales where a program can
keep the codes.

A program's codes are symmetric, in [-128, 127] or, of 4 bits, in [-8, 7] (``ir.ops.compressed``). Codes less
their zero points are kept where they are in that range. Other codes are kept less the middle of their type's
range, and beside them the offsets ``scale * (middle - zero point)`` that are missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.stored import StoredCodes, Unkept

__all__ = ["Codes", "Dequantised", "bytes_in_file", "codes_of"]

_MIDDLE = {"int8": 0, "uint8": 128, "int4": 0, "uint4": 8}
"""Zero points of symmetric codes, by element type."""

_FOUR_BITS = ("int4", "uint4")

_FARTHEST = 2**10
"""Zero points farther from the middle leave codes too few bits of a float."""

_LEAST = np.float32(2.0**-100)
"""Scales below it have no exact inverse."""


@dataclass(frozen=True, eq=False)
class Dequantised:
    """A weight as floats, and its codes."""

    array: np.ndarray
    codes: StoredCodes | Unkept


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of a matrix. ``scales``, of 16 bits taken as f32, and ``zeros`` (None for 0) have an element per
    block of it, and ``middle`` is the zero point of symmetric codes."""

    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None
    blocks: tuple[int, int]
    bits: int
    middle: int
    nbytes: int

    def __post_init__(self) -> None:
        if self.scales.dtype.itemsize == 2:
            object.__setattr__(self, "scales", self.scales.astype(np.float32))

    @classmethod
    def along(
        cls, codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, axis: int, block: int
    ) -> Codes:
        """A matrix of integers of up to 8 bits with one scale and zero point, or one for each index or block
        of an axis, as ``DequantizeLinear`` has them."""
        if zero is not None and zero.size != scale.size:
            scale, zero = np.broadcast_arrays(scale.reshape(-1), zero.reshape(-1))
        kind = codes.dtype.name
        axis %= 2
        shape, blocks = [1, 1], list(codes.shape)
        if scale.size > 1:
            blocks[axis] = min(block or 1, codes.shape[axis])
            shape[axis] = -(-codes.shape[axis] // blocks[axis])
            if block:
                blocks[1 - axis], shape[1 - axis] = 1, codes.shape[1 - axis]
        return cls(
            codes,
            scale.reshape(shape),
            None if zero is None else zero.astype(np.int32).reshape(shape),
            (blocks[0], blocks[1]),
            4 if kind in _FOUR_BITS else 8,
            _MIDDLE[kind],
            bytes_in_file(codes),
        )

    def stored(self, rounds: bool) -> StoredCodes | Unkept:
        """How a program keeps them; products with them round activations if ``rounds``."""
        reason = self._strange()
        if reason is not None:
            return Unkept(reason, self.nbytes)
        return StoredCodes(self.scales, self.blocks, self.bits, rounds, self.nbytes, self._offsets())

    def _offsets(self) -> np.ndarray | None:
        """What the blocks of the matrix are more than scales times codes from the middle on; None if codes
        less their zero points are codes of a program."""
        zeros = np.zeros(self.scales.shape, np.float32)
        if self.zeros is not None:
            zeros = self.zeros.astype(np.float32)
        if not self.codes.size or (zeros == self.middle).all():
            return None
        if (zeros == np.rint(zeros)).all():
            steps, half = self.codes.astype(np.int16), 2 ** (self.bits - 1)
            steps -= self._spread(zeros.astype(np.int16))
            if steps.min() >= -half and steps.max() < half:
                return None
        return (np.float32(self.middle) - zeros) * self.scales

    def _strange(self) -> str | None:
        if self.scales.dtype != np.float32:
            return f"scales of {self.scales.dtype}"
        sizes = np.abs(self.scales)
        if not (np.isfinite(sizes) & ((sizes >= _LEAST) | (sizes == 0))).all():
            return "scales that are not finite or have no inverse"
        if self.zeros is not None and not (np.abs(self.zeros - self.middle) <= _FARTHEST).all():
            return "zero points that are far from the codes"
        return None

    def turned(self) -> Codes:
        """The same of the transposed matrix."""
        zeros = None if self.zeros is None else self.zeros.T
        return Codes(
            self.codes.T,
            np.ascontiguousarray(self.scales.T),
            zeros,
            self.blocks[::-1],
            self.bits,
            self.middle,
            self.nbytes,
        )

    def floats(self) -> np.ndarray:
        """The matrix, of the scales' type."""
        weight = np.array(self.codes, np.float32, order="C")
        if self.zeros is not None:
            weight -= self._spread(self.zeros.astype(np.float32))
        weight *= self._spread(self.scales.astype(np.float32))
        return weight.astype(self.scales.dtype, copy=False)

    def dequantised(self, rounds: bool = False) -> Dequantised:
        """The matrix with its codes."""
        return Dequantised(self.floats(), self.stored(rounds))

    def _spread(self, parameter: np.ndarray) -> np.ndarray:
        for axis, (block, size) in enumerate(zip(self.blocks, self.codes.shape, strict=True)):
            if 1 < block < size:
                parameter = np.repeat(parameter, block, axis).take(range(size), axis)
        return parameter


def codes_of(inputs: list[Any], attributes: dict[str, Any]) -> StoredCodes | Unkept | None:
    """What a ``DequantizeLinear`` of constants has of codes; None if it has no codes of up to 8 bits."""
    codes, scale, zero = [*inputs, None][:3]
    nbytes = bytes_in_file(codes)
    if not nbytes:
        return None
    if codes.ndim != 2:
        return Unkept("codes of a tensor that is no matrix", nbytes)
    axis, block = int(attributes.get("axis", 1)), int(attributes.get("block_size", 0))
    return Codes.along(codes, scale, zero, axis, block).stored(False)


def bytes_in_file(array: np.ndarray) -> int:
    """Bytes of a stored tensor of codes; 0 for one of anything else, and for a single one."""
    kind = array.dtype.name
    if kind not in _MIDDLE or array.size < 2:
        return 0
    return array.size // 2 if kind in _FOUR_BITS else array.size
