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
    """``forgec.compile`` with default options: its check against eager, which packs the weights and runs the
    result, is part of the compile."""

    check: ClassVar[bool] = True

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import forgec

        os.environ["FORGEC_THREADS"] = str(threads)
        return _Program(forgec.compile(module, (), inputs, target="cpu", check=self.check))


class UncheckedForgecTool(ForgecTool):
    """The same without the check, which the others do not have: weights are packed at the first run."""

    check = False


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
