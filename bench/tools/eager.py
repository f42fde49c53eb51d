"""Eager PyTorch: nothing is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Compiled, Tool

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["EagerTool", "TorchProgram"]


class EagerTool(Tool):
    """The module itself, without gradients."""

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import torch

        torch.set_num_threads(threads)
        return TorchProgram(module, {})


class TorchProgram(Compiled):
    """A callable that takes and returns tensors."""

    def __init__(self, module: Any, stages: Mapping[str, float]) -> None:
        self._module = module
        self.stages = stages

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        import torch

        module = self._module

        def run() -> Any:
            with torch.no_grad():
                return module(**inputs)

        return run

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        import torch
        from torch.utils import _pytree as pytree

        return [x.numpy() for x in pytree.tree_leaves(outputs) if isinstance(x, torch.Tensor)]
