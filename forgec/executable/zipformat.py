"""The ZIP container of a ``.forge`` file: members stored as they are, each at a 64-byte aligned offset.

Own code instead of the standard library's, because the alignment needs control over the local headers, and a
reader of untrusted files is safest when it accepts exactly what the writer makes: no compression, no
encryption, no comment, no overlap, nothing before or behind. What is written is ordinary ZIP (with ZIP64
records where 4 GiB are exceeded) that any tool lists and extracts.

A local header is padded by an extra field (id 0xD935, the one that Android's zipalign uses). Offsets, sizes
and counts of a file are all checked against its length before use. Reading is linear in the number of
members, of which there are at most :data:`MAX_MEMBERS`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from ..errors import ArtifactError
from ..plan.plan import ALIGNMENT
from .pages import LARGE_PAGE

__all__ = ["MAX_MEMBERS", "Entry", "ZipWriter", "read_directory"]

MAX_MEMBERS = 4096
ZIP64_LIMIT = 0xFFFFFFFF
"""Sizes and offsets from here on are written in ZIP64 fields."""

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCAL_MAGIC, _CENTRAL_MAGIC, _END_MAGIC = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_LOCATOR_MAGIC, _END64_MAGIC = b"PK\x06\x07", b"PK\x06\x06"
_ZIP64_EXTRA, _ALIGN_EXTRA = 0x0001, 0xD935
_VERSION, _VERSION64 = 20, 45
_UTF8_FLAG = 0x0800
_DATE = 0x0021
"""1980-01-01, so that equal contents give equal files."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_MAX_NAME = 200


@dataclass(frozen=True)
class Entry:
    """A member: bytes [start, start + size) of the file; ``header`` is where its local header starts."""

    name: str
    header: int
    start: int
    size: int
    crc: int


class ZipWriter:
    """Writes members one after the other into an empty seekable file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._entries: list[Entry] = []
        self._end = 0

    def add(self, name: str, size: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Append a member of exactly ``size`` bytes, taken chunk by chunk, each released before the next."""
        header = self._end
        _check_name(name.encode())
        local = _local_header(name, header, size)
        self._file.write(local)
        crc = written = 0
        for chunk in _at_pages(chunks, header + len(local)):
            self._file.write(chunk)
            crc = zlib.crc32(chunk, crc)
            written += len(chunk)
            del chunk
        if written != size:
            raise ValueError(f"member {name} has {written} bytes, not {size}")
        self._file.seek(header + 14)
        self._file.write(struct.pack("<I", crc))
        entry = Entry(name, header, header + len(local), size, crc)
        self._end = entry.start + size
        self._file.seek(self._end)
        self._entries.append(entry)

    def finish(self) -> None:
        """Write the central directory."""
        for entry in self._entries:
            self._file.write(_central_header(entry))
        directory_end = self._file.tell()
        count, size = len(self._entries), directory_end - self._end
        if directory_end >= ZIP64_LIMIT:
            self._file.write(
                _END64.pack(
                    _END64_MAGIC,
                    _END64.size - 12,
                    _VERSION64,
                    _VERSION64,
                    0,
                    0,
                    count,
                    count,
                    size,
                    self._end,
                )
            )
            self._file.write(_LOCATOR.pack(_LOCATOR_MAGIC, 0, directory_end, 1))
        offset = min(self._end, 0xFFFFFFFF) if directory_end < ZIP64_LIMIT else 0xFFFFFFFF
        self._file.write(_END.pack(_END_MAGIC, 0, 0, count, count, size, offset, 0))


