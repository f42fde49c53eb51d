"""What a pass is, and what it may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import xxhash
from torch import fx

from ..capture.evaluate import apply
from ..graph import STRUCTURE, CapturedGraph, call_block

__all__ = ["FOLDED", "Context", "GraphPass", "NodePass", "Pass", "is_random", "is_structural", "replace"]

FOLDED = "folded."
"""Prefix of the names of constants that passes made; all others are the model's own."""


@dataclass
class Context:
    """The captured model around the graph that a pass works on."""

    captured: CapturedGraph
    memo: dict[Any, Any] = field(default_factory=dict)
    """What a pass may remember while it runs over one graph."""

    def constant(self, node: Any) -> torch.Tensor | None:
        """The tensor of a ``get_attr`` node, unless it differs between a block's instances."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return self.captured.constants.get(str(node.target))
        return None

    def value(self, node: Any, limit: int = 32) -> torch.Tensor | None:
        """The tensor that an expression of at most ``limit`` nodes over constants alone has, else None."""
        found: dict[fx.Node, Any] = {}

        def evaluate(current: fx.Node) -> bool:
            if current in found:
                return True
            if current.op == "get_attr":
                found[current] = self.constant(current)
                return found[current] is not None
            if current.op != "call_function" or is_random(current) or current.target in STRUCTURE:
                return False
            if len(found) > limit or not all(map(evaluate, current.all_input_nodes)):
                return False
            args, kwargs = fx.node.map_arg((current.args, current.kwargs), found.__getitem__)
            with torch.no_grad():
                found[current] = apply(current.target, args, kwargs)
            return True

        return found[node] if isinstance(node, fx.Node) and evaluate(node) else None

    def add_constant(self, tensor: torch.Tensor, hint: str) -> str:
        """The name of a constant of this value that all instances share; named by its content, so equal ones
        are one."""
        content = tensor.detach().contiguous()
        digest = xxhash.xxh3_64(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy().data)
        name, constants = f"{FOLDED}{hint}.{digest.hexdigest()}", self.captured.constants
        while name in constants and not torch.equal(constants[name], content):
            name += "_"
        constants.setdefault(name, content)
        return name


class Pass(ABC):
    """A rewrite of the captured graphs. ``name`` is its switch; ``fusion`` passes obey the aggressiveness."""

    name: ClassVar[str]
    fusion: ClassVar[bool] = False


class NodePass(Pass):
    """A pass that finds matches at single nodes. ``roots`` are the targets to look at."""

    roots: ClassVar[tuple[Any, ...]]

    @abstractmethod
    def match(self, node: fx.Node, context: Context) -> Any:
        """What :meth:`rewrite` needs if the pass fires at this node, else None. Changes nothing."""

    @abstractmethod
    def rewrite(self, graph: fx.Graph, node: fx.Node, match: Any, context: Context) -> None:
        """Replace the matched nodes. New nodes go before ``node``; dead ones are left to the manager."""


class GraphPass(Pass):
    """A pass that looks at a whole graph, or at all of them."""

    @abstractmethod
    def run(self, captured: CapturedGraph) -> int:
        """Rewrite all graphs; gives the true number of rewrites."""

    @staticmethod
    def each(captured: CapturedGraph) -> list[tuple[Context, fx.Graph]]:
        """Context and graph of the main graph and of every block."""
        return [(Context(captured), graph) for _, graph, _ in captured.graphs()]


def replace(node: fx.Node, new: fx.Node) -> None:
    """Let all users of a node use another, and erase the node."""
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)


def is_random(node: fx.Node) -> bool:
    """Whether an operator gives another value each time."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()) and not _is_inert(node)


def _is_inert(node: fx.Node) -> bool:
    """Dropout in evaluation, and attention without it."""
    if node.target in (torch.ops.aten.dropout.default, torch.ops.aten.feature_dropout.default):
        return not (node.args[2] and node.args[1])
    if node.target is torch.ops.aten.scaled_dot_product_attention.default:
        return not (node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p"))
    return False


def is_structural(node: fx.Node) -> bool:
    """Calls of blocks keep their argument lists; only the pass on blocks may change them."""
    return node.op == "call_function" and node.target is call_block
