"""Several programs in one file: prefill and decode of a language model, or one program for several shapes.

They share one copy of the weights, by the keys of their constants, and their states, by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import TracebackType

import numpy as np

from ..errors import ArtifactError, InputError
from ..ir.program import Constant
from .archive import is_entry
from .constants import Constants
from .executable import Executable
from .states import States
from .stored import common_states, load_entries, save_entries

__all__ = ["Programs", "load_programs"]


class Programs(Mapping[str, Executable]):
    """Executables by name; the first one is the main program, which ``forgec.load`` gives."""

    def __init__(self, entries: Mapping[str, Executable]) -> None:
        """Of executables compiled one by one: from now on they share constants and states.

        Raises :class:`ArtifactError` if two of them have states of one name and other types, or a name is
        none that a file can have.
        """
        wrong = next((name for name in entries if not is_entry(name)), None)
        if wrong is not None:
            raise ArtifactError(f"a program cannot be called {wrong!r}", hint="use letters, digits, '.', '-'")
        shared = [executable.shared for executable in entries.values()]
        constants = _union([(s.plan.program.constants, s.constants) for s in shared])
        initial = {name: array for s in shared for name, array in s.initial.items()}
        states = States(common_states([s.plan.program.states for s in shared]), initial)
        for one in shared:
            one.constants = constants
        self._entries = {name: Executable.of(e.shared, states, e.threads) for name, e in entries.items()}

    @classmethod
    def _of(cls, entries: Mapping[str, Executable]) -> Programs:
        self = cls.__new__(cls)
        self._entries = dict(entries)
        return self

    def __getitem__(self, name: str) -> Executable:
        if name not in self._entries:
            named = ", ".join(filter(None, self))
            hint = f"one of: {named}" if named else "it has one, which has no name"
            raise InputError(f"there is no program {name!r} in the file", hint=hint)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<forgec programs {', '.join(self)} of {self.main.info.name!r} for {self.main.info.target}>"

    @property
    def main(self) -> Executable:
        """The first program; it also has the file's info and extra files."""
        return next(iter(self._entries.values()))

    def clone(self) -> Programs:
        """The same programs with states and arenas of their own; constants are shared."""
        states = self.main.states.copy()
        return Programs._of({name: Executable.of(e.shared, states) for name, e in self.items()})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.forge`` file, whole or not at all; each constant is computed, written and released.

        Raises :class:`ArtifactError` if the file cannot be written.
        """
        save_entries(path, self._entries)

    def close(self) -> None:
        """Release arenas and states."""
        for executable in self.values():
            executable.close()

    def __enter__(self) -> Programs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def load_programs(
    path: str | os.PathLike[str], verify_weights: bool = True, hold_weights: bool = False
) -> Programs:
    """All programs of a ``.forge`` file; one that has a single program gives that, under the name ``""``.

    Weights are mapped: a load is quick, and processes share them. With ``hold_weights``, and where the system
    does not map the file in large pages, they are read into such of this process, which every later run reads
    faster, unless they take over half of the memory that is available. Raises :class:`ArtifactError` as
    ``forgec.load`` does.
    """
    return Programs._of(load_entries(path, verify_weights, hold_weights))


def _union(tables: list[tuple[Mapping[str, Constant], Constants]]) -> Constants:
    """One table over those of several programs: constants of equal keys are computed and kept once."""
    kept = tables[0][1].kept
    for _, constants in tables[1:]:
        kept.arrays.update(constants.kept.arrays)
        kept.derived.update(constants.kept.derived)
        constants.kept = kept
    owners = {constant.key: owner for table, owner in tables for constant in table.values()}

    def compute(constant: Constant) -> np.ndarray:
        return owners[constant.key].once(constant)

    return Constants(compute, lambda constant: owners[constant.key].at_hand(constant), kept)
