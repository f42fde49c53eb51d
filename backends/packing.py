"""Layouts other than row-major in which a file may hold a constant: names, types, the way back by numpy.

``f32.panelN``: a matrix [rows, columns] as [ceil(rows / N), columns, N], zeros after the last row. It is what
matrix-product kernels read; any runtime can read it through :func:`unpack`.
"""

from __future__ import annotations

import re

import numpy as np

from forgec.errors import ArtifactError
from forgec.ir.types import DType, TensorType

__all__ = ["packed_type", "split_name", "stored_name", "unpack"]

_PANEL = re.compile(r"f32\.panel([1-9][0-9]{0,3})")
_MARK = " as "


def stored_name(name: str, layout: str) -> str:
    """What a constant in a layout of its own is called, among tensors of a file and derived arrays."""
    return f"{name}{_MARK}{layout}"


def split_name(stored: str) -> tuple[str, str]:
    """Name and layout of what :func:`stored_name` gave; the layout is empty for a constant as it is."""
    name, mark, layout = stored.rpartition(_MARK)
    return (name, layout) if mark else (stored, "")


def packed_type(layout: str, plain: TensorType) -> TensorType:
    """Type of the stored array; :class:`ArtifactError` for a layout that this version does not know."""
    width = _width(layout)
    if plain.dtype is not DType.F32 or len(plain.shape) != 2:
        raise ArtifactError(f"a constant {plain} cannot have the layout {layout}")
    rows, columns = plain.shape
    return TensorType(DType.F32, (-(-rows // width), columns, width))


def unpack(layout: str, array: np.ndarray, plain: TensorType) -> np.ndarray:
    """The constant row-major again, a copy."""
    panels, columns, width = array.shape
    matrix = array.transpose(0, 2, 1).reshape(panels * width, columns)
    return np.ascontiguousarray(matrix[: plain.shape[0]])


def _width(layout: str) -> int:
    found = _PANEL.fullmatch(layout)
    if found is None:
        raise ArtifactError(
            f"constants in the layout {layout!r} are unknown to this version", hint="use a newer forgec"
        )
    return int(found[1])
