"""Tensor members: safetensors whose tensors all start at a multiple of 64 bytes.

The format allows no gaps between tensors, so the gaps that alignment needs are filled by tensors of their
own, named ``%pad.N``, which reading leaves out. The header is known from names and types alone; so tensors
can be computed, written and released one at a time behind it.

Layout: u64 header length (little endian), JSON header padded with spaces to a multiple of 64, data.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArtifactError
from ..ir.types import DType, TensorType
from ..plan.plan import ALIGNMENT
from .strictjson import parse_json

__all__ = ["Slot", "TensorLayout", "lay_out", "parse_header"]

_PAD = "%pad."
_MAX_HEADER = 100_000_000
"""The limit of the safetensors library itself, bytes."""

_DTYPES = {dtype.safetensors: dtype for dtype in DType if dtype is not DType.I4}


@dataclass(frozen=True)
class Slot:
    """A tensor: bytes [start, start + type.nbytes) of its member."""

    type: TensorType
    start: int


@dataclass(frozen=True)
class TensorLayout:
    """``header`` is everything before the data; ``slots`` are in file order; ``size`` is the member's."""

    header: bytes
    slots: dict[str, Slot]
    size: int


def lay_out(tensors: Sequence[tuple[str, TensorType]]) -> TensorLayout:
    """Places for tensors with distinct names, in the given order."""
    entries: dict[str, dict[str, object]] = {}
    at = 0
    starts: dict[str, int] = {}
    for name, kind in tensors:
        gap = -at % ALIGNMENT
        if gap:
            pad = TensorType(DType.U8, (gap,))
            entries[f"{_PAD}{len(entries)}"] = _entry(pad, at)
            at += gap
        starts[name] = at
        entries[name] = _entry(kind, at)
        at += kind.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    slots = {name: Slot(kind, len(header) + starts[name]) for name, kind in tensors}
    return TensorLayout(header, slots, len(header) + at)


def _entry(kind: TensorType, start: int) -> dict[str, object]:
    return {
        "dtype": kind.dtype.safetensors,
        "shape": list(kind.shape),
        "data_offsets": [start, start + kind.nbytes],
    }


def parse_header(member: memoryview, what: str) -> TensorLayout:
    """The layout of a whole tensor member, padding left out; :class:`ArtifactError` if it is malformed.

    ``what`` names the member in errors.
    """
    if len(member) < 8:
        raise ArtifactError(f"{what} is too short for safetensors")
    (length,) = struct.unpack_from("<Q", member)
    base = 8 + length
    if length > _MAX_HEADER or base > len(member):
        raise ArtifactError(f"{what} says its header has {length} bytes, and the member has {len(member)}")
    entries = parse_json(member[8:base], what)
    if not isinstance(entries, dict):
        raise ArtifactError(f"the header of {what} is no JSON object")
    entries.pop("__metadata__", None)
    slots = {name: _slot(name, entry, what) for name, entry in entries.items()}
    at = 0
    for name, slot in sorted(slots.items(), key=lambda item: (item[1].start, item[1].type.nbytes)):
        if slot.start != at or ((slot.start + base) % ALIGNMENT and not name.startswith(_PAD)):
            raise ArtifactError(f"tensor {name!r} of {what} is out of place")
        at += slot.type.nbytes
    if base + at != len(member):
        raise ArtifactError(
            f"the tensors of {what} have {at} bytes, and the member holds {len(member) - base}"
        )
    kept = {name: Slot(s.type, base + s.start) for name, s in slots.items() if not name.startswith(_PAD)}
    return TensorLayout(bytes(member[:base]), kept, len(member))


def _slot(name: str, entry: object, what: str) -> Slot:
    if isinstance(entry, dict):
        dtype, shape, offsets = (
            entry.get("dtype"),
            _sizes(entry.get("shape")),
            _sizes(entry.get("data_offsets")),
        )
        if (
            isinstance(dtype, str)
            and dtype in _DTYPES
            and shape is not None
            and offsets
            and len(offsets) == 2
        ):
            kind = TensorType(_DTYPES[dtype], shape)
            if offsets[1] - offsets[0] == kind.nbytes:
                return Slot(kind, offsets[0])
    raise ArtifactError(f"the entry of tensor {name!r:.80} in {what} is malformed")


def _sizes(value: object) -> tuple[int, ...] | None:
    """A short list of sizes, or None."""
    if isinstance(value, list) and len(value) <= 32 and all(type(n) is int and 0 <= n < 2**63 for n in value):
        return tuple(value)
    return None
