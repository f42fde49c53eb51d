"""Models in floats of 16 bits: their programs compute in f32.

A processor has few instructions for such floats, and eager PyTorch rounds to them after every operator; ONNX
Runtime's CPU side computes in f32 too. What is stored, given and returned keeps its type.

*Before* ``y: bf16 = linear(x: bf16, w: bf16)``.
*After* ``y: bf16 = cast(linear(cast(x), cast(w)): f32)``.
*Does not fire* on models most of whose weights are wider, which mean their casts, and on those that look at
the bits of a tensor (``view`` as another type). Linear in the nodes of all graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_map_only

from ..graph import TORCH_DTYPES, CapturedGraph, new_call, read_state, torch_dtype, write_state
from ..ir.types import DType, TensorType

__all__ = ["HALVES", "halves_among", "widen_halves"]

HALVES = {torch.float16: "f16", torch.bfloat16: "bf16"}
"""Floats of 16 bits, and what a precision of them is called."""

_TYPES = {TORCH_DTYPES[dtype] for dtype in HALVES}

aten = torch.ops.aten


def halves_among(tensors: Iterable[torch.Tensor]) -> frozenset[str]:
    """Precisions of 16 bits among the types of tensors."""
    return frozenset(HALVES[t.dtype] for t in tensors if t.dtype in HALVES)


def widen_halves(captured: CapturedGraph) -> frozenset[str]:
    """Let a program most of whose weights are floats of 16 bits compute in f32; which of them there were."""
    floats = [tensor for tensor in captured.constants.values() if tensor.is_floating_point()]
    halves = [tensor for tensor in floats if tensor.dtype in HALVES]
    few = 2 * sum(t.numel() for t in halves) <= sum(t.numel() for t in floats)
    if few or any(_sees_bits(node) for _, graph, _ in captured.graphs() for node in graph.nodes):
        return frozenset()
    for name, graph, _ in captured.graphs():
        _Widening(graph, captured.states if name == "main" else None).run()
    return halves_among(halves)


def _sees_bits(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target is aten.view.dtype


class _Widening:
    """One graph, the main one if it has ``states``. What that is given and returns keeps its type; calls hand
    f32 to those of blocks."""

    def __init__(self, graph: fx.Graph, states: Mapping[str, torch.Tensor] | None) -> None:
        self.graph = graph
        self.states = states
        self.types: dict[fx.Node, TensorType] = {}
        """What nodes were before."""

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node.op == "output":
                self._output(node)
            elif node.target is write_state and self.states is not None:
                name, value = node.args
                node.args = (name, self._as(node, value, self.states[name].dtype))
            elif self._is_typed_outside(node):
                self._read(node)
            else:
                self._computed(node)

    def _is_typed_outside(self, node: fx.Node) -> bool:
        given = node.op == "placeholder" and self.states is not None
        return node.op == "get_attr" or node.target is read_state or given

    def _read(self, node: fx.Node) -> None:
        """What is stored or given: cast for all that read it."""
        if node.meta["type"].dtype not in _TYPES:
            return
        users = list(node.users)
        if not users:
            return
        with self.graph.inserting_before(self._behind(node)):
            wide = _cast(self.graph, node, DType.F32)
        for user in users:
            user.replace_input_with(node, wide)

    def _behind(self, node: fx.Node) -> fx.Node:
        """The first node behind one at which operators may stand: inputs come first."""
        place = node.next
        while place.op in ("placeholder", "get_attr"):
            place = place.next
        return place

    def _computed(self, node: fx.Node) -> None:
        def wide(dtype: torch.dtype) -> torch.dtype:
            return torch.float32 if dtype in HALVES else dtype

        if "type" in node.meta:
            self.types[node] = node.meta["type"]
            node.meta["type"] = _wide(node.meta["type"])
        node.args, node.kwargs = tree_map_only(torch.dtype, wide, (node.args, node.kwargs))

    def _output(self, node: fx.Node) -> None:
        def typed(x: fx.Node) -> fx.Node:
            return self._as(node, x, torch_dtype(self.types[x].dtype)) if x in self.types else x

        if self.states is not None:
            node.args = tree_map_only(fx.Node, typed, node.args)

    def _as(self, at: fx.Node, value: fx.Node, dtype: torch.dtype) -> fx.Node:
        """A value in the type that it has outside."""
        if value.meta["type"].dtype is TORCH_DTYPES[dtype]:
            return value
        with self.graph.inserting_before(at):
            return _cast(self.graph, value, TORCH_DTYPES[dtype])


def _cast(graph: fx.Graph, x: fx.Node, dtype: DType) -> fx.Node:
    kind = replace(x.meta["type"], dtype=dtype)
    return new_call(graph, aten._to_copy.default, (x,), {"dtype": torch_dtype(dtype)}, like=x, type=kind)


def _wide(kind: Any) -> Any:
    if isinstance(kind, tuple):
        return tuple(map(_wide, kind))
    return replace(kind, dtype=DType.F32) if kind.dtype in _TYPES else kind
