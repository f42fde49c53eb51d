"""Ranges whose ends a trace does not know, but whose length: ``torch.arange(position, position + 8)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

__all__ = ["Ranges"]


class Ranges(TorchFunctionMode):
    """While this is entered, such a range is one of its length, moved; ``node`` gives a tensor's node."""

    def __init__(self, node: Callable[[torch.Tensor], fx.Node]) -> None:
        super().__init__()
        self._node = node

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is torch.arange:
            given = dict(zip(("start", "end", "step"), args, strict=False)) | named
            start, end = given.pop("start", None), given.pop("end", None)
            if isinstance(start, FakeTensor) and isinstance(end, FakeTensor) and given.pop("step", 1) == 1:
                length = self._distance(start, end)
                if length is not None:
                    return start + torch.arange(length, **given)
        return func(*args, **named)

    def _distance(self, start: torch.Tensor, end: torch.Tensor) -> int | None:
        """By how much a number is more than another, if both were made of one by adding."""
        (base, less), (other, more) = map(self._offset, (start, end))
        return more - less if base is other else None

    def _offset(self, tensor: torch.Tensor) -> tuple[fx.Node, int]:
        """A node, and the whole number that was added to it."""
        node, added = self._node(tensor), 0
        while node.target is torch.ops.aten.add.Tensor and type(node.args[1]) is int and not node.kwargs:
            assert isinstance(node.args[0], fx.Node)
            node, added = node.args[0], added + node.args[1]
        return node, added
