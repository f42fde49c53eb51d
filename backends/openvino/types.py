"""Element types on the device: floats in 16 bits, indices in 32, as Intel's NPU compiler wants them.

What crosses from the host is converted there, and values out of a type's range are limited to it: a mask of
-3.4e38 becomes -65504, the smallest 16-bit float, not minus infinity, which would make NaN in a softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from forgec.ir.types import DType

__all__ = ["HALF", "Precision", "converted", "packed_tensor"]

_KEPT = {
    DType.I32: ov.Type.i32,
    DType.I8: ov.Type.i8,
    DType.I4: ov.Type.i4,
    DType.U8: ov.Type.u8,
    DType.BOOL: ov.Type.boolean,
}


@dataclass(frozen=True)
class Precision:
    """How IR types look on the device; ``floats`` is what all floating-point types become."""

    floats: DType = DType.F16

    def numpy(self, dtype: DType) -> np.dtype:
        """The numpy type of a value on the device."""
        if dtype.is_float:
            return self.floats.numpy
        return dtype.numpy if dtype in _KEPT else np.dtype(np.int32)

    def openvino(self, dtype: DType) -> ov.Type:
        """The OpenVINO type of a value on the device."""
        if dtype.is_float:
            return ov.Type.f16 if self.floats is DType.F16 else ov.Type.f32
        return _KEPT.get(dtype, ov.Type.i32)

    def array(self, value: Any, dtype: DType) -> np.ndarray:
        """A value of the IR's type as the device takes it, contiguous: OpenVINO takes a strided 16-bit array
        for integers."""
        return np.asarray(converted(np.asarray(value, dtype.numpy), self.numpy(dtype)), order="C")


HALF = Precision()


def packed_tensor(codes: np.ndarray, shape: Sequence[int]) -> ov.Tensor:
    """An i4 array as OpenVINO's tensor of that shape: both hold two numbers in a byte, the first in the low
    bits."""
    tensor = ov.Tensor(ov.Type.i4, ov.Shape(shape))
    tensor.data[...] = np.ascontiguousarray(codes).view(tensor.data.dtype).reshape(tensor.data.shape)
    return tensor


def converted(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in another type, limited to its range where it is smaller; itself if it has the type."""
    if array.dtype == dtype:
        return array
    narrower = array.dtype.itemsize > dtype.itemsize and array.dtype.kind != "b" and dtype.kind != "b"
    if narrower and dtype.kind == "f":
        limit = np.finfo(dtype).max
        array = np.clip(array, -limit, limit)
    elif narrower and dtype.kind in "iu" and array.dtype.kind in "iu":
        info = np.iinfo(dtype)
        array = np.clip(array, info.min, info.max)
    return array.astype(dtype)
