"""What a vendor's compiler fails at: the smallest part that still does, as files that show it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .backends.base import Backend, Constants, Settings, on_failure
from .backends.vendor.portion import smallest
from .errors import BackendError, ForgecError, OptionError
from .ir.printer import to_text
from .ir.program import Program
from .report.compose import versions

__all__ = ["SCHEMA", "Repro", "find_repro", "require_new"]

SCHEMA = "forgec.repro/1"


@dataclass(frozen=True)
class Repro:
    """``program`` is the smallest part of ``whole`` instructions that was seen to fail, ``error`` what the
    whole failed with, ``trials`` how many compiles it took to find out."""

    backend: Backend
    program: Program
    constants: Constants
    error: BackendError
    settings: Settings
    whole: int
    trials: int

    def write(self, folder: Path) -> list[str]:
        """Write a new folder, whole or not at all; the names of its files.

        ``program.ir`` is the part as IR text, ``weights.npz`` its constants, the vendor's own model stands
        beside them, ``log.txt`` is what the compiler printed, ``repro.json`` has the error, the settings and
        all versions. Raises :class:`OptionError` if the folder exists or cannot be written.
        """
        require_new(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            own = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        except OSError as error:
            raise OptionError(f"{folder} cannot be written: {error.strerror}") from error
        try:
            self._write(own)
            own.chmod(0o755)
            os.rename(own, folder)
        except OSError as error:
            raise OptionError(f"{folder} cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return sorted(path.name for path in folder.iterdir())

    def _write(self, folder: Path) -> None:
        (folder / "program.ir").write_text(to_text(self.program), encoding="utf-8")
        values: Any = {name: _plain(self.constants(c)) for name, c in self.program.constants.items()}
        np.savez(folder / "weights.npz", **values)
        for name, data in self._model().items():
            (folder / name).write_bytes(data)
        (folder / "log.txt").write_text(self.error.log, encoding="utf-8")
        (folder / "repro.json").write_text(json.dumps(self.document(), indent=2) + "\n", encoding="utf-8")

    def _model(self) -> dict[str, bytes]:
        """The vendor's model; none if already its emission fails."""
        try:
            return dict(self.backend.model_files(self.program, self.constants))
        except ForgecError:
            return {}

    def document(self) -> dict[str, Any]:
        """What ``repro.json`` says."""
        return {
            "schema": SCHEMA,
            "target": self.backend.name,
            "error": {"what": self.error.what, "where": self.error.where, "hint": self.error.hint},
            "instructions": [
                {"op": instr.op, "source": str(instr.source or "")} for instr in self.program.main.body
            ],
            "of": self.whole,
            "trials": self.trials,
            "settings": asdict(self.settings),
            "versions": versions(),
        }


def _plain(x: np.ndarray) -> np.ndarray:
    """The array, as bytes where numpy's files do not know its element type, which the IR has."""
    return x if x.dtype.isbuiltin == 1 else x.view(f"V{x.itemsize}")


def require_new(folder: Path) -> None:
    """:class:`OptionError` if there is something at the place of a new folder."""
    if folder.exists():
        raise OptionError(f"{folder} exists", hint="name a new folder")


class _Found(Exception):
    def __init__(self, backend: Backend, program: Program, constants: Constants, error: BackendError) -> None:
        self.backend, self.program, self.constants, self.error = backend, program, constants, error


def find_repro(compile_model: Callable[[], Any], settings: Settings) -> Repro | None:
    """What the vendor's compiler fails at first while ``compile_model()`` compiles, made small.

    None if nothing fails. What a target's compiler refuses and forgec then puts on the CPU is a failure too.
    ``settings`` bound the trials, one compile each.
    """
    alone = replace(settings, fold="off")

    def told(
        backend: Backend, segments: Sequence[Program], constants: Constants, error: BackendError
    ) -> None:
        for segment in segments:
            if len(segments) == 1 or _fails(backend, segment, constants, alone):
                raise _Found(backend, segment, constants, error)

    token = on_failure.set(told)
    try:
        compile_model()
    except _Found as failure:
        found = failure
    else:
        return None
    finally:
        on_failure.reset(token)
    trials = 0

    def fails(part: Program) -> bool:
        nonlocal trials
        trials += 1
        return _fails(found.backend, part, found.constants, alone)

    program = smallest(found.program, fails)
    whole = len(found.program.main.body)
    return Repro(found.backend, program, found.constants, found.error, alone, whole, trials)


def _fails(backend: Backend, segment: Program, constants: Constants, settings: Settings) -> bool:
    """Whether the vendor's compiler fails at a segment; what cannot even be emitted is another failure."""
    try:
        backend.compile_all([segment], constants, settings)
    except BackendError:
        return True
    except ForgecError:
        return False
    return False
