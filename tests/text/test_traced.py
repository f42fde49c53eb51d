"""Direct traces: for every family what torch.export makes of the same call, node by node."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from forgec.models import load as load_model
from forgec.models import names
from forgec.models.decoder import decoder_of
from text_models import CONFIGS, PRESETS, RECURRENT, load
from torch import fx
from torch.utils import _pytree as pytree

from forgec.capture import capture
from forgec.capture.evaluate import evaluate
from forgec.capture.trace import TraceError
from forgec.debug import override
from forgec.graph import CapturedGraph

FAST = ("gpt2", "llama", "bert-base-tiny")
IN_PLACE = ("mixtral", "t5-small.encoder-tiny", "big_bird", *RECURRENT)
"""Their code changes tensors in place: an export of it has simpler operators, which compute the same."""
COMPLEX = ("deepseek_v2", "llama4_text")
"""An export cannot say what their complex numbers are."""
RANGES = ("roformer",)
"""An export does not know how long their ranges of positions are."""


def cases(*names: str) -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


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
        order = [n for n in graph.nodes if n in alive and n.op != "get_attr"]
        shown = {node: f"%{i}" for i, node in enumerate(order)}
        shown |= {node: str(node.target) for node in alive if node.op == "get_attr"}
        for node in order:
            operands = fx.node.map_arg(operands_of(node), shown.__getitem__)
            target = str(node.target) if node.op == "call_function" else ""
            source = node.meta.get("source") if node.op == "call_function" else None
            found.append((name, calls, target, str(operands), node.meta.get("type"), source))
    return found


def assert_traced_as_exported(name, model, other, args, kwargs, monkeypatch, capsys) -> None:
    """A call captured directly is the same as ``other``, a model like it, exported with its blocks."""
    module = importlib.import_module("forgec.capture.tracers")

    def never(*_: object) -> None:
        raise TraceError("exported here")

    with monkeypatch.context() as patched:
        patched.setattr(module, "trace", never)
        wanted = capture(other, args, kwargs, fake=True).graph
    capsys.readouterr()
    with override({"debug": "1"}):
        traced = capture(model, args, kwargs, fake=True).graph
    assert "captured by torch.export" not in capsys.readouterr().err
    if name in IN_PLACE:
        inputs = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        torch.testing.assert_close(evaluate(traced, inputs), evaluate(wanted, inputs))
    else:
        assert described(traced) == described(wanted)
    shapes = {name: (tuple(x.shape), x.dtype) for name, x in wanted.constants.items()}
    assert {name: (tuple(x.shape), x.dtype) for name, x in traced.constants.items()} == shapes
    blocks = [(block.name, block.instances) for block in wanted.blocks.values()]
    assert [(block.name, block.instances) for block in traced.blocks.values()] == blocks


@pytest.mark.slow
@pytest.mark.parametrize("family", cases(*PRESETS, *(c for c in CONFIGS if c not in (*COMPLEX, *RANGES))))
def test_a_decoder_is_traced_as_an_export_does(family, tmp_path, monkeypatch, capsys):
    """For a chunk and for one token."""
    model = load(family, tmp_path)
    context = min((model.max_tokens or 88) - 8, 80)  # padding of a chunk has positions too
    decoder = decoder_of(model, context, [8])
    other = decoder_of(load(family, tmp_path), context, [8])
    for tokens in (8, 1):
        args, kwargs = decoder.example(tokens)
        assert_traced_as_exported(family, decoder, other, args, kwargs, monkeypatch, capsys)


@pytest.mark.parametrize("name", cases(*names(tiny=True)))
def test_a_preset_is_traced_as_an_export_does(name, monkeypatch, capsys):
    model, other = (load_model(name) for _ in range(2))
    args, kwargs = model.example_inputs()
    assert_traced_as_exported(name, model.module, other.module, args, kwargs, monkeypatch, capsys)