def _at_pages(chunks: Iterable[bytes | memoryview], start: int) -> Iterator[bytes | bytearray | memoryview]:
    """The same bytes, cut where a file that they begin in at ``start`` has a multiple of a large page.

    The system keeps what one write covers in pages as large as place and length allow, and maps it so.
    """
    waiting, room = bytearray(), -start % LARGE_PAGE
    for chunk in chunks:
        taken = min(room, len(chunk))
        waiting += chunk[:taken]
        room -= taken
        rest = memoryview(chunk)[taken:]
        if room == 0:
            if waiting:
                yield waiting
            whole = len(rest) - len(rest) % LARGE_PAGE
            if whole:
                yield rest[:whole]
            waiting = bytearray(rest[whole:])
            room = -len(waiting) % LARGE_PAGE
        del chunk, rest
    if waiting:
        yield waiting


def _local_header(name: str, offset: int, size: int) -> bytes:
    encoded = name.encode("ascii")
    big = size >= ZIP64_LIMIT
    extra = struct.pack("<2H2Q", _ZIP64_EXTRA, 16, size, size) if big else b""
    used = offset + _LOCAL.size + len(encoded) + len(extra) + 6
    padding = -used % ALIGNMENT
    extra += struct.pack("<3H", _ALIGN_EXTRA, 2 + padding, ALIGNMENT) + bytes(padding)
    shown = 0xFFFFFFFF if big else size
    version = _VERSION64 if big else _VERSION
    fixed = _LOCAL.pack(_LOCAL_MAGIC, version, 0, 0, 0, _DATE, 0, shown, shown, len(encoded), len(extra))
    return fixed + encoded + extra


def _central_header(entry: Entry) -> bytes:
    encoded = entry.name.encode("ascii")
    fields: list[int] = []
    shown, offset = entry.size, entry.header
    if shown >= ZIP64_LIMIT:
        fields += [shown, shown]
        shown = 0xFFFFFFFF
    if offset >= ZIP64_LIMIT:
        fields.append(offset)
        offset = 0xFFFFFFFF
    extra = struct.pack(f"<2H{len(fields)}Q", _ZIP64_EXTRA, 8 * len(fields), *fields) if fields else b""
    version = _VERSION64 if fields else _VERSION
    unix = 3 << 8
    permissions = 0o100644 << 16
    fixed = _CENTRAL.pack(
        _CENTRAL_MAGIC, version | unix, version, 0, 0, 0, _DATE, entry.crc, shown, shown,
        len(encoded), len(extra), 0, 0, 0, permissions, offset,
    )  # fmt: skip
    return fixed + encoded + extra


