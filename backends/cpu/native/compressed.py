"""Packing of compressed weights for the native kernels, in the layouts of :mod:`backends.packing`.

All instruction sets share them. Scales are read as they are.
"""

from __future__ import annotations

import numpy as np

from forgec.errors import InternalError
from forgec.ir.types import DType

from .machine import extension, isa

__all__ = ["LAYOUTS", "pack"]

LAYOUTS = {DType.I8: "i8.panel32x4", DType.I4: "i4.panel32x8", DType.BF16: "bf16.panel32x2"}


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes of ``linear_q`` as uint8 [panels, bytes of a panel]."""
    dtype = DType.of(codes)
    if dtype not in LAYOUTS or codes.ndim != 2:
        raise InternalError(f"there is no packed layout for {dtype.value} of rank {codes.ndim}")
    rows = np.ascontiguousarray(codes).view(np.uint8).reshape(codes.shape[0], codes.shape[1] * codes.itemsize)
    return np.asarray(extension().pack_compressed(rows, dtype.value, isa()))
