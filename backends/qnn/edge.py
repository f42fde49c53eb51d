"""What crosses the edge between a program and compiled code: ports, and floats as f16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from forgec.ir.types import TensorType

__all__ = ["F16_LIMIT", "MAX_RANK", "Port", "to_float"]

F16_LIMIT = 60_000.0
"""What lies outside f16 becomes plus or minus this: so far inside that adding a score does not overflow."""


MAX_RANK = 5
"""Axes that an operand may have; a port of more is rows."""


@dataclass(frozen=True)
class Port:
    """An input or output of compiled code: a register, its name there, and its type on the device.

    The device's shape has the register's elements in the same order. Outputs of one register that follow each
    other are rows ``[n, d]`` of it, side by side on the last axis.
    """

    register: int
    name: str
    type: TensorType


def to_float(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``array`` in a float type; in f16, values beyond its range come to :data:`F16_LIMIT`."""
    if dtype == np.float16 and array.dtype != np.float16:
        outside = np.abs(array) > np.finfo(np.float16).max
        if outside.any():
            array = np.where(outside, np.copysign(F16_LIMIT, array), array)
    return array.astype(dtype, copy=False)
