"""Packing of compressed weights for the native kernels, in the layouts of :mod:`backends.packing`.

All instruction sets share them. Scales of one group are read as they are; those of several lie as the codes
do, panel by panel, so that memory is read in order.
"""

from __future__ import annotations

import numpy as np

from forgec.errors import InternalError
from forgec.ir.types import DType

from .machine import extension, isa

__all__ = ["LAYOUTS", "SCALES", "pack", "pack_scales"]

LAYOUTS = {
    DType.I8: "i8.panel32x4",
    DType.I4: "i4.panel32x8",
    DType.BF16: "bf16.panel32x2",
    DType.F16: "f16.panel32x2",
}

_COLUMNS = 32
SCALES = f"f32.columns{_COLUMNS}"


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes of ``linear_q`` as uint8 [panels, bytes of a panel]."""
    dtype = DType.of(codes)
    if dtype not in LAYOUTS or codes.ndim != 2:
        raise InternalError(f"there is no packed layout for {dtype.value} of rank {codes.ndim}")
    rows = np.ascontiguousarray(codes).view(np.uint8).reshape(codes.shape[0], codes.shape[1] * codes.itemsize)
    return np.asarray(extension().pack_compressed(rows, dtype.value, isa()))


def pack_scales(scales: np.ndarray) -> np.ndarray:
    """Scales [groups, rows of the weight] as float32 [panels, groups, 32]."""
    groups, rows = scales.shape
    padded = np.zeros((groups, -(-rows // _COLUMNS) * _COLUMNS), np.float32)
    padded[:, :rows] = scales
    return np.ascontiguousarray(padded.reshape(groups, -1, _COLUMNS).swapaxes(0, 1))
