"""Files that verbs read and write: output is refused before the work if it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..errors import ArtifactError, InputError

__all__ = ["output_file", "read_text", "require_writable", "write_text"]


def read_text(path: Path) -> str:
    """The text of a file; :class:`InputError` if it cannot be read as such."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def require_writable(path: Path | None) -> None:
    """Find out before the work that a file cannot be written."""
    if path is None:
        return
    if path.is_dir():
        raise ArtifactError(f"cannot write {path}: it is a directory")
    if not path.parent.is_dir():
        raise ArtifactError(
            f"cannot write {path}: there is no directory {path.parent}", hint="create it first"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArtifactError(f"cannot write {path}: permission denied", hint="name another place")


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
