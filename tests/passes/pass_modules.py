"""Modules made of a function, for tests of passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["Apply", "Call"]


class Call(nn.Module):
    """Calls ``form(module, *inputs)``; ``parts`` are its submodules and buffers."""

    def __init__(self, form: Callable[..., Any], **parts: nn.Module | torch.Tensor) -> None:
        super().__init__()
        self.form = form
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.form(self, *inputs)


class Apply(Call):
    """Calls ``form(*inputs, **buffers)``."""

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.form(*inputs, **dict(self.named_buffers()))