def read_directory(data: memoryview) -> dict[str, Entry]:
    """The members of a whole file by name, in file order.

    Raises :class:`ArtifactError` unless the file is one that :class:`ZipWriter` could have written.
    """
    if len(data) == 0:
        raise ArtifactError("the file is empty", hint="write it again")
    if data[:4] != _LOCAL_MAGIC[: len(data)]:
        raise ArtifactError("this is not a .forge file: it does not start as a ZIP", hint="check the path")
    start, end, count = _find_directory(data)
    if count > MAX_MEMBERS:
        raise ArtifactError(f"the ZIP says it has {count} members, at most {MAX_MEMBERS} are allowed")
    entries: dict[str, Entry] = {}
    at = start
    for _ in range(count):
        entry, at = _read_central(data, at, end)
        if entry.name in entries:
            raise ArtifactError(f"member {entry.name!r} occurs twice")
        entries[entry.name] = _locate(data, entry, start)
    if at != end:
        raise ArtifactError("the ZIP directory has another size than it says")
    ordered = sorted(entries.values(), key=lambda entry: entry.header)
    for first, second in pairwise(ordered):
        if second.header < first.start + first.size:
            raise ArtifactError(f"members {first.name!r} and {second.name!r} overlap")
    return {entry.name: entry for entry in ordered}


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Start and end of the central directory and its number of entries."""
    at = len(data) - _END.size
    if at < 0 or data[at : at + 4] != _END_MAGIC:
        raise ArtifactError(
            "the file ends before its directory, or has something behind it: it is truncated or damaged",
            hint="copy or write it again",
        )
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, at)
    end = at
    locator = at - _LOCATOR.size
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR_MAGIC:
        _, _, end, _ = _LOCATOR.unpack_from(data, locator)
        if end + _END64.size != locator or data[end : end + 4] != _END64_MAGIC:
            raise ArtifactError("the ZIP64 directory is damaged")
        _, _, _, _, disk, first_disk, here, count, size, start = _END64.unpack_from(data, end)
    if disk or first_disk or here != count or comment:
        raise ArtifactError("the ZIP has several parts or a comment, which a .forge file has not")
    if start + size != end:
        raise ArtifactError("the ZIP directory is not where it should be: the file is damaged")
    return start, end, count


def _read_central(data: memoryview, at: int, end: int) -> tuple[Entry, int]:
    """One entry of the directory, its data not located yet, and where the next one starts."""
    if at + _CENTRAL.size > end or data[at : at + 4] != _CENTRAL_MAGIC:
        raise ArtifactError("the ZIP directory is damaged")
    (
        _,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        stored,
        size,
        name_size,
        extra_size,
        comment_size,
        _,
        _,
        _,
        header,
    ) = _CENTRAL.unpack_from(data, at)
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_size
    stop = extra_at + extra_size + comment_size
    if stop > end:
        raise ArtifactError("the ZIP directory is damaged")
    name = _check_name(bytes(data[name_at:extra_at]))
    wide = _zip64_fields(data[extra_at : extra_at + extra_size])
    values = []
    for value in (size, stored, header):
        if value == 0xFFFFFFFF and wide:
            value = wide.pop(0)
        values.append(value)
    size, stored, header = values
    if method != 0 or size != stored:
        raise ArtifactError(
            f"member {name!r} is compressed, and a .forge file stores its members as they are",
            hint="was it packed again by another tool? use the original file",
        )
    if flags & ~_UTF8_FLAG:
        raise ArtifactError(f"member {name!r} is encrypted or streamed, which a .forge file has not")
    return Entry(name, header, 0, size, crc), stop


def _locate(data: memoryview, entry: Entry, limit: int) -> Entry:
    """The entry with its data's start, after its local header was checked against the directory."""
    at = entry.header
    if at + _LOCAL.size > limit or data[at : at + 4] != _LOCAL_MAGIC:
        raise ArtifactError(f"member {entry.name!r} is not where the directory says: the file is damaged")
    _, _, flags, method, _, _, crc, stored, size, name_size, extra_size = _LOCAL.unpack_from(data, at)
    name_at = at + _LOCAL.size
    start = name_at + name_size + extra_size
    if start + entry.size > limit:
        raise ArtifactError(f"member {entry.name!r} runs over the end of the file")
    if size == 0xFFFFFFFF:
        wide = _zip64_fields(data[name_at + name_size : start])
        size, stored = wide[:2] if len(wide) >= 2 else (size, stored)
    header = (bytes(data[name_at : name_at + name_size]), flags & ~_UTF8_FLAG, method, crc, stored, size)
    if header != (entry.name.encode("ascii"), 0, 0, entry.crc, entry.size, entry.size):
        raise ArtifactError(f"the local header of member {entry.name!r} contradicts the directory")
    if start % ALIGNMENT:
        raise ArtifactError(
            f"member {entry.name!r} does not start at a multiple of {ALIGNMENT} bytes",
            hint="was it packed again by another tool? use the original file",
        )
    return Entry(entry.name, entry.header, start, entry.size, entry.crc)


def _zip64_fields(extra: memoryview) -> list[int]:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == _ZIP64_EXTRA and at + size <= len(extra):
            return list(struct.unpack_from(f"<{size // 8}Q", extra, at))
        at += size
    return []


def _check_name(raw: bytes) -> str:
    name = raw.decode("ascii", "replace")
    if len(raw) > _MAX_NAME or not _NAME.fullmatch(name):
        raise ArtifactError(f"the member name {name!r:.80} is not allowed")
    return name
