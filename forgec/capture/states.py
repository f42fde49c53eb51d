"""Inputs that a program gives back changed become its states: read at the start of a run, written at its end.

A model with an explicit cache (``models.decoder``) is a function from caches to caches. Bound to states, the
caches are neither given nor returned any more; without, they stay inputs and outputs, as an NPU wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from ..errors import CaptureError
from ..executable.signature import Signature, Spec, TensorLeaf, tensor_leaves
from ..graph import CapturedGraph, node_type, read_state, torch_dtype, write_state

__all__ = ["bind_states", "without_states"]


def bind_states(graph: CapturedGraph, pairs: Mapping[str, str]) -> None:
    """Make states, zero at first, of the inputs that ``pairs`` names; each takes the value of an output.

    ``pairs`` maps a keyword input to an entry of the dictionary that the model returns; both are tensors, or
    equal structures of them. Raises ``CaptureError`` if they are not.
    """
    signature = graph.signature
    given, returned = _leaves(signature.kwargs, pairs), _leaves(signature.outputs, pairs.values())
    if [leaf.type for leaf in given] != [leaf.type for leaf in returned]:
        raise CaptureError(
            f"inputs {list(pairs)} and outputs {list(pairs.values())} are not of equal types",
            hint="a state takes values of one type",
        )
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    output = next(iter(reversed(graph.graph.nodes)))
    results: list[fx.Node] = list(output.args[0])
    first = _first_operator(graph.graph)
    for before, after in zip(given, returned, strict=True):
        old = placeholders[before.index]
        kind = node_type(old)
        with graph.graph.inserting_before(first):
            read = graph.graph.call_function(read_state, (before.name,))
        read.meta = dict(old.meta)
        old.replace_all_uses_with(read)
        with graph.graph.inserting_before(output):
            written = graph.graph.call_function(write_state, (before.name, results[after.index]))
        written.meta = {"type": (), "source": results[after.index].meta.get("source")}
        graph.graph.erase_node(old)
        # On the meta device: a state that starts at zero and takes no memory until it runs.
        graph.states[before.name] = torch.empty(kind.shape, dtype=torch_dtype(kind.dtype), device="meta")
    gone = {leaf.index for leaf in returned}
    output.args = (tuple(value for i, value in enumerate(results) if i not in gone),)
    graph.signature = without_states(signature, pairs)


def without_states(signature: Signature, pairs: Mapping[str, str]) -> Signature:
    """The signature without the inputs and outputs that became states."""
    kwargs, outputs = _without(signature.kwargs, pairs), _without(signature.outputs, pairs.values())
    inputs: dict[int, int] = {}
    for leaf in sorted((*tensor_leaves(signature.args), *tensor_leaves(kwargs)), key=lambda leaf: leaf.index):
        inputs[leaf.index] = len(inputs)
    results = {leaf.index: i for i, leaf in enumerate(sorted(tensor_leaves(outputs), key=lambda x: x.index))}
    parameters = tuple(name for name in signature.parameters if name not in pairs)
    return Signature(
        _renumbered(signature.args, inputs),
        _renumbered(kwargs, inputs),
        _renumbered(outputs, results),
        parameters,
    )


def _first_operator(graph: fx.Graph) -> fx.Node:
    return next(node for node in graph.nodes if node.op not in ("placeholder", "get_attr"))


def _leaves(spec: Spec, names: Any) -> list[TensorLeaf]:
    items = spec["items"] if spec["kind"] == "dict" else {}
    for name in names:
        if name not in items:
            raise CaptureError(f"there is no {name!r} to make a state of", hint=f"one of: {', '.join(items)}")
    return [leaf for name in names for leaf in tensor_leaves(items[name])]


def _without(spec: Spec, names: Any) -> Spec:
    return {**spec, "items": {key: item for key, item in spec["items"].items() if key not in set(names)}}


def _renumbered(spec: Spec, numbers: Mapping[int, int]) -> Spec:
    if spec["kind"] == "tensor":
        return {**spec, "index": numbers[spec["index"]]}
    items = spec.get("items")
    if isinstance(items, dict):
        return {**spec, "items": {key: _renumbered(item, numbers) for key, item in items.items()}}
    if isinstance(items, list):
        return {**spec, "items": [_renumbered(item, numbers) for item in items]}
    return spec
