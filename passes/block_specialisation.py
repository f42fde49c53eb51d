"""Let a repeated block know what all its calls have in common.

*Before* every call of a block passes the same constant (mask, rotary table) as an argument; a parameter or result of
a block that nobody uses.
*After* the constant stands inside the block, where the fusions see it; the parameter or result is gone.
*Does not fire when* two calls pass different values, or the value depends on an input.
"""

from __future__ import annotations

import operator

from torch import fx

from ..capture.graph import Block, CapturedGraph, call_block
from .base import GraphPass, replace
from .shapes import is_constant_expression


class BlockSpecialisation(GraphPass):
    name = "block_specialisation"

    def run(self, captured: CapturedGraph) -> int:
        total = 0
        for block in captured.blocks.values():
            calls = [
                node
                for node in captured.graph.find_nodes(op="call_function", target=call_block)
                if node.args[0] == block.name
            ]
            if calls:
                total += _sink_constants(block, calls) + _drop_unused_results(block, calls)
                total += _drop_unused_parameters(block, calls)
        return total


def _sink_constants(block: Block, calls: list[fx.Node]) -> int:
    count = 0
    for index, placeholder in enumerate(_placeholders(block.graph)):
        passed = {call.args[2 + index] for call in calls}
        value = next(iter(passed))
        if len(passed) == 1 and placeholder.users and isinstance(value, fx.Node) and is_constant_expression(value):
            with block.graph.inserting_before(_first_operator(block.graph)):
                copy = _clone(value, block.graph, {})
            placeholder.replace_all_uses_with(copy)
            count += 1
    return count


def _clone(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Copy a constant expression into another graph."""
    if node not in copies:
        for source in node.all_input_nodes:
            _clone(source, graph, copies)
        copies[node] = graph.node_copy(node, lambda n: copies[n])
    return copies[node]


def _drop_unused_parameters(block: Block, calls: list[fx.Node]) -> int:
    placeholders = _placeholders(block.graph)
    kept = [i for i, node in enumerate(placeholders) if node.users]
    if len(kept) == len(placeholders):
        return 0
    for call in calls:
        call.args = (*call.args[:2], *(call.args[2 + i] for i in kept))
    for node in placeholders:
        if not node.users:
            block.graph.erase_node(node)
    return len(placeholders) - len(kept)


def _drop_unused_results(block: Block, calls: list[fx.Node]) -> int:
    """Results that no call uses, and results that are a parameter passed through."""
    output = next(iter(reversed(block.graph.nodes)))
    results = list(output.args[0])
    placeholders = _placeholders(block.graph)
    count = 0
    for call in calls:
        for item in list(call.users):
            result = results[item.args[1]]
            if result in placeholders:
                replace(item, call.args[2 + placeholders.index(result)])  # type: ignore[arg-type]
                count += 1
    used = sorted({int(item.args[1]) for call in calls for item in call.users})
    if len(used) == len(results):
        return count
    output.args = (tuple(results[i] for i in used),)
    for call in calls:
        call.meta["type"] = tuple(call.meta["type"][i] for i in used)
        for item in list(call.users):
            assert item.target is operator.getitem
            item.args = (call, used.index(item.args[1]))
    return count + len(results) - len(used)


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _first_operator(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))
