"""Where errors become messages and exit codes: no verb shows a traceback.

A :class:`ForgecError` is printed as its text and leaves with its exit code; anything else is our bug: the
traceback goes to a file and the message names it. Ctrl-C leaves with 130, SIGTERM with 143, SIGHUP with 129,
a closed pipe with 141, as any program that such a signal ends; what was started ends, temporary files go.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import typer

from .. import debug
from ..errors import ForgecError, InternalError, OptionError
from ..report.terminal import BAD, Printer, styled
from ..version import __version__
from .signals import EXIT_SIGNAL, Signalled, unwinding

__all__ = [
    "EXIT_CHECK",
    "EXIT_TARGET",
    "EXIT_UNSUPPORTED",
    "Verb",
    "boundary",
    "outermost",
    "verb",
    "wrote",
]

EXIT_CHECK, EXIT_UNSUPPORTED, EXIT_TARGET = 1, 3, 5
_EXIT_PIPE = 141

_REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
"""What a write fails with by no fault of forgec."""

_written: list[Path] = []


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
        with unwinding():
            yield
            sys.stdout.flush()
    except (typer.Exit, typer.Abort):
        raise
    except KeyboardInterrupt as end:
        number = end.number if isinstance(end, Signalled) else signal.SIGINT
        files = ", ".join(map(str, _written))
        _message("interrupted, " + (f"written before: {files}" if files else "no file written"))
        raise typer.Exit(EXIT_SIGNAL + number) from None
    except BrokenPipeError:
        _abandon_stdout()
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
        known = _refusal(error) if isinstance(error, OSError) else None
        if known is None:
            _internal(error, f"{type(error).__name__}: {error}")
            raise typer.Exit(1) from None
        _message(known.text())
        raise typer.Exit(known.exit_code) from None


@contextmanager
def outermost() -> Iterator[None]:
    """The boundary around the command itself: help, a version, and what is still to be written at the end."""
    try:
        yield
    except SystemExit as end:
        try:
            sys.stdout.flush()
        except OSError as error:
            _abandon_stdout()
            if not isinstance(error, BrokenPipeError):
                _message(_stdout_refused(error).text())
            end.code = _EXIT_PIPE if isinstance(error, BrokenPipeError) else 1
        raise
    except OSError as error:
        known = _refusal(error)
        if known is None:
            raise
        _message(known.text())
        raise SystemExit(known.exit_code) from None


def _refusal(error: OSError) -> ForgecError | None:
    """What the system would not let be written, if that is what failed: stdout, or a file of the dump."""
    dump = _dump()
    if (
        dump is not None
        and error.filename is not None
        and Path(os.fsdecode(error.filename)).is_relative_to(dump)
    ):
        return OptionError(
            f"the dump cannot be written: {error.strerror}",
            os.fsdecode(error.filename),
            "another folder for --dump or FORGEC_DUMP",
        )
    if error.errno not in _REFUSED or error.filename is not None:
        return None
    try:
        print(flush=True)
    except OSError:
        _abandon_stdout()
        return _stdout_refused(error)
    return ForgecError(f"a file cannot be written: {error.strerror}")


def _stdout_refused(error: OSError) -> ForgecError:
    return ForgecError(
        f"the results cannot be written to stdout: {error.strerror}", hint="send them elsewhere"
    )


def _abandon_stdout() -> None:
    """Give what is left in stdout somewhere to go: Python flushes it once more when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(text: str) -> None:
    first, _, rest = text.partition("\n")
    with suppress(OSError):
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


def _dump() -> Path | None:
    try:
        return debug.knobs().dump
    except OptionError:
        return None


def _debugging() -> bool:
    try:
        return debug.knobs().debug > 0
    except OptionError:  # the knobs themselves may be what is wrong
        return False
