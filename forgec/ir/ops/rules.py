"""Type rules shared by op records."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..op import IRTypeError
from ..types import DType, TensorType

__all__ = [
    "binary",
    "binary_bool",
    "binary_float",
    "binary_number",
    "broadcast_shapes",
    "compare",
    "is_exact",
    "normalise_axes",
    "normalise_axis",
    "require",
    "require_bool",
    "require_exact",
    "require_float",
    "require_number",
    "require_sizes",
    "same",
    "same_float",
    "same_number",
    "tensor",
]


def require(condition: bool, message: str) -> None:
    """Raise :class:`IRTypeError` with the message unless the condition holds."""
    if not condition:
        raise IRTypeError(message)


def tensor(x: TensorType | None, what: str = "operand") -> TensorType:
    """The operand's type; an error if a literal or nothing stands there."""
    if x is None:
        raise IRTypeError(f"{what} must be a tensor")
    return x


def require_float(x: TensorType | None, what: str = "operand") -> TensorType:
    t = tensor(x, what)
    require(t.dtype.is_float, f"{what} must be floating point, not {t}")
    return t


def same(x: TensorType | None, **_: Any) -> TensorType:
    """Result has the type of operand 0."""
    return tensor(x)


def same_number(x: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`same`, for integers and floating point."""
    return require_number(x)


def same_float(x: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`same`, for floating point."""
    return require_float(x)


def require_number(x: TensorType | None, what: str = "operand") -> TensorType:
    t = tensor(x, what)
    require(t.dtype is not DType.BOOL, f"{what} must be a number, not {t}")
    return t


def require_bool(x: TensorType | None, what: str = "operand") -> TensorType:
    t = tensor(x, what)
    require(t.dtype is DType.BOOL, f"{what} must be bool, not {t}")
    return t


def require_exact(value: float, dtype: DType, what: str) -> None:
    """A scalar beside integers or booleans must be one of theirs; floating point takes any number."""
    require(is_exact(value, dtype), f"{what} {value} is not a value of {dtype.value}")


def is_exact(value: int | float | bool, dtype: DType) -> bool:
    """True if an element type can hold a scalar; floating point may round it, i4 stands beside none."""
    if dtype.is_float:
        return True
    if dtype is DType.BOOL:
        return value in (0, 1)
    if dtype is DType.I4:
        return False
    info = np.iinfo(dtype.numpy)
    return value == value // 1 and bool(info.min <= value <= info.max)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that all shapes broadcast to, aligned at the last axis."""
    result: list[int] = []
    for axis in range(1, max(map(len, shapes), default=0) + 1):
        sizes = {shape[-axis] for shape in shapes if len(shape) >= axis}
        sizes.discard(1)
        require(len(sizes) <= 1, f"shapes {', '.join(map(str, shapes))} do not broadcast")
        result.append(sizes.pop() if sizes else 1)
    return tuple(reversed(result))


def binary(a: TensorType | None, b: TensorType | None, **_: Any) -> TensorType:
    """Broadcasting arithmetic of equal element types; one side may be a literal."""
    first = a or b
    require(first is not None, "one operand must be a tensor")
    assert first is not None
    if a is None or b is None:
        return first
    require(a.dtype is b.dtype, f"element types differ: {a} and {b}")
    return TensorType(a.dtype, broadcast_shapes(a.shape, b.shape))


def binary_number(a: TensorType | None, b: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`binary`, for integers and floating point."""
    return require_number(binary(a, b))


def binary_float(a: TensorType | None, b: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`binary`, for floating point."""
    return require_float(binary(a, b))


def binary_bool(a: TensorType | None, b: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`binary`, for booleans."""
    return require_bool(binary(a, b))


def compare(a: TensorType | None, b: TensorType | None, **_: Any) -> TensorType:
    """Like :func:`binary`, with a boolean result."""
    return TensorType(DType.BOOL, binary(a, b).shape)


def normalise_axis(axis: int, rank: int) -> int:
    """A non-negative axis; :class:`IRTypeError` when out of range."""
    require(-rank <= axis < rank, f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def normalise_axes(axes: tuple[int, ...], rank: int) -> set[int]:
    """Non-negative axes; :class:`IRTypeError` when one is out of range or given twice."""
    chosen = {normalise_axis(axis, rank) for axis in axes}
    require(len(chosen) == len(axes), f"axes {list(axes)} have one twice")
    return chosen


def require_sizes(shape: tuple[int, ...]) -> None:
    require(min(shape, default=0) >= 0, f"shape {list(shape)} has a negative size")
