"""Files that verbs read and write: output is refused before the work if it cannot be written, or if it would
replace what is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import ArtifactError, InputError, OptionError

__all__ = ["output_file", "read_text", "require_file", "require_regular", "require_writable", "write_text"]


def read_text(path: Path) -> str:
    """The text of a file; :class:`InputError` if it cannot be read as such."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def require_file(path: Path) -> None:
    """Find out that there is no such file to read; :class:`InputError`."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check the path") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"cannot read {path}: it is a directory", hint="name a file in it")


def require_writable(
    outputs: Mapping[str, Path | None],
    reads: Iterable[Path] = (),
    folders: Mapping[str, Path | None] | None = None,
) -> None:
    """Find out before the work that an output cannot be written, or would replace a file that is read or
    another output.

    Outputs and output folders are by flag. Raises :class:`OptionError`.
    """
    files = {flag: path for flag, path in outputs.items() if path is not None}
    for path in files.values():
        _require_place(path)
    sources = list(reads)
    for flag, path in files.items():
        if any(_same(path, source) for source in sources):
            raise OptionError(
                f"{flag} {path} is a file that is read, and would be replaced", hint="name another file"
            )
    everything = [
        *files.items(),
        *((flag, path) for flag, path in (folders or {}).items() if path is not None),
    ]
    for index, (flag, path) in enumerate(everything):
        other = next((name for name, place in everything[:index] if _same(path, place)), None)
        if other is not None:
            raise OptionError(f"{other} and {flag} are both {path}", hint="give each a name of its own")


def require_regular(path: Path | None) -> None:
    """Find out before the work that an output which is put in place as a whole is a pipe or a device."""
    if path is not None and path.exists() and not path.is_file():
        raise OptionError(
            f"cannot write {path}: it is no regular file, and a compiled file is put in place as a whole",
            hint="name a file, for example model.forge",
        )


def _require_place(path: Path) -> None:
    if path.is_dir():
        raise OptionError(f"cannot write {path}: it is a directory", hint="name a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"cannot write {path}: there is no directory {path.parent}", hint="create it first")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OptionError(f"cannot write {path}: permission denied", hint="name another place")


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one place; a device or a pipe can be written to twice."""
    if one.exists() and other.exists():
        return os.path.samefile(one, other) and (one.is_file() or one.is_dir())
    return os.path.realpath(one) == os.path.realpath(other)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; :class:`ArtifactError` if it cannot be written."""
    data = text.encode("utf-8")
    with output_file(path, len(data)) as file:
        file.write(data)


@contextmanager
def output_file(path: Path, size: int) -> Iterator[BinaryIO]:
    """A file to write ``size`` bytes or so, there whole or not at all unless it is a device or a pipe.

    Raises :class:`ArtifactError` if it cannot be written.
    """
    if not path.exists() or path.is_file():
        from ..executable.atomic import atomic_file

        with atomic_file(path, size) as file:
            yield file
        return
    try:
        with path.open("wb") as file:
            yield file
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from error
