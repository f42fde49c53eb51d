"""Windows libraries whose sections Wine can map."""

from __future__ import annotations

import struct

from forgec.backends.openvino.image import page_aligned

START, OPTIONAL = 0x80, 240


def library(sections: list[bytes], alignment: int = 512) -> bytes:
    """Headers as a linker writes them and sections at multiples of ``alignment``, a signature behind them."""
    head = bytearray(2 * alignment)
    struct.pack_into("<I", head, 0x3C, START)
    struct.pack_into("<4sHHIIIHH", head, START, b"PE\0\0", 0x8664, len(sections), 0, 0, 0, OPTIONAL, 0x2022)
    struct.pack_into("<I", head, START + 24 + 36, alignment)
    struct.pack_into("<I", head, START + 24 + 60, len(head))
    place = len(head)
    for number, data in enumerate(sections):
        at = START + 24 + OPTIONAL + 40 * number
        size = len(data) + -len(data) % alignment
        struct.pack_into(
            "<8sIIII", head, at, b".part", len(data), 0x1000 * (number + 1), size if data else 0, place
        )
        place += size
    struct.pack_into("<II", head, START + 24 + 144, place, 8)
    return bytes(head) + b"".join(d + bytes(-len(d) % alignment) for d in sections) + b"a sign."


def test_sections_move_to_pages_and_stay_what_they_are() -> None:
    parts = [b"code" * 300, b"", b"data" * 2000]
    old = library(parts)
    new = page_aligned(old)
    assert struct.unpack_from("<II", new, START + 24 + 144) == (0, 0)
    assert struct.unpack_from("<I", new, START + 24 + 36) == (4096,)
    (headers,) = struct.unpack_from("<I", new, START + 24 + 60)
    assert headers % 4096 == 0
    for number, data in enumerate(parts):
        at = START + 24 + OPTIONAL + 40 * number
        assert new[at : at + 16] == old[at : at + 16]  # name, length and address in memory
        size, place = struct.unpack_from("<II", new, at + 16)
        assert size % 4096 == place % 4096 == 0 and place + size <= len(new)
        assert new[place : place + len(data)] == data and not any(new[place + len(data) : place + size])
