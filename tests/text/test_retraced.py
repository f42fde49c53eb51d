"""Decoders traced again: for every family what torch.export makes of the same call, node by node."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from forgec.models.decoder import decoder_of
from text_models import CONFIGS, PRESETS, load
from torch import fx

from forgec.capture import capture
from forgec.capture.retrace import RetraceError
from forgec.debug import override
from forgec.graph import CapturedGraph

FAST = ("gpt2", "llama", "lfm2", "longrope")
EXPORTED = ("mixtral",)
"""Their code changes tensors in place."""


def operands_of(node: fx.Node) -> Any:
    """By the names of the operator's schema, with what is left out; without a flag that is for GPUs alone."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args
    arguments = node.target._schema.arguments
    named = {a.name: a.default_value for a in arguments if a.has_default_value()}
    named |= dict(zip((a.name for a in arguments), node.args, strict=False)) | node.kwargs
    return {name: value for name, value in named.items() if name != "cudnn_enable"}


def described(captured: CapturedGraph) -> list[tuple[Any, ...]]:
    """Every node that something depends on: operator, operands by number, constants by name, type, source."""
    found: list[tuple[Any, ...]] = []
    for name, graph, calls in captured.graphs():
        output = next(iter(reversed(graph.nodes)))
        alive: set[fx.Node] = set()
        waiting = [output, *(node for node in graph.nodes if node.op == "placeholder")]
        while waiting:
            node = waiting.pop()
            if node not in alive:
                alive.add(node)
                waiting += node.all_input_nodes
        order = [node for node in graph.nodes if node in alive and node.op != "get_attr"]
        shown = {node: f"%{i}" for i, node in enumerate(order)}
        shown |= {node: str(node.target) for node in alive if node.op == "get_attr"}
        for node in order:
            operands = fx.node.map_arg(operands_of(node), shown.__getitem__)
            target = str(node.target) if node.op == "call_function" else ""
            source = node.meta.get("source") if node.op == "call_function" else None
            found.append((name, calls, target, str(operands), node.meta.get("type"), source))
    return found


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in FAST else pytest.mark.slow) for f in (*PRESETS, *CONFIGS)],
)
def test_a_second_trace_is_that_of_an_export(family, tmp_path, monkeypatch, capsys):
    """For a chunk and for one token, each exported, blocks too, and traced in turn."""
    module = importlib.import_module("forgec.capture.tracers")

    def never(*_: object) -> None:
        raise RetraceError("exported here")

    model = load(family, tmp_path)
    context = min(model.max_tokens or 80, 80)
    decoder = decoder_of(model, context, [8])
    for tokens in (8, 1):
        args, kwargs = decoder.example(tokens)
        other = decoder.example(9 - tokens)
        fresh = decoder_of(load(family, tmp_path), context, [8])
        with monkeypatch.context() as patched:
            patched.setattr(module, "retrace_module", never)
            exported = capture(fresh, args, kwargs, fake=True).graph
        capture(decoder, *other, fake=True)
        capsys.readouterr()
        with override({"debug": "1"}):
            traced = capture(decoder, args, kwargs, fake=True).graph
        assert ("torch.export again" in capsys.readouterr().err) is (family in EXPORTED)
        assert described(traced) == described(exported)
        shapes = {name: (tuple(x.shape), x.dtype) for name, x in exported.constants.items()}
        assert {name: (tuple(x.shape), x.dtype) for name, x in traced.constants.items()} == shapes
        blocks = [(block.name, block.instances) for block in exported.blocks.values()]
        assert [(block.name, block.instances) for block in traced.blocks.values()] == blocks
