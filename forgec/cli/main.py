"""The entry point of ``forgec``: the verbs, in the order in which the help lists them."""

from __future__ import annotations

import io
import os
import sys

# Each import registers one verb with the app, so their order is the order of the help.
from . import demo  # noqa: F401, I001
from . import compile  # noqa: F401
from . import run  # noqa: F401
from . import show  # noqa: F401
from . import verify  # noqa: F401
from . import analyze  # noqa: F401
from . import bench  # noqa: F401
from . import targets  # noqa: F401
from . import doctor  # noqa: F401
from .app import app

__all__ = ["app", "main"]

_QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}


def main() -> None:
    """Run the command and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    app(prog_name="forgec")
