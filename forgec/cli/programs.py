"""The compiled program that a verb is given: which of a file's it is, and what its times are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import OptionError
from .files import require_file

if TYPE_CHECKING:
    from ..executable import Executable

__all__ = ["Kind", "kind_of", "kind_on", "load_program", "names_in"]

Kind = Literal["measured", "emulated"]


def load_program(
    file: Path, *, target: str | None = None, program: str | None = None, threads: int | None = None
) -> Executable:
    """The program of a file for a target, or of a name; without either the one that ``forgec.load`` gives.

    :class:`InputError` if there is no such file or program, :class:`OptionError` for a target and a name.
    """
    from .. import executable as artifact

    require_file(file)
    if program is None:
        return artifact.load(file, threads=threads, target=target)
    if target is not None:
        raise OptionError("--program and --target both choose the program", hint="give one of the two")
    executable = artifact.load_programs(file)[program]
    executable.threads = threads
    return executable


def names_in(file: Path) -> list[str]:
    """The programs of a file by name, the main one first; none if it has but one."""
    from ..executable.reader import Archive

    manifest = Archive(file).manifest
    return [manifest.entry, *manifest.entries] if manifest.entries else []


def kind_of(executables: Iterable[Executable]) -> Kind:
    """ "emulated" if any device of the programs is a stand-in here, whose times say nothing of it."""
    used = {(e, segment.device) for e in executables for segment in e.plan.segments}
    return "emulated" if any(kind_on(e, device) == "emulated" for e, device in used) else "measured"


def kind_on(executable: Executable, device: str) -> Kind:
    """What times of a program's device are here."""
    kind: Kind = executable.shared.backend(device).kind
    return kind
