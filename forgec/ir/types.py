"""Element types and tensor types of the IR: the only place that relates them to numpy and safetensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import ml_dtypes
import numpy as np

__all__ = ["DType", "TensorType", "contiguous_strides"]


class DType(Enum):
    """Element type; the value is its name in IR text."""

    F64 = "f64"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    I64 = "i64"
    I32 = "i32"
    I16 = "i16"
    I8 = "i8"
    U8 = "u8"
    BOOL = "bool"

    @property
    def numpy(self) -> np.dtype:
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
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
    DType.U8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
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
        return self.numel * self.dtype.itemsize

    @property
    def rank(self) -> int:
        return len(self.shape)

    @classmethod
    def of(cls, array: np.ndarray) -> TensorType:
        return cls(DType.of(array), tuple(array.shape))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
