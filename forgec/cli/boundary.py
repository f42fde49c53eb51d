"""Where errors become messages and exit codes: no verb shows a traceback.

A :class:`ForgecError` is printed as its text and leaves with its exit code; anything else is our bug: the
traceback goes to a file and the message names it. Ctrl-C leaves with 130, a closed pipe with 141, SIGTERM
with 143, as any program that such a signal ends; but what was started is ended first, and temporary files go.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from .. import debug
from ..errors import ForgecError, InternalError, OptionError
from ..report.terminal import BAD, Printer, styled
from ..version import __version__

__all__ = [
    "EXIT_CHECK",
    "EXIT_TARGET",
    "EXIT_UNSUPPORTED",
    "Terminated",
    "Verb",
    "boundary",
    "raise_when_terminated",
    "verb",
    "wrote",
]

EXIT_CHECK, EXIT_UNSUPPORTED, EXIT_TARGET = 1, 3, 5
_EXIT_INTERRUPTED, _EXIT_PIPE = 130, 141

_written: list[Path] = []


class Terminated(BaseException):
    """The process was asked to end; ``code`` is what it leaves with."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def raise_when_terminated() -> None:
    """Let SIGTERM and SIGHUP raise :class:`Terminated`, once: a second one ends the process as it is. Without
    that they would leave a vendor's compiler running and its files behind."""

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Terminated(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup has one ignored
            signal.signal(number, ask)


@dataclass(frozen=True)
class Verb:
    """One verb of the command: its flags and help are those of ``function``."""

    function: Callable[..., None]
    examples: tuple[str, ...]

    def register(self, app: typer.Typer) -> None:
        """Add the verb to the command, behind the boundary, with its examples under the help."""

        @wraps(self.function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            with boundary():
                self.function(*args, **kwargs)

        epilog = "\b\nExamples:\n" + "\n".join(f"  {example}" for example in self.examples)
        app.command(self.function.__name__, epilog=epilog)(guarded)


def verb(*examples: str) -> Callable[[Callable[..., None]], Verb]:
    """Make a function a verb."""
    return lambda function: Verb(function, examples)


def wrote(path: Path) -> None:
    """Remember a finished output file, so that an interruption can say what is there."""
    _written.append(path)


@contextmanager
def boundary() -> Iterator[None]:
    """Turn what goes wrong inside into a message on stderr and ``typer.Exit``."""
    _written.clear()
    try:
        yield
        sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except (KeyboardInterrupt, Terminated) as end:
        ended, code = (
            ("terminated", end.code) if isinstance(end, Terminated) else ("interrupted", _EXIT_INTERRUPTED)
        )
        files = ", ".join(map(str, _written))
        _message(f"{ended}, " + (f"written before: {files}" if files else "no file written"))
        raise typer.Exit(code) from None
    except BrokenPipeError:
        # Python flushes stdout once more when it ends; give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(_EXIT_PIPE) from None
    except InternalError as error:
        _internal(error, error.text())
        raise typer.Exit(error.exit_code) from None
    except ForgecError as error:
        _message(error.text())
        if _debugging():
            traceback.print_exc()
        raise typer.Exit(error.exit_code) from None
    except MemoryError:
        _message("out of memory\n  try: fewer --tokens, --batch or --layers")
        raise typer.Exit(1) from None
    except Exception as error:
        _internal(error, f"{type(error).__name__}: {error}")
        raise typer.Exit(1) from None


def _message(text: str) -> None:
    first, _, rest = text.partition("\n")
    printer = Printer(sys.stderr)
    printer.line(styled("error: ", BAD), first)
    if rest:
        printer.line(rest)


def _internal(error: BaseException, what: str) -> None:
    """Report a bug of ours: the traceback into a file, its path to the user."""
    trace = "".join(traceback.format_exception(error))
    text = f"forgec {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
    text += f"command: {sys.argv}\n\n{trace}"
    try:
        handle, path = tempfile.mkstemp(prefix="forgec-internal-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        where = path
    except OSError as failure:
        where = f"nowhere, the report could not be written ({failure.strerror})"
    _message(f"internal error, a bug in forgec: {what}\n  at: {where}\n  try: send us that file")
    if _debugging():
        print(trace, file=sys.stderr)


def _debugging() -> bool:
    try:
        return debug.knobs().debug > 0
    except OptionError:  # the knobs themselves may be what is wrong
        return False
