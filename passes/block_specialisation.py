"""Let a repeated block know what all its calls have in common.

*Before* every call of a block passes the same constant (mask, rotary table), or an expanded value, as an
argument; the same constant, or one of equal value, bound in every instance; a parameter or result of a block
that nobody uses; a parameter that a block gives back.
*After* the constant or the expand stands inside the block, where the fusions see it; the parameter or result
is gone.
*Does not fire when* two calls pass different values, the value depends on an input, or equal constants are
over ``COMPARED`` bytes.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from ..graph import Block, CapturedGraph, call_block, new_call, node_type
from .base import GraphPass, replace
from .shapes import is_constant_expression

aten = torch.ops.aten
COMPARED = 2**20


class BlockSpecialisation(GraphPass):
    name = "block_specialisation"

    def run(self, captured: CapturedGraph) -> int:
        total = 0
        for block in captured.blocks.values():
            calls = block_calls(captured, block)
            if calls:
                total += _drop_unused_results(block, calls) + _share_constants(captured, block)
                total += _sink_constants(block, calls) + _sink_expands(block, calls)
                total += _drop_unused_parameters(block, calls)
        return total


def block_calls(captured: CapturedGraph, block: Block) -> list[fx.Node]:
    """The calls of a block, in order."""
    calls = captured.graph.find_nodes(op="call_function", target=call_block)
    return sorted(node for node in calls if node.args[0] == block.name)


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def first_operator(graph: fx.Graph) -> fx.Node:
    """Where to insert what reads parameters and constants alone."""
    return next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))


def _share_constants(captured: CapturedGraph, block: Block) -> int:
    """Read a constant that is the same in every instance under one name."""
    bindings = list(block.instances.values())
    shared = {
        local: name
        for local, name in bindings[0].items()
        if all(_same(captured, name, other[local]) for other in bindings[1:])
    }
    if not shared:
        return 0
    for node in block.graph.find_nodes(op="get_attr"):
        node.target = shared.get(str(node.target), node.target)
    block.instances = {
        instance: {local: name for local, name in binding.items() if local not in shared}
        for instance, binding in block.instances.items()
    }
    return len(shared)


def _same(captured: CapturedGraph, name: str, other: str) -> bool:
    a, b = captured.constants[name], captured.constants[other]
    return name == other or (a.numel() * a.element_size() <= COMPARED and torch.equal(a, b))


def _sink_constants(block: Block, calls: list[fx.Node]) -> int:
    count = 0
    for index, placeholder in enumerate(placeholders(block.graph)):
        passed = {call.args[2 + index] for call in calls}
        value = next(iter(passed))
        if (
            len(passed) == 1
            and placeholder.users
            and isinstance(value, fx.Node)
            and is_constant_expression(value)
        ):
            with block.graph.inserting_before(first_operator(block.graph)):
                copy = _clone(value, block.graph, {})
            placeholder.replace_all_uses_with(copy)
            count += 1
    return count


def _clone(node: fx.Node, graph: fx.Graph, copies: dict[fx.Node, fx.Node]) -> fx.Node:
    """Copy a constant expression into another graph."""
    if node not in copies:
        for source in node.all_input_nodes:
            _clone(source, graph, copies)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return copies[node]


def _sink_expands(block: Block, calls: list[fx.Node]) -> int:
    """Expand a parameter inside the block if every call passes an expanded value of one type."""
    count = 0
    for index, placeholder in enumerate(placeholders(block.graph)):
        passed: list[fx.Node] = [call.args[2 + index] for call in calls]
        if not placeholder.users or any(value.target is not aten.expand.default for value in passed):
            continue
        sources: list[fx.Node] = [value.args[0] for value in passed]
        if any(node_type(source) != node_type(sources[0]) for source in sources):
            continue
        with block.graph.inserting_before(first_operator(block.graph)):
            shape = list(node_type(placeholder).shape)
            expand = new_call(block.graph, aten.expand.default, (placeholder, shape), like=placeholder)
        placeholder.replace_all_uses_with(expand)
        expand.update_arg(0, placeholder)
        placeholder.meta["type"] = node_type(sources[0])
        for call, source in zip(calls, sources, strict=True):
            call.update_arg(2 + index, source)
        count += 1
    return count


def _drop_unused_parameters(block: Block, calls: list[fx.Node]) -> int:
    parameters = placeholders(block.graph)
    kept = [i for i, node in enumerate(parameters) if node.users]
    if len(kept) == len(parameters):
        return 0
    for call in calls:
        call.args = (*call.args[:2], *(call.args[2 + i] for i in kept))
    for node in parameters:
        if not node.users:
            block.graph.erase_node(node)
    return len(parameters) - len(kept)


def _drop_unused_results(block: Block, calls: list[fx.Node]) -> int:
    """Results that no call uses, and results that are a parameter passed through."""
    output = next(iter(reversed(block.graph.nodes)))
    results: list[fx.Node] = list(output.args[0])
    parameters = placeholders(block.graph)
    count = 0
    for call in calls:
        for item in list(call.users):
            result = results[_index(item)]
            if result in parameters:
                replace(item, call.args[2 + parameters.index(result)])
                count += 1
    used = sorted({_index(item) for call in calls for item in call.users})
    if len(used) == len(results):
        return count
    output.args = (tuple(results[i] for i in used),)
    for call in calls:
        call.meta["type"] = tuple(call.meta["type"][i] for i in used)
        for item in list(call.users):
            item.args = (call, used.index(_index(item)))
    return count + len(results) - len(used)


def _index(item: fx.Node) -> int:
    """Which result of a call an item of it is."""
    assert item.target is operator.getitem
    return int(item.args[1])
