"""Taking the vendors' own files out of an executable, for use without forgec."""

from __future__ import annotations

from pathlib import Path

from ..errors import ArtifactError
from .executable import Executable

__all__ = ["write_vendor_files"]


def write_vendor_files(executable: Executable, folder: Path) -> list[Path]:
    """Write the files of every segment that has some into a folder of its own below ``folder``.

    :class:`ArtifactError` if nothing in the executable has such files, or they cannot be written.
    """
    shared = executable.shared
    written: list[Path] = []
    for index, segment in enumerate(executable.plan.segments):
        files = shared.backend(segment.device).vendor_files(shared.code(index))
        place = folder / f"segment{index}-{segment.device}"
        for name, data in files.items():
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data)
            except OSError as error:
                raise ArtifactError(f"cannot write {place / name}: {error.strerror}") from error
            written.append(place / name)
    if not written:
        raise ArtifactError(
            "no part of the program was made by a vendor's compiler",
            hint="compile for one of the NPUs that `forgec targets` lists",
        )
    return written
