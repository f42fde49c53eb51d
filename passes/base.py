"""What a pass is, and what it may know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from ..capture.graph import CapturedGraph, call_block

__all__ = ["Context", "GraphPass", "NodePass", "Pass"]


@dataclass
class Context:
    """The captured model around the graph that a pass works on."""

    captured: CapturedGraph

    def constant(self, node: Any) -> torch.Tensor | None:
        """The tensor of a ``get_attr`` node, unless it differs between a block's instances."""
        if isinstance(node, fx.Node) and node.op == "get_attr":
            return self.captured.constants.get(str(node.target))
        return None

    def add_constant(self, tensor: torch.Tensor, hint: str) -> str:
        """A new constant that all instances share; gives its name."""
        number = 0
        while (name := f"folded.{hint}.{number}") in self.captured.constants:
            number += 1
        self.captured.constants[name] = tensor
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


def is_structural(node: fx.Node) -> bool:
    """Calls of blocks keep their argument lists; only the pass on blocks may change them."""
    return node.op == "call_function" and node.target is call_block
