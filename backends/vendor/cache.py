"""What vendors' compilers produced, kept by content: the same graph, options and compiler are compiled once.

An entry is one file named by its key and guarded by a digest; a damaged one counts as missing. Entries are
written beside their place and renamed, so that two compiles can share the folder. Over the size bound the
least recently used go. A cache that cannot be written costs time, never a compile.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

import xxhash

from forgec.debug import log

__all__ = ["Cache", "folder", "key_of"]

_MAGIC = b"forgec1\n"
_DIGEST = 16
_LIMIT = 8 << 30


def folder() -> Path:
    """The user's cache folder: ``FORGEC_CACHE``, or ``forgec`` where the system keeps caches."""
    chosen = os.environ.get("FORGEC_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forgec"


def key_of(*parts: bytes | str) -> str:
    """A key for what these parts determine: emitted graph, options, id of the compiler."""
    hasher = xxhash.xxh3_128()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


class Cache:
    """Bytes by key in one folder of at most ``limit`` bytes; safe for several processes."""

    def __init__(self, path: Path | None = None, limit: int = _LIMIT) -> None:
        self._path = path or folder() / "compiled"
        self._limit = limit

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none that is whole."""
        place = self._path / key
        try:
            data = place.read_bytes()
        except OSError:
            return None
        head = len(_MAGIC) + _DIGEST
        if data[: len(_MAGIC)] != _MAGIC or xxhash.xxh3_128_digest(data[head:]) != data[len(_MAGIC) : head]:
            log(1, f"cache entry {place} is damaged; it is made again")
            with suppress(OSError):
                place.unlink()
            return None
        with suppress(OSError):
            os.utime(place)
        return data[head:]

    def put(self, key: str, data: bytes) -> None:
        """Keep an entry, if the disk lets us."""
        temporary = self._path / f".{secrets.token_hex(8)}.part"
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            self._make_room(len(data))
            with open(temporary, "wb") as file:
                file.write(_MAGIC + xxhash.xxh3_128_digest(data))
                file.write(data)
            os.replace(temporary, self._path / key)
        except OSError as error:
            log(1, f"the compile cache cannot be written: {error}")
            with suppress(OSError):
                temporary.unlink()

    def _make_room(self, needed: int) -> None:
        entries = []
        for entry in os.scandir(self._path):
            with suppress(OSError):
                found = entry.stat()
                entries.append((found.st_mtime, found.st_size, entry.path))
        total = needed + sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._limit:
                return
            with suppress(OSError):
                os.unlink(path)
            total -= size
