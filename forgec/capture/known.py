"""Values that follow from a module's constants alone.

Code may take a size from a table that it holds: the images of a batch, the paddings of a codec. Tensors
without values cannot tell; the operators that lead to it can, when they are run on the constants. That is
done only where a size asks for it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from .blocks import BLOCK_OP
from .evaluate import apply

__all__ = ["KnownValues", "is_mask"]

_LIMIT = 2**20
"""Bytes of a constant that is looked at: of larger ones a streamed model has no values."""


class KnownValues:
    """Values of a graph's nodes; ``constants`` are the tensors that its ``get_attr`` nodes name. Each node is
    looked at once."""

    def __init__(self, constants: Mapping[str, torch.Tensor]) -> None:
        self._constants = constants
        self._follows: dict[fx.Node, bool] = {}
        self._values: dict[fx.Node, Any] = {}

    def of(self, node: fx.Node) -> torch.Tensor | None:
        """A node's value; None if it depends on an input, a block, a large weight or chance."""
        for step in _before(node, self._follows):
            self._follows[step] = self._is_known(step) and all(map(self._follows.get, step.all_input_nodes))
        if not self._follows[node]:
            return None
        with torch.utils._python_dispatch._disable_current_modes():
            for step in _before(node, self._values):
                self._values[step] = self._computed(step)
        return self._values[node]

    def _is_known(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            tensor = self._constants[str(node.target)]
            return not tensor.is_meta and tensor.numel() * tensor.element_size() <= _LIMIT
        chance = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        return node.op == "call_function" and node.target is not BLOCK_OP and not chance

    def _computed(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self._constants[str(node.target)]
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
        return args[0][args[1]] if node.target is operator.getitem else apply(node.target, args, kwargs)


def _before(node: fx.Node, done: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """A node and all that it depends on but what is ``done``, operands first."""
    found: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        step = waiting[-1]
        missing = [x for x in step.all_input_nodes if x not in done and x not in found]
        if missing and step not in done:
            waiting += missing
        else:
            waiting.pop()
            if step not in done:
                found[step] = None
    return list(found)


def is_mask(value: Any) -> bool:
    """Whether an index says of every place whether it is taken."""
    return isinstance(value, torch.Tensor) and value.dtype in (torch.bool, torch.uint8)
