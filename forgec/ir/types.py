"""Element types and tensor types of the IR: the only place that relates them to numpy and safetensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import ml_dtypes
import numpy as np

__all__ = ["DType", "TensorType", "contiguous_strides", "pack_i4", "unpack_i4"]


class DType(Enum):
    """Element type; the value is its name in IR text.

    ``I4`` is for weights: two numbers in [-8, 7] share a byte, the first of them in the low bits. An array of
    them has an element type of its own, and its last axis counts bytes.
    """

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    I4 = "i4"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes per element of a numpy array: for i4 those of a pair."""
        return _NUMPY[self].itemsize

    @property
    def safetensors(self) -> str:
        """Name of the type in a safetensors header."""
        return "BOOL" if self is DType.BOOL else self.value.upper()

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def is_int(self) -> bool:
        """True for integers; booleans are neither float nor int."""
        return not self.is_float and self is not DType.BOOL

    @classmethod
    def of(cls, array: np.ndarray) -> DType:
        """Element type of a numpy array; ``KeyError`` if the IR has none for it."""
        return _FROM_NUMPY[array.dtype]

    @classmethod
    def from_numpy(cls, dtype: np.dtype) -> DType:
        return _FROM_NUMPY[np.dtype(dtype)]


_NUMPY = {
    DType.F64: np.dtype(np.float64),
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.I64: np.dtype(np.int64),
    DType.I32: np.dtype(np.int32),
    DType.I16: np.dtype(np.int16),
    DType.I8: np.dtype(np.int8),
    DType.I4: np.dtype([("i4x2", np.uint8)]),
    DType.U8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
HALVES = (DType.BF16, DType.F16)
"""Floats of 16 bits."""

_FROM_NUMPY = {n: d for d, n in _NUMPY.items()}
_FLOATS = {DType.F64, DType.F32, DType.F16, DType.BF16}


@dataclass(frozen=True)
class TensorType:
    """Element type and static shape; printed as ``f32[1,16,64]``."""

    dtype: DType
    shape: tuple[int, ...]

    @cached_property
    def numel(self) -> int:
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of a contiguous tensor of this type."""
        return math.prod(self.array_shape) * self.dtype.itemsize

    @property
    def array_shape(self) -> tuple[int, ...]:
        """Shape of a numpy array of this type: its own, but for the last axis of i4."""
        return (
            (*self.shape[:-1], self.shape[-1] // 2) if self.dtype is DType.I4 and self.shape else self.shape
        )

    @property
    def stored(self) -> TensorType:
        """The type under which a file holds such a tensor: bytes in place of i4, which other tools lack."""
        return TensorType(DType.U8, self.array_shape) if self.dtype is DType.I4 else self

    @property
    def rank(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, array: np.ndarray) -> TensorType:
        dtype, shape = DType.of(array), tuple(array.shape)
        return cls(dtype, (*shape[:-1], shape[-1] * 2) if dtype is DType.I4 and shape else shape)

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def pack_i4(codes: np.ndarray) -> np.ndarray:
    """Integers in [-8, 7] as an i4 array, two per byte; the last axis must be even."""
    nibbles = codes.astype(np.uint8) & 15
    return (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).view(DType.I4.numpy)


def unpack_i4(packed: np.ndarray) -> np.ndarray:
    """The numbers of an i4 array, one per int8."""
    pairs = np.ascontiguousarray(packed).view(np.uint8)
    nibbles = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(*pairs.shape[:-1], 2 * pairs.shape[-1])
    return (nibbles ^ 8).view(np.int8) - np.int8(8)
