"""The debug knobs: environment variables, read once, that the command line's flags override.

``knobs()`` is what the rest of forgec asks; it reads the environment at its first call. ``override`` puts
other values on top for the length of a ``with`` block; it holds for the whole process, threads included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import OptionError

__all__ = ["TABLE", "Knob", "Knobs", "knobs", "log", "override", "read"]


@dataclass(frozen=True)
class Knobs:
    """Values of the debug knobs; see ``TABLE`` for what they mean."""

    debug: int = 0
    dump: Path | None = None
    verify: int = 1
    passes: tuple[str, ...] = ()
    rewrite_limit: int | None = None


@dataclass(frozen=True)
class Knob:
    """One knob: ``field`` of :class:`Knobs`, its variable, legal values (short, in words), meaning."""

    field: str
    name: str
    metavar: str
    values: str
    meaning: str
    parse: Callable[[str], Any]

    @property
    def flag(self) -> str:
        """The command-line flag, which stands before the verb: ``forgec --debug 2 compile ...``."""
        return "--" + self.field.replace("_", "-")

    def value(self, text: str, given_as: str) -> Any:
        """The value that a text stands for; :class:`OptionError` if it is not legal."""
        try:
            return self.parse(text)
        except ValueError:
            raise OptionError(f"{given_as} is {text!r}, and must be {self.values}") from None


def _up_to(high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not 0 <= number <= high:
            raise ValueError
        return number

    return parse


def _directory(text: str) -> Path:
    path = Path(text).expanduser()
    if not text or (path.exists() and not path.is_dir()):
        raise ValueError
    return path


def _switches(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not all(len(name) > 1 and name[0] == "-" for name in names):
        raise ValueError
    return names


TABLE: tuple[Knob, ...] = (
    Knob(
        "debug",
        "FORGEC_DEBUG",
        "0-4",
        "0 to 4",
        "log to stderr: 1 phases and tracebacks, 2 passes, 3 rewrites, 4 everything",
        _up_to(4),
    ),
    Knob(
        "dump",
        "FORGEC_DUMP",
        "DIR",
        "a directory",
        "write the graph after every pass there, numbered, with diffs",
        _directory,
    ),
    Knob(
        "verify",
        "FORGEC_VERIFY",
        "0-2",
        "0 to 2",
        "check invariants: 0 never, 1 between phases (default), 2 also after every pass",
        _up_to(2),
    ),
    Knob("passes", "FORGEC_PASSES", "-NAME,...", "-name,...", "turn passes off", _switches),
    Knob(
        "rewrite_limit",
        "FORGEC_REWRITE_LIMIT",
        "N",
        "a whole number from 0",
        "stop rewriting after so many rewrites, to find the guilty one by bisection",
        _up_to(sys.maxsize),
    ),
)
"""All knobs, in the order in which the README and ``forgec doctor`` list them."""

_current: Knobs | None = None


def read(environ: Mapping[str, str]) -> Knobs:
    """The knobs that an environment sets; :class:`OptionError` for an illegal value."""
    values = {k.field: k.value(environ[k.name], k.name) for k in TABLE if environ.get(k.name)}
    return Knobs(**values)


def knobs() -> Knobs:
    """The knobs in force."""
    global _current
    if _current is None:
        _current = read(os.environ)
    return _current


@contextmanager
def override(texts: Mapping[str, str | None]) -> Iterator[Knobs]:
    """Put command-line values on top, by field; None leaves a knob as it is."""
    global _current
    before = knobs()
    values = {k.field: k.value(text, k.flag) for k in TABLE if (text := texts.get(k.field)) is not None}
    _current = replace(before, **values)
    try:
        yield _current
    finally:
        _current = before


def log(level: int, message: str | Callable[[], str]) -> None:
    """Write a line to stderr if ``FORGEC_DEBUG`` is at least ``level``; a callable is only then called."""
    if knobs().debug >= level:
        print(f"forgec: {message if isinstance(message, str) else message()}", file=sys.stderr)
