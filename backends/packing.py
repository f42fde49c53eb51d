"""Layouts other than row-major in which a file may hold a constant: names, types, the way back by numpy.

``f32.panelN``: a matrix [rows, columns] as [ceil(rows / N), columns, N], zeros after the last row.
``f32.columnsN``: a matrix [rows, columns] as [ceil(columns / N), rows, N], zeros after the last column.
``i8.panelNx4``, ``i4.panelNx8``, ``bf16.panelNx2``, ``f16.panelNx2``: a matrix as bytes [ceil(rows / N),
bytes of a panel]. A panel is [words, N] words of 32 bits, each with 4, 8 or 2 successive elements of a row,
zeros after the last; behind the words of i8 stand 128 times the sums of the N rows, as int32.

They are what matrix-product kernels read; any runtime can read them through :func:`unpack`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from forgec.errors import ArtifactError
from forgec.ir.types import DType, TensorType

__all__ = ["packed_type", "split_name", "stored_name", "unpack"]

_PANEL = re.compile(r"(f32|i8|i4|bf16|f16)\.panel([1-9][0-9]{0,3})(?:x([248]))?")
_COLUMNS = re.compile(r"f32\.columns([1-9][0-9]{0,3})")
_PER_WORD = {DType.F32: None, DType.I8: "4", DType.I4: "8", DType.BF16: "2", DType.F16: "2"}
_MARK = " as "
_WORD = 4
"""Bytes of a word of codes."""


def stored_name(name: str, layout: str) -> str:
    """What a constant in a layout of its own is called, among tensors of a file and derived arrays."""
    return f"{name}{_MARK}{layout}"


def split_name(stored: str) -> tuple[str, str]:
    """Name and layout of what :func:`stored_name` gave; the layout is empty for a constant as it is."""
    name, mark, layout = stored.rpartition(_MARK)
    return (name, layout) if mark else (stored, "")


def packed_type(layout: str, plain: TensorType) -> TensorType:
    """Type of the stored array; :class:`ArtifactError` for a layout that this version does not know."""
    if width := _columns(layout, plain):
        return TensorType(DType.F32, (-(-plain.shape[1] // width), plain.shape[0], width))
    panel = _Panel.parse(layout)
    if plain.dtype is not panel.dtype or plain.rank != 2:
        raise _unfit(layout, plain)
    rows, columns = plain.shape
    panels = -(-rows // panel.width)
    if panel.dtype is DType.F32:
        return TensorType(DType.F32, (panels, columns, panel.width))
    words = -(-_row_bytes(plain) // _WORD) + panel.sums
    return TensorType(DType.U8, (panels, words * panel.width * _WORD))


def unpack(layout: str, array: np.ndarray, plain: TensorType) -> np.ndarray:
    """The constant row-major again, a copy."""
    if _columns(layout, plain):
        matrix = array.swapaxes(0, 1).reshape(plain.shape[0], -1)
        return np.ascontiguousarray(matrix[:, : plain.shape[1]])
    panel = _Panel.parse(layout)
    if panel.dtype is not DType.F32:
        words = array.view(np.uint32).reshape(len(array), -1, panel.width)
        array = words[:, : words.shape[1] - panel.sums]
    panels, columns, width = array.shape
    matrix = np.ascontiguousarray(array.transpose(0, 2, 1)).reshape(panels * width, columns)
    if panel.dtype is DType.F32:
        return np.ascontiguousarray(matrix[: plain.shape[0]])
    rows = matrix.view(np.uint8)[: plain.shape[0], : _row_bytes(plain)]
    return np.ascontiguousarray(rows).view(plain.dtype.numpy)


@dataclass(frozen=True)
class _Panel:
    """A layout's name, taken apart; ``sums`` is how many words with sums stand behind each row's codes."""

    dtype: DType
    width: int

    @property
    def sums(self) -> int:
        return 1 if self.dtype is DType.I8 else 0

    @classmethod
    def parse(cls, layout: str) -> _Panel:
        found = _PANEL.fullmatch(layout)
        if found is None or found[3] != _PER_WORD[DType(found[1])]:
            raise ArtifactError(
                f"constants in the layout {layout!r} are unknown to this version", hint="use a newer forgec"
            )
        return cls(DType(found[1]), int(found[2]))


def _columns(layout: str, plain: TensorType) -> int:
    """N of ``f32.columnsN``; 0 for other layouts."""
    found = _COLUMNS.fullmatch(layout)
    if found is None:
        return 0
    if plain.dtype is not DType.F32 or plain.rank != 2:
        raise _unfit(layout, plain)
    return int(found[1])


def _unfit(layout: str, plain: TensorType) -> ArtifactError:
    return ArtifactError(f"a constant {plain} cannot have the layout {layout}")


def _row_bytes(plain: TensorType) -> int:
    return plain.array_shape[1] * plain.dtype.itemsize
