"""Conversion of what a caller gives to the array that a program reads.

Nothing changes a value: integers of another width are cast if all of them fit, floats if no bit is lost, and
everything else is an error, because a silent cast hides a mistake that eager PyTorch would show. Strides are
kept; a program reads strided inputs.
"""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import InputError
from ..ir.types import DType, TensorType

__all__ = ["memory_of", "to_array"]


def to_array(value: Any, expected: TensorType, name: str) -> np.ndarray:
    """``value`` as an array of exactly the expected type; :class:`InputError` names the input otherwise.

    The array shares the memory of ``value`` where no cast is needed.
    """
    array = _scalar(value, expected, name) if isinstance(value, bool | int | float) else _view(value, name)
    if array.shape != expected.shape:
        raise InputError(
            f"input {name!r} must be {expected}, and has the shape {list(array.shape)}",
            hint=_shape_hint(array.shape, expected.shape),
        )
    wanted = expected.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.newbyteorder("=") == wanted:
        return array.astype(wanted)
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        return _cast_integers(array, expected, name)
    if _is_float(array.dtype) and expected.dtype.is_float:
        return _cast_floats(array, expected, name)
    raise _wrong_type(array.dtype, expected, name)


def memory_of(value: Any, expected: TensorType, name: str, written: bool) -> np.ndarray:
    """``value``'s own memory as an array, for a program to read or write; :class:`InputError` if it is not of
    exactly the expected type, not contiguous, or not to be written."""
    array = _view(value, name)
    if array.shape != expected.shape or array.dtype != expected.dtype.numpy:
        raise InputError(f"{name!r} must be {expected}, and is {array.dtype} {list(array.shape)}")
    if not array.flags.c_contiguous or not array.flags.aligned or (written and not array.flags.writeable):
        need = "contiguous, aligned and writable" if written else "contiguous and aligned"
        raise InputError(f"{name!r} must be {need} to be used where it lies")
    if array.size and not np.may_share_memory(array, _view(value, name)):
        raise InputError(f"{name!r}, a {type(value).__name__}, cannot be used where it lies")
    return array


def _scalar(value: bool | int | float, expected: TensorType, name: str) -> np.ndarray:
    """A Python scalar, which has no width of its own: rounded to a float, never to an integer."""
    kind = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "f"
    wanted = "b" if expected.dtype is DType.BOOL else "f" if expected.dtype.is_float else "i"
    if kind != wanted and (kind, wanted) != ("i", "f"):
        raise InputError(f"input {name!r} must be {expected}, and is {value!r}")
    try:
        return np.asarray(value, dtype=expected.dtype.numpy)
    except OverflowError:
        raise InputError(f"input {name!r} is {value!r}, which does not fit {expected}") from None


def _view(value: Any, name: str) -> np.ndarray:
    """A numpy view of an array-like's memory."""
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, np.ndarray | np.generic):
            return np.asarray(value)
        if torch is not None and isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            if tensor.dtype is torch.bfloat16:
                return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            return tensor.resolve_conj().resolve_neg().numpy()
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except Exception as error:  # a foreign array's own code
        raise InputError(f"input {name!r}, a {type(value).__name__}, cannot be read: {error}") from error
    raise InputError(
        f"input {name!r} must be an array, not a {type(value).__name__}",
        hint=f"give a numpy array: {name}=numpy.asarray(...)",
    )


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype == DType.BF16.numpy


def _cast_integers(array: np.ndarray, expected: TensorType, name: str) -> np.ndarray:
    limits = np.iinfo(expected.dtype.numpy)
    if array.size:
        low, high = int(array.min()), int(array.max())
        if low < limits.min or high > limits.max:
            value = low if low < limits.min else high
            raise InputError(f"input {name!r} must be {expected}, and holds {value}, which does not fit")
    return array.astype(expected.dtype.numpy)


def _cast_floats(array: np.ndarray, expected: TensorType, name: str) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        cast = array.astype(expected.dtype.numpy)
        if not np.array_equal(cast.astype(array.dtype), array, equal_nan=True):
            raise _wrong_type(array.dtype, expected, name)
    return cast


def _wrong_type(dtype: np.dtype, expected: TensorType, name: str) -> InputError:
    wanted = expected.dtype.numpy
    module = "ml_dtypes" if expected.dtype is DType.BF16 else "numpy"
    return InputError(
        f"input {name!r} must be {expected}, and its elements are {dtype}",
        hint=f"cast it if that is meant: {name}.astype({module}.{wanted.name})",
    )


def _shape_hint(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if shape == expected[1:] and expected[0] == 1:
        return "add the batch axis: x[None]"
    if shape[1:] == expected and shape[0] == 1:
        return "drop the batch axis: x[0]"
    return "shapes are fixed when a program is compiled: pad to this one, or compile again with this example"
