"""Tensors of an ONNX model: small ones inline, large ones appended to one file as soon as they are known.

So emitting a model holds one weight in memory at a time, and models over protobuf's 2 GB are possible.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["WeightFile"]

_INLINE = 64
_ALIGN = 64


class WeightFile:
    """Appends tensors to ``path``, which is created when the first large one comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self._end = 0

    def __enter__(self) -> WeightFile:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def tensor(self, name: str, array: np.ndarray) -> TensorProto:
        """An initializer of that name; shape operands must be small and so come inline."""
        array = np.ascontiguousarray(array)
        if array.nbytes <= _INLINE:
            return numpy_helper.from_array(array, name)
        assert self._file is not None
        padding = -self._end % _ALIGN
        self._file.write(b"\0" * padding)
        self._file.write(array.data)
        proto = TensorProto(
            name=name,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            dims=array.shape,
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self.path.name, "offset": self._end + padding, "length": array.nbytes}
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        self._end += padding + array.nbytes
        return proto
