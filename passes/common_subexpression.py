"""Compute equal expressions once.

*Before* two nodes with the same target, arguments and keyword arguments. *After* the first of them.
*Does not fire when* the nodes have an effect or give random numbers, or arguments differ in type only (1 and
1.0, True and 1).

Hash-consing in one sweep: arguments are compared after their own duplicates were merged.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from ..graph import CapturedGraph, write_state
from .base import GraphPass, is_random, is_structural, replace


class CommonSubexpression(GraphPass):
    name = "common_subexpression"

    def run(self, captured: CapturedGraph) -> int:
        return sum(_merge(graph) for _, graph in self.each(captured))


def _merge(graph: fx.Graph) -> int:
    seen: dict[Any, fx.Node] = {}
    merged = 0
    for node in list(graph.nodes):
        if node.op == "get_attr":
            key: Any = ("get_attr", node.target)
        elif node.op == "call_function" and not _has_effect(node) and not is_structural(node):
            key = (node.target, _freeze(node.args), _freeze(node.kwargs))
        else:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            merged += node.op == "call_function"
            replace(node, first)
    return merged


def _has_effect(node: fx.Node) -> bool:
    return node.target is write_state or is_random(node)


def _freeze(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return value
    if isinstance(value, list | tuple):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, dict):
        return tuple(sorted((key, _freeze(v)) for key, v in value.items()))
    return type(value), repr(value)
