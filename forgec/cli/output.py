"""What verbs print: results to stdout as text or one JSON document, notes and progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from ..report.codec import to_plain
from ..report.terminal import DIM, Printer, styled

__all__ = ["Format", "Output", "Progress"]

Progress = Callable[[str, int, int], None]
"""``progress(phase, done, total)``."""


class Format(StrEnum):
    """Values of ``--format``."""

    text = "text"
    json = "json"


class Output:
    """The two streams of one verb."""

    def __init__(self, fmt: Format, quiet: bool) -> None:
        self._json = fmt is Format.json
        self._quiet = quiet
        self._out, self._err = Printer(sys.stdout), Printer(sys.stderr)

    def result(self, document: Any, text: Callable[[Printer], None]) -> None:
        """Print a result: ``document`` as JSON, or what ``text`` prints."""
        if self._json:
            sys.stdout.write(
                json.dumps(to_plain(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            )
        else:
            text(self._out)

    def prompt(self, text: str) -> None:
        """Ask a person for a line."""
        sys.stderr.write(text)
        sys.stderr.flush()

    def note(self, text: str) -> None:
        """A line about what is happening; ``--quiet`` leaves it out."""
        if not self._quiet:
            self._err.line(styled(text, DIM))

    @contextmanager
    def progress(self) -> Iterator[Progress | None]:
        """A progress callback: a bar on a terminal, a line per phase in a pipe, nothing with ``--quiet``."""
        if self._quiet:
            yield None
        elif self._err.terminal:
            with _bar() as callback:
                yield callback
        else:
            yield _lines(self)


def _lines(output: Output) -> Progress:
    last = ""

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal last
        if phase != last:
            output.note(f"{phase} ...")
        last = phase

    return progress


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description:<10}"), BarColumn(), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield progress
