"""Run captured graphs with torch, to check passes against eager. Never part of an artifact."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..graph import CapturedGraph, call_block, read_state, write_state

__all__ = ["apply", "evaluate"]


def evaluate(captured: CapturedGraph, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Results of the main graph on flat inputs; states are read at their initial values and not kept."""
    with torch.no_grad():
        return _run(captured, captured.graph, list(inputs), {})


def _run(
    captured: CapturedGraph, graph: fx.Graph, inputs: list[torch.Tensor], binding: dict[str, str]
) -> list[torch.Tensor]:
    env: dict[fx.Node, Any] = {}
    given = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            name = str(node.target)
            env[node] = captured.constants[binding.get(name, name)]
        elif node.op == "output":
            return [env[value] for value in node.args[0]]
        else:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), env.__getitem__)
            if node.target is call_block:
                block = captured.blocks[args[0]]
                env[node] = tuple(_run(captured, block.graph, list(args[2:]), block.instances[args[1]]))
            elif node.target is read_state:
                state = captured.states[args[0]]
                env[node] = torch.zeros_like(state, device="cpu") if state.is_meta else state.clone()
            elif node.target is write_state:
                env[node] = None
            elif node.target is operator.getitem:
                env[node] = args[0][args[1]]
            else:
                env[node] = apply(node.target, args, kwargs)
    raise AssertionError("a graph ends with its output node")


def apply(target: Any, args: Any, kwargs: Any) -> Any:
    """One operator on values. Strides mean nothing in captured graphs, so a view may copy."""
    if target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
        target = torch.ops.aten.reshape.default
    return target(*args, **kwargs)
