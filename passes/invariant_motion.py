"""Compute once what every call of a repeated block would compute alike.

*Before* operators of a block that read nothing but parameters for which all calls pass the same value, and
constants of all instances: a mask that every layer converts, rotary tables from position ids.
*After* the same operators in the main graph, before the first call; their result is a parameter of the block.
*Does not fire when* two calls pass different values, an instance's own constant is read, or the operators
only re-arrange elements (they cost nothing, and an expanded value would cost memory).
"""

from __future__ import annotations

import torch
from torch import fx

from ..graph import STRUCTURE, Block, CapturedGraph, node_type
from .base import GraphPass, is_random
from .block_specialisation import block_calls, placeholders
from .shapes import IDENTITY, PERMUTATIONS, RESHAPES

aten = torch.ops.aten
_VIEWS = (*IDENTITY, *PERMUTATIONS, *RESHAPES, aten.expand.default, aten.slice.Tensor, aten.select.int)


class InvariantMotion(GraphPass):
    name = "invariant_motion"

    def run(self, captured: CapturedGraph) -> int:
        total = 0
        for block in captured.blocks.values():
            calls = block_calls(captured, block)
            if len(calls) > 1:
                total += _move(captured, block, calls)
        return total


def _move(captured: CapturedGraph, block: Block, calls: list[fx.Node]) -> int:
    copies = _common_parameters(block, calls)
    moving = _worth_moving(block.graph, _invariant(block, set(copies)))
    for node in moving:
        with captured.graph.inserting_before(calls[0]):
            value = _copy(node, captured.graph, copies)
        with block.graph.inserting_before(block.graph.output_node()):
            parameter = block.graph.placeholder(f"{node.name}_shared")
        placeholders(block.graph)[-2].append(parameter)
        parameter.meta = {"type": node_type(node), "source": node.meta.get("source")}
        node.replace_all_uses_with(parameter)
        copies[parameter] = value
        for call in calls:
            call.args = (*call.args, value)
    return len(moving)


def _common_parameters(block: Block, calls: list[fx.Node]) -> dict[fx.Node, fx.Node]:
    """Parameters for which all calls pass the same node, and that node."""
    found = {}
    for index, parameter in enumerate(placeholders(block.graph)):
        passed = {call.args[2 + index] for call in calls}
        if len(passed) == 1:
            found[parameter] = passed.pop()
    return found


def _invariant(block: Block, common: set[fx.Node]) -> set[fx.Node]:
    """Operators whose value is the same in every call and not constant."""
    own = set(next(iter(block.instances.values())))
    constants = {n for n in block.graph.find_nodes(op="get_attr") if n.target not in own}
    known = common | constants
    for node in block.graph.nodes:
        single = node.op == "call_function" and not isinstance(node.meta["type"], tuple)
        if not single or node.target in STRUCTURE or is_random(node):
            continue
        inputs = node.all_input_nodes
        if inputs and all(n in known for n in inputs):
            known.add(node)
            if all(n in constants for n in inputs):
                constants.add(node)
    return known - constants - common


def _worth_moving(graph: fx.Graph, invariant: set[fx.Node]) -> list[fx.Node]:
    """The invariant operators whose value is read inside the block, perhaps through views."""
    staying, moving = set(), []
    for node in reversed(graph.nodes):
        if node not in invariant:
            staying.add(node)
        elif any(user in staying for user in node.users):
            if node.target in _VIEWS:
                staying.add(node)
            else:
                moving.append(node)
    return moving[::-1]


def _copy(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Copy an expression over known values into the main graph."""
    if node not in copies:
        for source in node.all_input_nodes:
            _copy(source, graph, copies)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return copies[node]
