"""The constants of a captured program: tensors under the names that its graphs know them by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from .export import ExportedGraph

__all__ = ["ConstantTable", "rename_constants"]


class ConstantTable:
    """Names tensors; the same memory seen twice gets one name (tied weights)."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._by_identity: dict[Any, str] = {}

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """The name of a tensor from now on: that one, unless it is taken or the tensor has one already."""
        storage = tensor.untyped_storage()._cdata
        key = (storage, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in self._by_identity:
            return self._by_identity[key]
        unique, count = name, 1
        while unique in self.tensors:
            unique, count = f"{name}.{count}", count + 1
        self.tensors[unique] = tensor
        self._by_identity[key] = unique
        return unique

    def adopt(self, exported: ExportedGraph) -> dict[str, torch.Tensor]:
        """Add a graph's constants and rename its nodes' targets; gives its states, which are no constants."""
        states = {name: exported.constants[name] for name in sorted(exported.states)}
        constants = {name: t for name, t in exported.constants.items() if name not in states}
        rename_constants(exported.graph, {local: self.add(local, t) for local, t in constants.items()})
        return states


def rename_constants(graph: fx.Graph, rename: Mapping[str, str]) -> None:
    """Let a graph's nodes read constants by other names."""
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = rename.get(str(node.target), node.target)
