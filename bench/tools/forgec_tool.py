"""forgec, as its users call it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Compiled, Tool

if TYPE_CHECKING:
    from torch import Tensor, nn

    from forgec import Executable

__all__ = ["ForgecTool"]


class ForgecTool(Tool):
    """``forgec.compile`` with default options: its check against eager, which runs the result once, is part
    of the compile. Weights are packed at the first run."""

    options: ClassVar[Mapping[str, Any]] = {}

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import forgec

        os.environ["FORGEC_THREADS"] = str(threads)
        return _Program(forgec.compile(module, (), inputs, target="cpu", **self.options))


class UncheckedForgecTool(ForgecTool):
    """The same without the check, which the others do not have."""

    options: ClassVar[Mapping[str, Any]] = {"check": False}


class Int8ForgecTool(ForgecTool):
    """W8A8: int8 weights per channel, activations in int8 by row, scaled while it runs."""

    options: ClassVar[Mapping[str, Any]] = {"weights": "w8a8"}


class _Program(Compiled):
    def __init__(self, executable: Executable) -> None:
        report = executable.report
        assert report is not None
        self._executable, self._report = executable, report
        self.stages = {phase.name: phase.ms for phase in report.phases}

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        executable = self._executable
        return lambda: executable(**arrays)

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        return list(outputs.values()) if isinstance(outputs, dict) else list(outputs)

    def report(self) -> str | None:
        return self._report.to_json()
