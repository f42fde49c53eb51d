"""Files that are there whole or not at all.

The contents go to a temporary file in the destination's folder, which takes the destination's name at the end
by one atomic rename, after everything has reached the disk. Whatever ends the writing early, a full disk or
an interrupt, removes the temporary file and leaves an older file at the destination untouched.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import ArtifactError

__all__ = ["atomic_file"]

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def atomic_file(path: str | os.PathLike[str], size: int) -> Iterator[BinaryIO]:
    """An empty binary file, open for writing ``size`` bytes, that becomes ``path`` when the block ends well.

    Raises :class:`ArtifactError` if the destination is no place for a file, before anything is written if the
    disk has no room, and for every failure of the system.
    """
    _check_kind(path)
    target = Path(os.path.realpath(path))
    _check_destination(target, size)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _explain(error, target, size) from error
        raise


def _check_kind(path: str | os.PathLike[str]) -> None:
    """Refuse what is there and can hold no file; a link to a pipe has no path to resolve."""
    with suppress(OSError):
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
            raise ArtifactError(
                f"the output exists and is no regular file: it is {kind}",
                os.fspath(path),
                "name another file",
            )


def _check_destination(target: Path, size: int) -> None:
    if target.is_dir():
        raise ArtifactError("the output is a directory", str(target), "name a file, for example model.forge")
    if not target.parent.is_dir():
        raise ArtifactError("the output's directory does not exist", str(target), f"mkdir -p {target.parent}")
    if _free(target) < size:
        raise _disk_full(target, size)


def _explain(error: OSError, target: Path, size: int) -> ArtifactError:
    if error.errno in _FULL:
        return _disk_full(target, size)
    if error.errno == errno.EFBIG:
        return ArtifactError(
            f"the file is larger than files may be here: it needs {size:,} bytes{_limit()}",
            str(target),
            "raise the limit, see ulimit -f, or write to another file system",
        )
    return ArtifactError(f"the file cannot be written: {error.strerror or error}", str(target))


def _limit() -> str:
    """The process's limit on the size of a file, in words; empty if there is none."""
    try:
        import resource
    except ImportError:
        return ""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return "" if limit == resource.RLIM_INFINITY else f", and the limit is {limit:,}"


def _disk_full(target: Path, size: int) -> ArtifactError:
    return ArtifactError(
        f"the disk is full: the file needs {size:,} bytes, and {_free(target):,} are free",
        str(target),
        "free some space, or write to another disk",
    )


def _free(target: Path) -> int:
    """Free bytes of the destination's disk."""
    return shutil.disk_usage(target.parent).free


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system has a way to."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
