"""No tool but a yardstick: a model's arithmetic alone, for what the machine gives, and how evenly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .base import Compiled, Tool

if TYPE_CHECKING:
    from forgec.backends.cpu.native import Team
    from torch import Tensor, nn

__all__ = ["MultiplyAddsTool"]


class MultiplyAddsTool(Tool):
    """As many multiply-adds of f32 as the module's products have, in registers, on all threads.

    Its time is the least that vectors of f32 allow; a tail that it has too is the machine's.
    """

    computes: ClassVar[bool] = False

    def compile(self, module: nn.Module, inputs: Mapping[str, Tensor], threads: int) -> Compiled:
        import torch
        from forgec.backends.cpu import native
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            module(**inputs)
        team = native.Team(threads)
        each = native.multiply_adds(team, 1)
        return _Loop(team, max(1, round(counter.get_total_flops() / each)))


class _Loop(Compiled):
    def __init__(self, team: Team, rounds: int) -> None:
        self._team, self._rounds = team, rounds
        self.stages = {}

    def bind(self, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        from forgec.backends.cpu import native

        return lambda: native.multiply_adds(self._team, self._rounds)

    def arrays(self, outputs: Any) -> list[np.ndarray]:
        return []
