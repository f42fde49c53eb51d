"""Reading a ``.forge`` file: nothing is used before its bounds and its digest were checked.

The file is memory-mapped; tensors are read-only arrays on the map and cost no memory of their own. The map is
released when the last of them is. A file must not be shortened while it is mapped (as for every program that
maps files); :func:`.writer.write_archive` never does, it replaces.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np

from ..errors import ArtifactError
from ..plan.plan import ALIGNMENT
from ..processors import useful_threads
from .archive import MANIFEST, Manifest, Member, digest, in_file
from .pages import has_large_pages, in_large_pages, read
from .tensorfile import parse_header
from .zipformat import Entry, read_directory

__all__ = ["Archive"]

_WORTH_THREADS = 1 << 20
"""Bytes whose digest takes longer than handing them to another thread."""


class Archive:
    """An open file: its ``manifest``, and its members on request.

    Raises :class:`ArtifactError`, with the path, if the file cannot be opened, is damaged, foreign, or of a
    newer version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            self._map = _map_file(self.path)
            self._data = memoryview(self._map)
            self._entries = read_directory(self._data)
            self.manifest = Manifest.from_bytes(self._checked_manifest())
            self._check_members()
        except ArtifactError as error:
            raise in_file(error, self.path) from error.__cause__

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.members

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.members)

    def check(self) -> None:
        """Compare the digests of all members but those with tensors."""
        for name, member in self.manifest.members.items():
            if member.tensors is None:
                self._checked(name)

    def read(self, name: str) -> bytes:
        """The bytes of a member, checked against its digest."""
        return bytes(self._checked(name))

    def tensors(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of a member as read-only arrays by name, on the map."""
        with self.checking(name) as tensors:
            return tensors()

    @contextmanager
    def checking(
        self, name: str, verify: bool = True, held: bool = False
    ) -> Iterator[Callable[[], dict[str, np.ndarray]]]:
        """:meth:`tensors` as a function, while other threads take the digests that it compares.

        They are on the map or, if they are to be ``held`` in large pages and the map has none, on a copy of
        the member. ``verify=False`` trusts their contents, not their bounds.
        """
        member = self._member(name)
        entry = self._entries[name]
        try:
            layout = parse_header(self._slice(entry), name)
        except ArtifactError as error:
            raise in_file(error, self.path) from error.__cause__
        if digest(layout.header) != member.digest:
            raise self._damaged(f"the header of {name!r}")
        digests = member.tensors or {}
        if digests.keys() != layout.slots.keys():
            raise self._damaged(f"the tensor list of {name!r}")
        data = self._held(entry) if held else self._slice(entry)
        parts = {key: data[s.start : s.start + s.type.nbytes] for key, s in layout.slots.items()}

        with _digesting(parts if verify else {}) as found:

            def tensors() -> dict[str, np.ndarray]:
                for key, value in found():
                    if value != digests[key]:
                        raise self._damaged(f"tensor {key!r} of {name!r}")
                return {
                    key: np.ndarray(slot.type.shape, slot.type.dtype.numpy, data, slot.start)
                    for key, slot in layout.slots.items()
                }

            yield tensors

    def _checked(self, name: str) -> memoryview:
        member = self._member(name)
        data = self._slice(self._entries[name])
        if digest(data) != member.digest:
            raise self._damaged(f"member {name!r}")
        return data

    def _slice(self, entry: Entry) -> memoryview:
        return self._data[entry.start : entry.start + entry.size]

    def _held(self, entry: Entry) -> memoryview:
        """A member in large pages: on the map or a copy, its tensors as aligned as in the file."""
        if isinstance(self._map, mmap.mmap) and has_large_pages(
            self._map, entry.start, entry.start + entry.size
        ):
            return self._slice(entry)
        skip = entry.start % ALIGNMENT
        try:
            return read(self.path, entry.start - skip, entry.size + skip).data[skip:].toreadonly()
        except OSError as error:
            raise ArtifactError(f"the file cannot be read: {error}", self.path) from error

    def _member(self, name: str) -> Member:
        if name not in self.manifest.members:
            raise ArtifactError(f"the file has no member {name!r}", self.path)
        return self.manifest.members[name]

    def _checked_manifest(self) -> memoryview:
        entry = self._entries.get(MANIFEST)
        if entry is None:
            raise ArtifactError(
                "this is a ZIP, and not a .forge file: it has no manifest", hint="check the path"
            )
        data = self._slice(entry)
        if zlib.crc32(data) != entry.crc:
            raise ArtifactError(
                "the manifest is damaged: its checksum is wrong", hint="copy or write it again"
            )
        return data

    def _check_members(self) -> None:
        members = self.manifest.members
        for name in sorted(self._entries.keys() ^ (members.keys() | {MANIFEST})):
            where = "the manifest" if name in self._entries else "the file"
            raise ArtifactError(f"member {name!r:.80} is missing in {where}")
        for name, member in members.items():
            if member.size != self._entries[name].size:
                raise ArtifactError(
                    f"member {name!r} has {self._entries[name].size} bytes, not {member.size}"
                )

    def _damaged(self, what: str) -> ArtifactError:
        return ArtifactError(
            f"{what} is damaged: its digest is wrong", self.path, "copy or write the file again"
        )


@contextmanager
def _digesting(parts: Mapping[str, memoryview]) -> Iterator[Callable[[], Iterator[tuple[str, str]]]]:
    """Names and digests; those of large parts are computed meanwhile, on all cores: no interpreter lock
    is held for them."""
    large = [name for name, part in parts.items() if part.nbytes >= _WORTH_THREADS]
    large.sort(key=lambda name: -parts[name].nbytes)  # the largest first, for an even end
    small = parts.keys() - large
    with ExitStack() as stack:
        computed: Iterator[str] = iter(())
        if large:
            pool = ThreadPoolExecutor(useful_threads())
            stack.callback(pool.shutdown, cancel_futures=True)
            computed = pool.map(lambda name: digest(parts[name]), large)

        def found() -> Iterator[tuple[str, str]]:
            yield from ((name, digest(parts[name])) for name in small)
            yield from zip(large, computed, strict=True)

        yield found


def _map_file(path: str) -> mmap.mmap | bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ArtifactError("this is no regular file", hint="give the path of a .forge file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return b""
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            in_large_pages(mapped)
            return mapped
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(f"the file cannot be opened: {reason}") from error
