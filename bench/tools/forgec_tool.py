"""forgec, as its users call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Compiled, Tool

if TYPE_CHECKING:
    from torch import Tensor, nn

    from forgec import Executable

__all__ = ["ForgecTool"]


class ForgecTool(Tool):
    """``forgec.compile`` with default options: its check against eager is part of the compile.

    It runs once, so weights are packed and memory is mapped when the compile returns.
    """

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import forgec

        executable = forgec.compile(module, (), inputs, target="cpu")
        executable.threads = threads
        executable(**{name: tensor.numpy() for name, tensor in inputs.items()})
        return _Program(executable)


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
