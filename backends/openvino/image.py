"""Windows libraries in the form that Wine maps: sections in a file that begin at pages.

As they are built their sections begin at multiples of 512 bytes, and Wine copies them into memory, 100 MB at
every start of Intel's compiler, of which a compile looks at a part. The same sections at multiples of a page
are mapped. Nothing of a file changes but where sections lie in it, and that its signature goes, which would
no longer fit. The format is that of Microsoft's "PE Format".
"""

from __future__ import annotations

import struct

__all__ = ["page_aligned"]

_PAGE = 4096

_HEADER = 24
"""Bytes of signature and file header, in front of the optional header."""

_FILE_ALIGNMENT, _HEADERS, _SIGNATURE = 36, 60, 144
"""Fields of the optional header of 64 bits: alignment, size of all headers, directory of signatures."""

_SECTION, _SIZE, _PLACE = 40, 16, 20
"""Bytes of a section's header, and its fields: bytes in the file and where."""


def page_aligned(library: bytes) -> bytes:
    """The library with its sections at multiples of a page."""
    (start,) = struct.unpack_from("<I", library, 0x3C)
    (sections,) = struct.unpack_from("<H", library, start + 6)
    (optional,) = struct.unpack_from("<H", library, start + 20)
    (length,) = struct.unpack_from("<I", library, start + _HEADER + _HEADERS)
    head = bytearray(_padded(library[:length]))
    struct.pack_into("<I", head, start + _HEADER + _FILE_ALIGNMENT, _PAGE)
    struct.pack_into("<I", head, start + _HEADER + _HEADERS, len(head))
    struct.pack_into("<II", head, start + _HEADER + _SIGNATURE, 0, 0)
    parts = []
    place = len(head)
    for number in range(sections):
        header = start + _HEADER + optional + _SECTION * number
        size, old = struct.unpack_from("<II", library, header + _SIZE)
        part = _padded(library[old : old + size])
        struct.pack_into("<II", head, header + _SIZE, len(part), place)
        parts.append(part)
        place += len(part)
    return bytes(head) + b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _PAGE)
