"""Attention fusion: the operator and every way in which it is written out, grouped heads, near-misses."""

from __future__ import annotations

import math

import pytest
import torch
from attention_forms import MIN, NAME, additive, causal, only_attention, qkv, repeat_kv, written_out
from pass_checks import Subject, counts, fires, fused, seeded, stays, survives, values
from pass_modules import Apply
from torch import nn
from torch.nn import functional as F

OPERATOR = {
    "plain": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), {}),
    "scaled": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=1.0), {"scale": 1.0}),
    "is_causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), {"causal": True}),
    "bool causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=causal(5)),
        {"causal": True},
    ),
    "bool causal, expanded": (
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=causal(5)[None, None].expand(2, 4, -1, -1)
        ),
        {"causal": True},
    ),
    "window": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=causal(5, window=3)),
        {"causal": True, "window": 3},
    ),
    "float causal": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=additive(causal(5))),
        {"causal": True},
    ),
    "float causal, -inf": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=additive(causal(5), -math.inf)),
        {"causal": True},
    ),
    "all true": (
        lambda q, k, v: F.scaled_dot_product_attention(
            q, k, v, attn_mask=torch.ones(2, 1, 1, 5, dtype=torch.bool)
        ),
        {},
    ),
    "dropout off": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.0), {}),
}


@pytest.mark.parametrize("form", OPERATOR)
def test_operator(form):
    function, wanted = OPERATOR[form]
    graph = fires(NAME, Subject(Apply(function), *qkv()), attention=1, scaled_dot_product_attention=0)
    attributes = only_attention(graph)
    assert attributes["mask"] is None
    assert {k: attributes[k] for k in ("causal", "window")} == {
        "causal": wanted.get("causal", False), "window": wanted.get("window", 0)
    }  # fmt: skip
    assert attributes["scale"] == pytest.approx(wanted.get("scale", 8**-0.5))


def guarded(weights: torch.Tensor, instead: float = 0.0) -> torch.Tensor:
    """As exporters spell out that a row of which everything is excluded gives zeros."""
    return torch.where(torch.isnan(weights), instead, weights)


WRITTEN = {
    "plain": (lambda q, k, v: written_out(q, k, v), {}),
    "divided": (
        lambda q, k, v: F.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(8), dim=-1) @ v,
        {"scale": 8**-0.5},
    ),
    "divided by a tensor": (
        lambda q, k, v, root: F.softmax(torch.matmul(q, k.transpose(-1, -2)) / root, dim=-1) @ v,
        {"scale": 0.5},
    ),
    "unscaled": (
        lambda q, k, v: F.softmax(torch.matmul(q, k.transpose(3, 2)), dim=3) @ v,
        {"scale": 1.0},
    ),
    "scaled queries": (
        lambda q, k, v: F.softmax((q * 0.25) @ k.mT, dim=-1) @ v,
        {"scale": 0.25},
    ),
    "causal": (lambda q, k, v: written_out(q, k, v, terms=[additive(causal(5))]), {"causal": True}),
    "window": (
        lambda q, k, v: written_out(q, k, v, terms=[additive(causal(5, window=2))]),
        {"causal": True, "window": 2},
    ),
    "soft-capped": (
        lambda q, k, v: written_out(q, k, v, softcap=3.0, terms=[additive(causal(5))]),
        {"causal": True, "softcap": 3.0},
    ),
    "filled, -inf": (
        lambda q, k, v: written_out(q, k, v, fill=(~causal(5), -math.inf)),
        {"causal": True},
    ),
    "filled, small": (
        lambda q, k, v: written_out(q, k, v, fill=(causal(5) == 0, -1e9)),
        {"causal": True},
    ),
    "where": (
        lambda q, k, v: F.softmax(torch.where(causal(5), q @ k.mT, torch.full([], MIN)), dim=-1) @ v,
        {"causal": True, "scale": 1.0},
    ),
    "where, other side": (
        lambda q, k, v: F.softmax(torch.where(~causal(5), MIN, q @ k.mT), dim=-1) @ v,
        {"causal": True, "scale": 1.0},
    ),
    "mask first": (
        lambda q, k, v: F.softmax(additive(causal(5)) + q @ k.mT, dim=-1) @ v,
        {"causal": True, "scale": 1.0},
    ),
    "keys scaled too": (
        lambda q, k, v: F.softmax((q * 0.5) @ (k.transpose(2, 3) * 0.6), dim=-1) @ v,
        {"scale": 0.3},
    ),
    "rows without anything as zeros": (
        lambda q, k, v: guarded(F.softmax(0.3 * (q @ k.mT) + additive(causal(5), -math.inf), dim=-1)) @ v,
        {"causal": True},
    ),
    "filled with zeros": (
        lambda q, k, v: (s := F.softmax(0.3 * (q @ k.mT), dim=-1)).masked_fill(s.isnan(), 0.0) @ v,
        {},
    ),
    "two equal masks": (
        lambda q, k, v: written_out(q, k, v, terms=[additive(causal(5), -math.inf), torch.zeros(1, 1, 1, 5)]),
        {"causal": True},
    ),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_written_out(form):
    function, wanted = WRITTEN[form]
    buffers = {"root": torch.tensor(2.0)} if form == "divided by a tensor" else {}
    graph = fires(NAME, Subject(Apply(function, **buffers), *qkv()), attention=1, softmax=0, matmul=0, tanh=0)
    attributes = only_attention(graph)
    assert attributes["mask"] is None
    assert {k: attributes[k] for k in ("causal", "window", "softcap")} == {
        "causal": wanted.get("causal", False),
        "window": wanted.get("window", 0),
        "softcap": wanted.get("softcap", 0.0),
    }
    assert attributes["scale"] == pytest.approx(wanted.get("scale", 0.3))


