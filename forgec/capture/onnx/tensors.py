"""Values stored in an ONNX file as arrays: inside of it, or memory-mapped from files beside it.

Floats of 16 bits stay so where they are stored, and are computed with as f32 (:func:`widened`).

An external file must lie below the model's folder, links followed, and be as long as the tensor needs; equal
places in it are one array. Nothing is unpickled.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from ...errors import CaptureError
from ...graph import TORCH_DTYPES
from ..halves import HALVES

__all__ = [
    "ExternalFiles",
    "computed_type",
    "inline_array",
    "to_array",
    "to_tensor",
    "torch_type",
    "type_name",
    "widened",
]

_TORCH: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16, TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32,
    TensorProto.INT16: torch.int16, TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}  # fmt: skip
_WIDENED = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8, "uint16": np.int32}
"""Types that torch does not compute with, as ones that it does."""


def type_name(kind: int) -> str:
    """``FLOAT`` of an element type's number."""
    try:
        return str(TensorProto.DataType.Name(kind))
    except ValueError:
        return f"type {kind}"


def torch_type(kind: int) -> torch.dtype:
    """The torch type of an ONNX element type; ``CaptureError`` for one that forgec has not."""
    if kind not in _TORCH:
        raise CaptureError(
            f"ONNX element type {type_name(kind)} is none that forgec computes with",
            hint=f"one of {', '.join(type_name(k) for k in _TORCH)}",
        )
    return _TORCH[kind]


def computed_type(kind: int) -> torch.dtype:
    """The torch type that values of an ONNX element type are computed in."""
    found = torch_type(kind)
    return torch.float32 if found in HALVES else found


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is computed with."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor on the array's memory (of a copy where torch needs another type or layout)."""
    if array.dtype.name in _WIDENED:
        array = array.astype(_WIDENED[array.dtype.name])
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(_own(array).view(np.uint16)).view(torch.bfloat16)
    tensor = torch.from_numpy(_own(array))
    if tensor.dtype not in TORCH_DTYPES:
        raise CaptureError(f"a tensor of {array.dtype}, an element type that forgec has not")
    return tensor


def _own(array: np.ndarray) -> np.ndarray:
    """An array that torch takes: in rows, writeable, in this machine's byte order."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.c_contiguous and array.flags.writeable else np.array(array, order="C")


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The numpy array of a tensor."""
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return np.asarray(tensor.contiguous().numpy())


def inline_array(proto: Any, where: str) -> np.ndarray:
    """The value of a tensor that is stored in the model itself."""
    if proto.data_type == TensorProto.STRING:
        raise CaptureError(
            f"tensor {proto.name!r} is of strings", where, "models over text need a tokenizer outside"
        )
    try:
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
        if proto.HasField("raw_data") and kind.name not in (
            "int4",
            "uint4",
            "int2",
            "uint2",
            "float4_e2m1fn",
        ):
            count = math.prod(proto.dims)
            if len(proto.raw_data) != count * kind.itemsize:
                raise ValueError(f"{len(proto.raw_data)} bytes for {list(proto.dims)} of {kind}")
            return np.frombuffer(bytearray(proto.raw_data), kind).reshape(tuple(proto.dims))
        return np.asarray(numpy_helper.to_array(proto))
    except (ValueError, TypeError, KeyError) as error:
        raise CaptureError(
            f"tensor {proto.name!r} cannot be read: {error}", where, "export the model again"
        ) from error


class ExternalFiles:
    """The files beside a model that hold its tensors, each mapped once."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self._folder = model.resolve().parent
        self._maps: dict[str, np.ndarray] = {}
        self._arrays: dict[tuple[Any, ...], np.ndarray] = {}

    def array(self, proto: Any) -> np.ndarray:
        """The value of a tensor in an external file; copied only where it is not aligned to its type.

        Raises ``CaptureError`` for a place outside of the model's folder, an absent or too short file, and
        sizes that do not fit.
        """
        place = {entry.key: entry.value for entry in proto.external_data}
        location = place.get("location", "")
        data = self._map(location, proto.name)
        try:
            kind = np.dtype(helper.tensor_dtype_to_np_dtype(proto.data_type))
            offset = int(place.get("offset", 0))
            dims = tuple(int(n) for n in proto.dims)
            bits = 4 if kind.name in ("int4", "uint4") else 8 * kind.itemsize
            length = int(place.get("length", -(-math.prod(dims) * bits // 8)))
        except (ValueError, TypeError, KeyError) as error:
            raise self._error(f"tensor {proto.name!r} has no readable place: {error}") from error
        wanted = -(-math.prod(dims) * bits // 8)
        if min((offset, length, *dims), default=0) < 0 or length != wanted:
            raise self._error(f"tensor {proto.name!r} needs {wanted} bytes and has {length}")
        if offset + length > len(data):
            raise self._error(
                f"tensor {proto.name!r} ends at byte {offset + length} of {location}, which has {len(data)}",
                "the file is cut short or of another model: copy or export it again",
            )
        key = (location, offset, length, proto.data_type, dims)
        if key not in self._arrays:
            self._arrays[key] = self._view(data[offset : offset + length], kind, dims, proto)
        return self._arrays[key]

    def _view(self, data: np.ndarray, kind: np.dtype, dims: tuple[int, ...], proto: Any) -> np.ndarray:
        if kind.name in ("int4", "uint4"):
            stored = onnx.TensorProto(data_type=proto.data_type, dims=dims, raw_data=data.tobytes())
            return np.asarray(numpy_helper.to_array(stored))
        if data.ctypes.data % max(kind.alignment, 1):
            data = data.copy()
        return data.view(kind).reshape(dims)

    def _map(self, location: str, tensor: str) -> np.ndarray:
        if location in self._maps:
            return self._maps[location]
        path = Path(location)
        if not location or path.is_absolute() or ".." in path.parts or "\\" in location:
            raise self._error(
                f"tensor {tensor!r} lies in {location!r}, which is no place below the model's folder"
            )
        full = self._folder / path
        try:
            inside = full.resolve(strict=True).is_relative_to(self._folder)
        except OSError:
            raise self._error(
                f"tensor {tensor!r} lies in {location}, which is absent", "keep it beside the model file"
            ) from None
        if not inside or not full.is_file():
            raise self._error(
                f"tensor {tensor!r} lies in {location!r}, which leads out of the model's folder or is no file"
            )
        size = full.stat().st_size
        # Copy on write: torch wants memory that it could write to, and the file must not change.
        found = np.memmap(full, np.uint8, "c") if size else np.empty(0, np.uint8)
        self._maps[location] = np.asarray(found)
        return self._maps[location]

    def _error(self, what: str, hint: str | None = None) -> CaptureError:
        return CaptureError(what, str(self.model), hint or "export the model again")
