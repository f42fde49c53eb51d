"""The entry point of ``forgec``: the verbs, in the order in which the help lists them."""

from __future__ import annotations

import io
import os
import sys

from .analyze import analyze
from .app import app
from .bench import bench
from .boundary import Terminated, raise_when_terminated
from .compile import compile
from .demo import demo
from .doctor import doctor
from .generate import chat, generate
from .profile import profile
from .repro import repro
from .run import run
from .show import show
from .targets import targets
from .toolchain import toolchain
from .verify import verify

__all__ = ["app", "main"]

_QUIET_LIBRARIES = {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}

_VERBS = (
    demo, compile, run, generate, chat, show, verify, analyze, bench, profile, repro, targets, doctor,
    toolchain,
)  # fmt: skip
for _verb in _VERBS:
    _verb.register(app)


def main() -> None:
    """Run the command and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    raise_when_terminated()
    try:
        app(prog_name="forgec")
    except Terminated as end:  # outside of a verb
        sys.exit(end.code)
