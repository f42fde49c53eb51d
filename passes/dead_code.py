"""Remove nodes whose value nobody uses.

*Before* a node without users that has no effect. *After* nothing.
*Does not fire when* the node writes a state or is an input of its graph.
"""

from __future__ import annotations

from torch import fx

from ..graph import CapturedGraph, operators, write_state
from .base import GraphPass

__all__ = ["DeadCode", "erase_dead"]


class DeadCode(GraphPass):
    name = "dead_code"

    def run(self, captured: CapturedGraph) -> int:
        total = 0
        for _, graph in self.each(captured):
            before = len(operators(graph))
            erase_dead(graph)
            total += before - len(operators(graph))
        return total


def erase_dead(graph: fx.Graph) -> None:
    """Erase dead nodes, users before what they used; linear."""
    for node in reversed(graph.nodes):
        if not node.users and node.op in ("call_function", "get_attr") and node.target is not write_state:
            graph.erase_node(node)
