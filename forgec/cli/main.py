"""The entry point of ``forgec``. Importing it imports no verb: they are imported when signals are heeded."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any

from .signals import heed_signals

if TYPE_CHECKING:
    from .verbs import app

__all__ = ["app", "main"]

_QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .verbs import app

    return app


def main() -> None:
    """Run the command and leave with its exit code."""
    heed_signals()
    _prepare_streams()
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    from .boundary import outermost
    from .verbs import app

    with outermost():
        app(prog_name="forgec")


def _prepare_streams() -> None:
    """Let stdout and stderr show what they cannot encode; leave if there is no stdout at all."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.exit("error: stdout is closed, and results go there\n  try: send them to a file or /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
