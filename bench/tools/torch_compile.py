"""``torch.compile`` with its default backend, Inductor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from .base import Compiled, Stages, Tool
from .eager import TorchProgram

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchCompileTool"]


class TorchCompileTool(Tool):
    """Compiles at the first call, which therefore counts as the compile."""

    variables: ClassVar[Mapping[str, str]] = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}

    def missing(self) -> str | None:
        return None if shutil.which("g++") or shutil.which("clang++") else "no C++ compiler for Inductor"

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import torch

        torch.set_num_threads(threads)
        torch.compiler.reset()
        stages = Stages()
        compiled = torch.compile(module)
        with stages.stage("first call"), torch.no_grad():
            compiled(**inputs)
        return TorchProgram(compiled, stages.ms)