def test_both_forms_become_the_same():
    one = Subject(
        Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3, is_causal=True)), *qkv()
    )
    other = Subject(Apply(WRITTEN["causal"][0]), *qkv())
    assert counts(one.optimised()) == counts(other.optimised())


@pytest.mark.parametrize("repeat", [repeat_kv, lambda x, n: x.repeat_interleave(n, dim=1)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("operator", [True, False])
def test_grouped_heads_are_not_repeated(repeat, kv_heads, operator):
    def attend(q, k, v):
        k, v = repeat(k, 4 // kv_heads), repeat(v, 4 // kv_heads)
        return F.scaled_dot_product_attention(q, k, v) if operator else written_out(q, k, v)

    graph = fires(
        NAME, Subject(Apply(attend), *qkv(kv_heads=kv_heads)), attention=1, expand=0, repeat_interleave=0
    )
    (node,) = fused(graph, "attention")
    assert [x.op for x in node.args[:3]] == ["placeholder"] * 3


def test_grouped_heads_of_the_operator():
    attend = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    fires(NAME, Subject(attend, *qkv(kv_heads=2)), attention=1)


def test_heads_repeated_on_one_side_only_stay_repeated():
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, repeat_kv(k, 2), v)

    q, k, _ = qkv(kv_heads=2)
    graph = fires(NAME, Subject(Apply(attend), q, k, values(2, 4, 5, 8, seed=3)), attention=1)
    assert counts(graph)["expand"] == 1


def test_heads_tiled_instead_of_repeated_stay_tiled():
    def attend(q, k, v):
        k, v = (x[:, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)

    graph = fires(NAME, Subject(Apply(attend), *qkv(kv_heads=2)), attention=1)
    assert counts(graph)["expand"] == 2

    def in_front(q, k, v):
        k, v = (x[:, :, None].expand(2, 1, 2, 1, 5, 8).reshape(1, 4, 5, 8) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)

    graph = fires(NAME, Subject(Apply(in_front), *qkv(batch=1, kv_heads=2)), attention=1)
    assert counts(graph)["expand"] == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    example = qkv(dtype=dtype)
    low = additive(causal(5)).clamp_min(torch.finfo(dtype).min).to(dtype)
    for attend in (
        lambda q, k, v: written_out(q, k, v, terms=[low], wide=torch.float32),
        lambda q, k, v: F.softmax((q @ k.mT * 0.3 + low).float(), dim=-1).type_as(q) @ v,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        graph = fires(NAME, Subject(Apply(attend), *example), attention=1, to=0, softmax=0)
        assert only_attention(graph)["causal"] is True


def test_keys_permuted_at_once():
    """[batch, length, heads, size] straight to k^T."""

    def attend(q, k, v):
        return F.softmax(q @ k.permute(0, 2, 3, 1), dim=-1) @ v

    q, k, v = qkv()
    graph = fires(NAME, Subject(Apply(attend), q, k.transpose(1, 2).contiguous(), v), attention=1, softmax=0)
    assert counts(graph)["permute"] == 1
    turned = Apply(lambda q, k, v: F.softmax(q @ k, dim=-1) @ v)
    fires(NAME, Subject(turned, q, k.mT.contiguous(), v), attention=1, softmax=0)


def test_scale_of_queries_is_taken_through_head_splitting():
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(32, 32)

        def forward(self, x, k, v):
            q = (self.project(x) * 0.5).view(2, 5, 4, 8).transpose(1, 2)
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    _, k, v = qkv()
    graph = fires(NAME, Subject(seeded(Split()), values(2, 5, 32), k, v), attention=1, mul=0)
    assert only_attention(graph)["scale"] == 0.5


def test_scale_of_queries_that_others_read_stays():
    def attend(q, k, v):
        q = q * 0.5
        return F.scaled_dot_product_attention(q, k, v, scale=1.0), q

    assert counts(fires(NAME, Subject(Apply(attend), *qkv()), attention=1))["mul"] == 1

    def itself(q, k, v):
        x = q * 0.5
        return F.scaled_dot_product_attention(x, x, x, scale=1.0)

    assert counts(fires(NAME, Subject(Apply(itself), *qkv()), attention=1))["mul"] == 1

    def split(q, k, v):
        x = (q.transpose(1, 2) * 0.5).transpose(1, 2)
        return F.scaled_dot_product_attention(x, k, v, scale=1.0), x

    assert counts(fires(NAME, Subject(Apply(split), *qkv()), attention=1))["mul"] == 1


NEAR = {
    "ones for NaN": lambda q, k, v: guarded(F.softmax(q @ k.mT, dim=-1), 1.0) @ v,
    "zeros for NaN elsewhere": lambda q, k, v: torch.where(q[..., :5].isnan(), 0.0, F.softmax(q @ k.mT, dim=-1)) @ v,
    "guarded weights are a result": lambda q, k, v: (w := guarded(F.softmax(q @ k.mT, dim=-1)), w @ v),
    "softmax over the rows": lambda q, k, v: F.softmax(q @ k.mT, dim=-2) @ v,
    "no softmax": lambda q, k, v: torch.sigmoid(q @ k.mT) @ v,
    "weights are a result": lambda q, k, v: (w := F.softmax(q @ k.mT, dim=-1), w @ v),
    "scores are a result": lambda q, k, v: (s := q @ k.mT, F.softmax(s, dim=-1) @ v),
    "masked scores are read twice": lambda q, k, v: (s := q @ k.mT + 1.5 * k.mT[..., :1, :], F.softmax(s, -1) @ v + s @ v),
    "mask is scaled": lambda q, k, v: F.softmax(torch.add(q @ k.mT, additive(causal(5), -9.0), alpha=2), dim=-1) @ v,
    "scale differs by head": lambda q, k, v: F.softmax(q @ k.mT * torch.arange(1.0, 5)[:, None, None], dim=-1) @ v,
    "mask of another batch": lambda q, k, v: F.softmax(q[:1] @ k[:1].mT + q[..., :1].mT, dim=-1) @ v,
    "mask before the scale": lambda q, k, v: F.softmax((q @ k.mT + k.mT[..., :1, :]) * 0.5, dim=-1) @ v,
    "soft cap of another size": lambda q, k, v: F.softmax(torch.tanh(q @ k.mT / 3.0) * 2.0, dim=-1) @ v,
    "weights are changed": lambda q, k, v: (F.softmax(q @ k.mT, dim=-1) + 0.1) @ v,
    "lower precision softmax": lambda q, k, v: F.softmax((q @ k.mT).to(torch.bfloat16), dim=-1).to(q.dtype) @ v,
}  # fmt: skip


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Apply(NEAR[form]), *qkv()), attention=0)


def test_other_ranks_are_right():
    for shape in ((5, 8), (4, 5, 8), (2, 2, 4, 5, 8)):
        attend = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        stays(
            NAME, Subject(attend, values(*shape), values(*shape, seed=1), values(*shape, seed=2)), attention=0
        )
        masked = Apply(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m))
        mask = values(*shape[:-1], 5, seed=3)
        stays(
            NAME,
            Subject(masked, values(*shape), values(*shape, seed=1), values(*shape, seed=2), mask),
            attention=0,
        )


def test_broadcast_batches_and_heads_are_right():
    q, k, v = qkv()
    attend = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    stays(NAME, Subject(attend, q, k[:1], v[:1]), attention=0)
    stays(NAME, Subject(attend, q, k[:, :1], v), attention=0)
    fires(NAME, Subject(attend, q, k[:, :1], v[:, :1]), attention=1)


def test_empty_sequences_and_single_rows():
    attend = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    fires(NAME, Subject(attend, *qkv(rows=1)), attention=1)
    survives(Subject(attend, *qkv(batch=0)))
    survives(Subject(attend, values(1, 2, 0, 8), *qkv(batch=1, heads=2)[1:]))
