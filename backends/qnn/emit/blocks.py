"""Compressed weights as ``MatMulNBits`` takes them: codes without sign in blocks along a row, a scale each.

A block is a power of two, at least 16, that divides the group, so that a group is some blocks of one scale;
scales of whole rows are repeated for blocks of up to 256, which is next to nothing beside the codes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from forgec.ir.program import ConstRef, Instr
from forgec.ir.types import DType

from ...vendor.attributes import integer

__all__ = ["MICROSOFT", "Blocks", "block_size", "by_row", "decompressed", "in_blocks"]

MICROSOFT = "com.microsoft"
"""Domain of the operator."""

_LEAST, _MOST = 16, 256
_HALF_RANGE = {DType.I4: 0x88, DType.I8: 0x80}
"""What turns codes with a sign into codes from 0 on, in every byte."""


@dataclass(frozen=True)
class Blocks:
    """``codes`` u8 [outs, blocks, bytes], two of 4 bits in a byte, the first in the low ones; ``scales``
    [outs * blocks]."""

    outs: int
    bits: int
    size: int
    codes: np.ndarray
    scales: np.ndarray


def block_size(depth: int, group: int) -> int | None:
    """The block for rows of ``depth`` with scales for groups (0 for whole rows); None if there is none."""
    shared = math.gcd(depth, group or _MOST)
    size = min(shared & -shared, _MOST)
    return size if size >= _LEAST else None


def decompressed(instr: Instr) -> ConstRef | None:
    """The compressed weight of an instruction that is emitted as floats."""
    if instr.op not in ("linear_q", "embedding_q"):
        return None
    codes = instr.operands[1 if instr.op == "linear_q" else 0]
    if not isinstance(codes, ConstRef):
        return None
    held = codes.type.dtype in _HALF_RANGE and block_size(codes.type.shape[1], integer(instr, "group"))
    return None if instr.op == "linear_q" and held else codes


def by_row(instr: Instr) -> bool:
    """Whether the codes of a ``linear_q`` are bytes with one scale for a row, which may be inputs."""
    codes, scales = instr.operands[1:3]
    one = isinstance(scales, ConstRef) and scales.type.shape[0] == 1
    return one and isinstance(codes, ConstRef) and codes.type.dtype is DType.I8


def in_blocks(codes: np.ndarray, scales: np.ndarray, group: int) -> Blocks | None:
    """Codes [outs, depth] of ``linear_q`` with scales [groups, outs] in blocks; None if they have no such
    form."""
    dtype = DType.of(codes)
    if dtype not in _HALF_RANGE:
        return None
    bits = 4 if dtype is DType.I4 else 8
    raw = np.ascontiguousarray(codes).view(np.uint8)
    outs, depth = raw.shape[0], raw.shape[1] * 8 // bits
    size = block_size(depth, group)
    if size is None:
        return None
    count = depth // size
    starts = np.arange(count) * size // (group or depth)
    return Blocks(
        outs, bits, size, (raw ^ _HALF_RANGE[dtype]).reshape(outs, count, -1), scales.T[:, starts].reshape(-1)
    )
