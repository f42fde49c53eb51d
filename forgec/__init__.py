"""forgec compiles PyTorch transformers ahead of time into one file that runs without PyTorch.

    import forgec

    exe = forgec.compile(model, (ids, mask), target="cpu")
    exe.report.print()
    exe.save("model.forge")

    exe = forgec.load("model.forge")            # needs no PyTorch
    outputs = exe(ids, mask)

Importing this package imports neither PyTorch nor numpy; every name below is loaded at its first use.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .errors import (
    ArtifactError,
    BackendError,
    CaptureError,
    FidelityError,
    ForgecError,
    InputError,
    InternalError,
    ModelError,
    OptionError,
    ParseError,
    PlanError,
    TargetError,
    UnsupportedOpError,
    VerifyError,
)
from .version import __version__

if TYPE_CHECKING:
    from . import models
    from .bucketing import compile_buckets
    from .compile import compile
    from .executable import Buckets, Dim, Executable, Programs, load, load_programs
    from .language import compile_language_model
    from .multitarget import compile_targets
    from .options import Options
    from .report.report import Report
    from .text import LLM, Sampling

__all__ = [
    "LLM",
    "ArtifactError",
    "BackendError",
    "Buckets",
    "CaptureError",
    "Dim",
    "Executable",
    "FidelityError",
    "ForgecError",
    "InputError",
    "InternalError",
    "ModelError",
    "OptionError",
    "Options",
    "ParseError",
    "PlanError",
    "Programs",
    "Report",
    "Sampling",
    "TargetError",
    "UnsupportedOpError",
    "VerifyError",
    "__version__",
    "compile",
    "compile_buckets",
    "compile_language_model",
    "compile_targets",
    "load",
    "load_programs",
    "models",
]

_LAZY = {
    "Buckets": "executable",
    "Dim": "executable",
    "compile_buckets": "bucketing",
    "LLM": "text",
    "Executable": "executable",
    "Options": "options",
    "Programs": "executable",
    "Report": "report.report",
    "Sampling": "text",
    "compile": "compile",
    "compile_language_model": "language",
    "compile_targets": "multitarget",
    "load": "executable",
    "load_programs": "executable",
}


def __getattr__(name: str) -> Any:
    if name == "models":
        return import_module(".models", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps ``forgec.compile`` the function: importing the submodule of that name would bind the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "compile" and isinstance(value, ModuleType):
            value = value.compile
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
