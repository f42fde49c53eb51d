"""The verbs, in the order in which the help lists them."""

from __future__ import annotations

from .analyze import analyze
from .app import app
from .bench import bench
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

__all__ = ["app"]

_VERBS = (
    demo, compile, run, generate, chat, show, verify, analyze, bench, profile, repro, targets, doctor,
    toolchain,
)  # fmt: skip
for _verb in _VERBS:
    _verb.register(app)
