"""The code of a compiled segment: a head in JSON, then the vendor's files as they are.

Layout: magic, length of the head (8 bytes, little endian), head (zlib), files one after the other. The head
says what the ports are, which compiler made the files for which chip, and what the vendor's model predicts.
Reading checks every length before use.

Folded code is several of these and the calls of them (see ``vendor.calls``), behind a head of the same form.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from forgec.errors import BackendError
from forgec.ir.types import DType, TensorType

from ..prediction import Repeat
from .edge import Port

__all__ = [
    "Container",
    "Folded",
    "is_folded",
    "pack",
    "pack_folded",
    "unpack",
    "unpack_folded",
    "with_prediction",
    "with_repeats",
]

_MAGIC = b"forgqnn1"
_FOLDED = b"forgqnnf"
_HEAD_LIMIT = 1 << 28


@dataclass(frozen=True)
class Container:
    """``files`` are the vendor's, by name; ``prediction`` is as :mod:`.prediction` stores it, or None.

    ``tables`` says which inputs are ids of a table with so many rows, by position. ``unpredicted`` is why a
    prediction that was asked for is none.
    """

    compiler: str
    soc: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    tables: Mapping[int, int]
    prediction: dict[str, Any] | None
    files: Mapping[str, bytes]
    unpredicted: str = ""


@dataclass(frozen=True)
class Folded:
    """``parts`` are containers in bytes, called as ``calls`` says; ``prediction`` is a ``Prediction`` in
    JSON, ``unpredicted`` why it is none though it was asked for."""

    calls: bytes
    parts: tuple[bytes, ...]
    prediction: dict[str, Any] | None
    unpredicted: str = ""


def pack_folded(code: Folded) -> bytes:
    head = {
        "sizes": [len(data) for data in (code.calls, *code.parts)],
        "prediction": code.prediction,
        "unpredicted": code.unpredicted,
    }
    packed = zlib.compress(json.dumps(head, sort_keys=True).encode(), 6)
    return b"".join((_FOLDED, len(packed).to_bytes(8, "little"), packed, code.calls, *code.parts))


def is_folded(data: bytes) -> bool:
    return data[: len(_FOLDED)] == _FOLDED


def unpack_folded(data: bytes) -> Folded:
    """What :func:`pack_folded` packed; ``BackendError`` if it is damaged."""
    start = len(_FOLDED) + 8
    try:
        length = int.from_bytes(data[len(_FOLDED) : start], "little")
        if not 0 < length <= len(data) - start:
            raise ValueError(f"a head of {length} bytes does not fit")
        head = json.loads(zlib.decompressobj().decompress(data[start : start + length], _HEAD_LIMIT))
        sizes = [int(size) for size in head["sizes"]]
        if min(sizes) < 0 or start + length + sum(sizes) != len(data):
            raise ValueError(f"parts of {sum(sizes)} bytes are announced in {len(data)} bytes")
        found, place = [], start + length
        for size in sizes:
            found.append(data[place : place + size])
            place += size
        said = str(head.get("unpredicted", ""))
        return Folded(found[0], tuple(found[1:]), head["prediction"], said)
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise BackendError(
            f"the folded code of a Hexagon segment is damaged: {error}", hint="compile again"
        ) from None


def pack(code: Container) -> bytes:
    head = {
        "compiler": code.compiler,
        "soc": code.soc,
        "inputs": [_port(port) for port in code.inputs],
        "outputs": [_port(port) for port in code.outputs],
        "tables": {str(i): rows for i, rows in code.tables.items()},
        "prediction": code.prediction,
        "unpredicted": code.unpredicted,
        "files": {name: len(data) for name, data in code.files.items()},
    }
    return _join(head, [data for _, data in sorted(code.files.items())])


def _join(head: Mapping[str, Any], files: Sequence[bytes | memoryview]) -> bytes:
    packed = zlib.compress(json.dumps(head, sort_keys=True).encode(), 6)
    return b"".join((_MAGIC, len(packed).to_bytes(8, "little"), packed, *files))


def with_prediction(data: bytes, prediction: Mapping[str, Any]) -> bytes:
    """Packed code that is not damaged, with another prediction."""
    head, start = _head(data)
    return _join({**head, "prediction": prediction}, [memoryview(data)[start:]])


def with_repeats(data: bytes, repeats: Sequence[Repeat]) -> bytes:
    """Packed code with what repeats in it, for its prediction to say; as it is if it has none."""
    found = unpack(data, files=False).prediction
    if found is None:
        return data
    return with_prediction(data, {**found, "repeats": [asdict(x) for x in repeats]})


def unpack(data: bytes, *, files: bool = True) -> Container:
    """What :func:`pack` packed; ``BackendError`` if it is damaged. Without ``files`` those are left out."""
    try:
        return _unpack(data, files)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise BackendError(
            f"the code of a Hexagon segment is damaged: {error}", hint="compile again"
        ) from None


def _head(data: bytes) -> tuple[dict[str, Any], int]:
    """The head, and where the files begin."""
    start = len(_MAGIC) + 8
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError("it does not begin as such code does")
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    if not 0 < length <= len(data) - start:
        raise ValueError(f"a head of {length} bytes does not fit")
    head = json.loads(zlib.decompressobj().decompress(data[start : start + length], _HEAD_LIMIT))
    return head, start + length


def _unpack(data: bytes, files: bool) -> Container:
    head, start = _head(data)
    sizes = {str(name): int(size) for name, size in head["files"].items()}
    if any(size < 0 for size in sizes.values()) or start + sum(sizes.values()) != len(data):
        raise ValueError(f"files of {sum(sizes.values())} bytes are announced in {len(data)} bytes")
    if any("/" in name or "\\" in name or name.startswith(".") for name in sizes):
        raise ValueError("a file's name is a path")
    found, place = {}, start
    for name, size in sizes.items() if files else ():
        found[name] = data[place : place + size]
        place += size
    return Container(
        str(head["compiler"]),
        int(head["soc"]),
        tuple(_read_port(port) for port in head["inputs"]),
        tuple(_read_port(port) for port in head["outputs"]),
        {int(i): int(rows) for i, rows in head["tables"].items()},
        head["prediction"],
        found,
        str(head.get("unpredicted", "")),
    )


def _port(port: Port) -> dict[str, Any]:
    fields = asdict(port)
    return {**fields, "type": [port.type.dtype.value, list(port.type.shape)]}


def _read_port(fields: dict[str, Any]) -> Port:
    dtype, shape = fields["type"]
    return Port(
        int(fields["register"]), str(fields["name"]), TensorType(DType(dtype), tuple(map(int, shape)))
    )
