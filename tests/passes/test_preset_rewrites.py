"""The tiny presets through the whole pipeline, with both ways in which transformers writes attention."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from forgec.models.presets import names
from tiers import slow_after

import forgec
from forgec import models
from forgec.ir.inline import inline
from forgec.report.metrics import BOUND_KL, BOUND_MAX_ABS, difference

CAUSAL = ("gpt2", "granite-350m", "qwen2-0.5b", "llama-3.2-1b", "llama-3.1-8b", "lfm2-2.6b")
REDUCTION = {
    "gpt2": 17.4, "granite-350m": 18.7, "qwen2-0.5b": 18.9, "llama-3.2-1b": 16.7, "lfm2-2.6b": 21.9, "llama-3.1-8b": 20.3,
}  # fmt: skip
"""Node reduction in percent that the Forge-UGC paper reports."""

FUSED_AWAY = ("softmax", "rsqrt", "tanh", "erf", "sigmoid", "matmul", "silu")


class Compiled:
    """A tiny preset, compiled for twelve tokens."""

    def __init__(self, name: str, attn: str) -> None:
        self.loaded = models.load(name, attn=attn)
        self.tokens = {} if self.loaded.inputs in (("pixel_values",), ("input_features",)) else {"tokens": 12}
        args, kwargs = self.loaded.example_inputs(**self.tokens)
        self.exe = forgec.compile(self.loaded.module, args, kwargs, check=False)
        self.body = inline(self.exe.program).main.body
        self.counts = Counter(instr.op for instr in self.body)

    def attentions(self):
        return [instr for instr in self.body if instr.op == "attention"]


QUICK = ("gpt2-tiny", "llama-3.2-1b-tiny", "bert-base-tiny", "t5-small.encoder-tiny", "vit-base-tiny")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, attn), id=f"{name}-{attn}", marks=() if name in QUICK else pytest.mark.slow)
        for name in names(tiny=True)
        for attn in ("sdpa", "eager")
    ],
)
def compiled(request) -> Compiled:
    return Compiled(*request.param)


def family(compiled: Compiled) -> str:
    return compiled.loaded.name.removesuffix("-tiny")


@pytest.mark.parametrize("seed", slow_after(1, [1, 2]))
def test_equals_eager(compiled, seed):
    """Other inputs than the example's; masks end in zeros, where the example's are all ones."""
    args, kwargs = compiled.loaded.example_inputs(seed=seed, **compiled.tokens)
    with torch.no_grad():
        wanted = compiled.loaded.module(*args, **kwargs)
    found = compiled.exe(*args, **kwargs)
    for name, tensor in wanted.items():
        metrics = difference(tensor.numpy(), found[name], name)
        assert metrics.max_abs < BOUND_MAX_ABS and metrics.kl < BOUND_KL, (name, metrics)


def test_every_attention_and_activation_is_fused(compiled):
    left = {op: compiled.counts[op] for op in FUSED_AWAY if compiled.counts[op]}
    assert not left
    config = compiled.loaded.config
    layers = getattr(config, "num_hidden_layers", None) or config.decoder_layers
    if family(compiled) == "lfm2-2.6b":
        layers = config.layer_types.count("full_attention")
    per_layer = 2 if family(compiled).endswith(".decoder") else 1
    assert len(compiled.attentions()) == layers * per_layer


def test_causal_masks_are_gone(compiled):
    """A decoder's own attention is causal by an attribute; no mask is computed or stored."""
    if family(compiled) in CAUSAL:
        own = compiled.attentions()
    elif family(compiled) == "whisper-tiny.decoder":
        own = compiled.attentions()[::2]
    else:
        decoder = family(compiled).endswith("decoder")
        assert decoder or not any(instr.attrs.get("causal") for instr in compiled.attentions())
        return
    assert all(instr.attrs.get("causal") and instr.operands[3] is None for instr in own)
    assert not any(result.type.dtype.value == "bool" for instr in compiled.body for result in instr.results)


def test_relative_bias_is_one_constant_of_all_layers(compiled):
    """T5's: bias and causal mask are evaluated when compiling, padding is applied once."""
    if not family(compiled).startswith("t5"):
        return
    masks = {instr.operands[3] for instr in compiled.attentions()}
    assert None not in masks and compiled.counts["where"] <= 1
    if family(compiled).endswith("decoder"):
        assert len(masks) == 2, "one for the tokens, one for the encoder's states"
    assert compiled.counts["log"] == 0


def test_rotary_embedding_is_fused(compiled):
    rotary = {name for name in CAUSAL if name != "gpt2"}
    expected = 2 * len(compiled.attentions()) if family(compiled) in rotary else 0
    assert compiled.counts["rope"] == expected
    assert not expected or (
        compiled.counts["concat"] == compiled.counts["neg"] == compiled.counts["cos"] == 0
    )


def test_projections_are_joined(compiled):
    """No value is the input of two products with constant weights."""
    inputs = Counter(instr.operands[0] for instr in compiled.body if instr.op == "linear")
    states = {r for r in compiled.exe.program.main.params}
    assert all(count == 1 or x in states for x, count in inputs.items())


def test_node_reduction(compiled):
    graph = compiled.exe.report.graph
    reduction = 100 * (1 - graph.nodes_optimised / graph.nodes_captured)
    assert reduction >= REDUCTION.get(family(compiled), 25.0)
