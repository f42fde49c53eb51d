"""Attention fusion: the operator and every way in which it is written out, masks, grouped heads,
near-misses."""

from __future__ import annotations

import math

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, redraw, seeded, settle, stays, survives, values
from torch import nn
from torch.nn import functional as F

NAME = "attention_fusion"
MIN = torch.finfo(torch.float32).min


def causal(rows: int, length: int | None = None, window: int = 0) -> torch.Tensor:
    """True where row i may see column j; rows are the last ones of ``length``."""
    length = length or rows
    distance = torch.arange(rows)[:, None] + (length - rows) - torch.arange(length)[None, :]
    return (distance >= 0) & (distance < window) if window else distance >= 0


def additive(mask: torch.Tensor, low: float = MIN) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, low)


def repeat_kv(x: torch.Tensor, n: int) -> torch.Tensor:
    """As transformers repeats keys and values."""
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, n, length, size).reshape(batch, heads * n, length, size)


class Call(nn.Module):
    """A function of q, k, v and perhaps more, with buffers."""

    def __init__(self, function, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, *args: torch.Tensor):
        return self.function(*args, **dict(self.named_buffers()))


def qkv(batch=2, heads=4, kv_heads=None, rows=5, length=None, size=8, dtype=torch.float32):
    shape = (batch, kv_heads or heads, length or rows, size)
    return (
        values(batch, heads, rows, size, dtype=dtype),
        values(*shape, seed=1, dtype=dtype),
        values(*shape, seed=2, dtype=dtype),
    )


def written_out(q, k, v, *, scale=0.3, terms=(), fill=None, softcap=0.0, wide=None):
    scores = torch.matmul(q, k.transpose(2, 3)) * scale
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    for term in terms:
        scores = scores + term
    if fill is not None:
        scores = scores.masked_fill(*fill)
    weights = F.softmax(scores, dim=-1, dtype=wide).to(q.dtype)
    return torch.matmul(F.dropout(weights, 0.1, training=False), v)


def padded(generator: torch.Generator, example):
    """Redrawn inputs whose boolean mask leaves something in every row."""
    drawn = redraw(example, generator)
    for x in drawn:
        if x.dtype is torch.bool:
            x[..., 0] = True
    return drawn


def only_attention(graph) -> dict:
    """The attributes of the one attention that is left."""
    (node,) = fused(graph, "attention")
    for gone in ("softmax", "matmul", "scaled_dot_product_attention"):
        assert counts(graph)[gone] == 0
    return {**node.kwargs, "mask": node.args[3]}


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
    graph = fires(NAME, Subject(Call(function), *qkv()), attention=1, scaled_dot_product_attention=0)
    attributes = only_attention(graph)
    assert attributes["mask"] is None
    assert {k: attributes[k] for k in ("causal", "window")} == {
        "causal": wanted.get("causal", False), "window": wanted.get("window", 0)
    }  # fmt: skip
    assert attributes["scale"] == pytest.approx(wanted.get("scale", 8**-0.5))


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
    "two equal masks": (
        lambda q, k, v: written_out(q, k, v, terms=[additive(causal(5), -math.inf), torch.zeros(1, 1, 1, 5)]),
        {"causal": True},
    ),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_written_out(form):
    function, wanted = WRITTEN[form]
    buffers = {"root": torch.tensor(2.0)} if form == "divided by a tensor" else {}
    graph = fires(NAME, Subject(Call(function, **buffers), *qkv()), attention=1, softmax=0, matmul=0, tanh=0)
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
        Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3, is_causal=True)), *qkv()
    )
    other = Subject(Call(WRITTEN["causal"][0]), *qkv())
    assert counts(one.optimised()) == counts(other.optimised())


@pytest.mark.parametrize("repeat", [repeat_kv, lambda x, n: x.repeat_interleave(n, dim=1)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("operator", [True, False])
def test_grouped_heads_are_not_repeated(repeat, kv_heads, operator):
    def attend(q, k, v):
        k, v = repeat(k, 4 // kv_heads), repeat(v, 4 // kv_heads)
        return F.scaled_dot_product_attention(q, k, v) if operator else written_out(q, k, v)

    graph = fires(
        NAME, Subject(Call(attend), *qkv(kv_heads=kv_heads)), attention=1, expand=0, repeat_interleave=0
    )
    (node,) = fused(graph, "attention")
    assert [x.op for x in node.args[:3]] == ["placeholder"] * 3


def test_grouped_heads_of_the_operator():
    attend = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    fires(NAME, Subject(attend, *qkv(kv_heads=2)), attention=1)


def test_heads_repeated_on_one_side_only_stay_repeated():
    def attend(q, k, v):
        return F.scaled_dot_product_attention(q, repeat_kv(k, 2), v)

    q, k, _ = qkv(kv_heads=2)
    graph = fires(NAME, Subject(Call(attend), q, k, values(2, 4, 5, 8, seed=3)), attention=1)
    assert counts(graph)["expand"] == 1


def test_heads_tiled_instead_of_repeated_stay_tiled():
    def attend(q, k, v):
        k, v = (x[:, None].expand(2, 2, 2, 5, 8).reshape(2, 4, 5, 8) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)

    graph = fires(NAME, Subject(Call(attend), *qkv(kv_heads=2)), attention=1)
    assert counts(graph)["expand"] == 2

    def in_front(q, k, v):
        k, v = (x[:, :, None].expand(2, 1, 2, 1, 5, 8).reshape(1, 4, 5, 8) for x in (k, v))
        return F.scaled_dot_product_attention(q, k, v)

    graph = fires(NAME, Subject(Call(in_front), *qkv(batch=1, kv_heads=2)), attention=1)
    assert counts(graph)["expand"] == 2


def test_rows_fewer_than_columns_are_the_last_ones():
    mask = causal(3, 7)
    for attend in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda q, k, v: written_out(q, k, v, terms=[additive(mask)]),
    ):
        graph = fires(NAME, Subject(Call(attend), *qkv(rows=3, length=7)), attention=1)
        assert only_attention(graph)["causal"] is True


def test_causal_from_the_first_column_is_not_causal_from_the_last():
    mask = torch.ones(3, 7, dtype=torch.bool).tril()
    graph = fires(
        NAME,
        Subject(
            Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)),
            *qkv(rows=3, length=7),
        ),
        attention=1,
    )
    attributes = only_attention(graph)
    assert attributes["causal"] is False and attributes["mask"] is not None
    operator = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
    stays(NAME, Subject(operator, *qkv(rows=3, length=7)), scaled_dot_product_attention=1)


def test_mask_given_at_run_time_is_an_operand():
    """It is causal on the example; the other inputs are not."""
    mask = causal(5)[None, None].repeat(2, 1, 1, 1)
    example = (*qkv(), mask)
    for attend in (
        lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda q, k, v, mask: written_out(q, k, v, terms=[torch.where(mask, 0.0, MIN)]),
        lambda q, k, v, mask: written_out(q, k, v, fill=(~mask, -math.inf)),
        lambda q, k, v, mask: written_out(q, k, v, fill=(mask == 0, MIN)),
    ):
        subject = Subject(Call(attend), *example, draw=lambda g: padded(g, example))
        attributes = only_attention(fires(NAME, subject, attention=1))
        assert not attributes["causal"] and attributes["mask"] is not None


def test_causal_and_padding_together():
    """As transformers joins them: one boolean mask, from a constant and an input."""

    def attend(q, k, v, keep):
        mask = causal(5)[None, None] & keep[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    example = (*qkv(), torch.ones(2, 5, dtype=torch.bool))
    subject = Subject(Call(attend), *example, draw=lambda g: padded(g, example))
    attributes = only_attention(fires(NAME, subject, attention=1))
    assert not attributes["causal"] and attributes["mask"] is not None


def test_rows_without_any_column_average_over_all_of_them():
    """The smallest float excludes nothing where it stands everywhere, for a constant and for an input."""
    mask = causal(5)
    mask[2] = False
    constant = Call(lambda q, k, v: written_out(q, k, v, terms=[additive(mask)]))
    assert only_attention(fires(NAME, Subject(constant, *qkv()), attention=1))["mask"] is not None
    example = (*qkv(), mask)
    for attend in (
        lambda q, k, v, mask: written_out(q, k, v, terms=[torch.where(mask, 0.0, MIN)]),
        lambda q, k, v, mask: written_out(q, k, v, fill=(~mask, MIN)),
    ):
        fires(
            NAME, Subject(Call(attend), *example, draw=lambda g: [*redraw(example[:3], g), mask]), attention=1
        )


def test_rows_without_any_column_give_zero_in_the_operator():
    mask = causal(5)
    mask[2] = False
    example = (*qkv(), mask)
    attend = Call(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    fires(NAME, Subject(attend, *example, draw=lambda g: [*redraw(example[:3], g), mask]), attention=1)
    rows = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=causal(7, 3)))
    graph = fires(NAME, Subject(rows, *qkv(rows=7, length=3)), attention=1)
    assert only_attention(graph)["causal"] is True


def test_more_rows_than_columns_with_a_finite_mask():
    """The first rows see nothing, and the smallest float excludes nothing there."""
    attend = Call(lambda q, k, v: written_out(q, k, v, terms=[additive(causal(7, 3))]))
    graph = fires(NAME, Subject(attend, *qkv(rows=7, length=3)), attention=1)
    assert only_attention(graph)["causal"] is False


def test_bias_and_causal_mask_in_two_sums():
    """As T5 does it: the mask becomes an attribute, the constant bias stays."""
    bias = values(1, 4, 5, 5, seed=9)
    graph = fires(
        NAME,
        Subject(
            Call(lambda q, k, v: written_out(q, k, v, scale=1.0, terms=[bias, additive(causal(5))])), *qkv()
        ),
        attention=1,
    )
    attributes = only_attention(graph)
    assert attributes["causal"] is True
    assert attributes["mask"].op == "get_attr"


def test_finite_causal_mask_beside_a_run_time_mask_stays_a_mask():
    """A row whose only allowed column is padding: eager averages over what is left, attributes would not."""

    def attend(q, k, v, padding):
        return written_out(q, k, v, terms=[additive(causal(5)), padding])

    padding = torch.zeros(2, 1, 1, 5)
    example = (*qkv(), padding)

    def draw(generator):
        left = padding.clone()
        left[:, ..., :2] = MIN
        return [*redraw(example[:3], generator), left]

    def filled(q, k, v, padding):
        return written_out(q, k, v, fill=(~causal(5), MIN), terms=[padding])

    for form in (attend, filled):
        graph = fires(NAME, Subject(Call(form), *example, draw=draw), attention=1)
        assert only_attention(graph)["causal"] is False

    def exact(q, k, v, padding):
        return written_out(q, k, v, terms=[additive(causal(5), -math.inf), padding])

    graph = fires(NAME, Subject(Call(exact), *example), attention=1)
    assert only_attention(graph)["causal"] is True


def test_huge_constant_bias_keeps_a_finite_mask():
    bias = 2e4 * values(1, 4, 5, 5, seed=9).abs()
    attend = Call(lambda q, k, v: written_out(q, k, v, terms=[bias, additive(causal(5), -1e4)]))
    graph = fires(NAME, Subject(attend, *qkv()), attention=1)
    assert only_attention(graph)["causal"] is False


def test_alibi_and_windows_on_both_sides_stay_masks():
    distance = torch.arange(5)[None, :] - torch.arange(5)[:, None]
    alibi = -distance.abs() * torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None]
    both_sides = distance.abs() < 2
    for mask in (alibi, both_sides):
        attend = Call(lambda q, k, v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        attributes = only_attention(fires(NAME, Subject(attend, *qkv()), attention=1))
        assert not attributes["causal"] and attributes["mask"] is not None


def test_masks_that_differ_between_batches_or_heads_stay_masks():
    batches = torch.stack((causal(5), torch.ones(5, 5, dtype=torch.bool)))[:, None]
    attend = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=batches))
    assert only_attention(fires(NAME, Subject(attend, *qkv()), attention=1))["mask"] is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    example = qkv(dtype=dtype)
    low = additive(causal(5)).clamp_min(torch.finfo(dtype).min).to(dtype)
    for attend in (
        lambda q, k, v: written_out(q, k, v, terms=[low], wide=torch.float32),
        lambda q, k, v: F.softmax((q @ k.mT * 0.3 + low).float(), dim=-1).type_as(q) @ v,
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ):
        graph = fires(NAME, Subject(Call(attend), *example), attention=1, to=0, softmax=0)
        assert only_attention(graph)["causal"] is True


def test_keys_permuted_at_once():
    """[batch, length, heads, size] straight to k^T."""

    def attend(q, k, v):
        return F.softmax(q @ k.permute(0, 2, 3, 1), dim=-1) @ v

    q, k, v = qkv()
    graph = fires(NAME, Subject(Call(attend), q, k.transpose(1, 2).contiguous(), v), attention=1, softmax=0)
    assert counts(graph)["permute"] == 1
    turned = Call(lambda q, k, v: F.softmax(q @ k, dim=-1) @ v)
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

    assert counts(fires(NAME, Subject(Call(attend), *qkv()), attention=1))["mul"] == 1

    def itself(q, k, v):
        x = q * 0.5
        return F.scaled_dot_product_attention(x, x, x, scale=1.0)

    assert counts(fires(NAME, Subject(Call(itself), *qkv()), attention=1))["mul"] == 1

    def split(q, k, v):
        x = (q.transpose(1, 2) * 0.5).transpose(1, 2)
        return F.scaled_dot_product_attention(x, k, v, scale=1.0), x

    assert counts(fires(NAME, Subject(Call(split), *qkv()), attention=1))["mul"] == 1


def test_mask_that_becomes_known_later():
    """A mask folded after the attention was fused becomes attributes of it."""
    subject = Subject(
        Call(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)), *qkv(), causal(5)
    )
    graph = subject.optimised()
    mask = graph.graph.find_nodes(op="placeholder")[3]
    graph.constants["known"] = causal(5)
    with graph.graph.inserting_before(mask):
        known = graph.graph.get_attr("known")
    known.meta = dict(mask.meta)
    mask.replace_all_uses_with(known)
    assert settle(graph, NAME) == 1
    assert only_attention(graph)["causal"] is True and only_attention(graph)["mask"] is None


NEAR = {
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
    stays(NAME, Subject(Call(NEAR[form]), *qkv()), attention=0)


@pytest.mark.parametrize("fill", [-1e4, -1e9, MIN, -math.inf])
def test_fill_at_run_time(fill):
    """The second row of the batch has nothing but padding: its fill levels all scores."""
    example = (*qkv(), torch.zeros(2, 1, 1, 5, dtype=torch.bool))

    def draw(generator):
        pad = torch.zeros(2, 1, 1, 5, dtype=torch.bool)
        pad[0, ..., 3:] = True
        pad[1] = fill != -math.inf
        return [*redraw(example[:3], generator), pad]

    attend = Call(lambda q, k, v, pad: written_out(q, k, v, fill=(pad, fill)))
    fires(NAME, Subject(attend, *example, draw=draw), attention=1, masked_fill=0)


def test_shallow_fill_beside_another_run_time_mask():
    """What both exclude is excluded twice in eager, and lower than what one of them does."""
    example = (*qkv(), torch.zeros(2, 1, 1, 5, dtype=torch.bool), torch.zeros(1, 1, 1, 5))

    def draw(generator):
        pad = torch.tensor([True, True, True, False, False]).expand(2, 1, 1, 5)
        return [
            *redraw(example[:3], generator),
            pad,
            torch.tensor([-1e4, -1e4, 0, -1e4, -1e4]).expand(1, 1, 1, 5),
        ]

    attend = Call(lambda q, k, v, pad, more: written_out(q, k, v, fill=(pad, -1e4), terms=[more]))
    stays(NAME, Subject(attend, *example, draw=draw), attention=0)


def test_shallow_fills_and_small_floats():
    """In f16 no finite number absorbs a score, so a finite fill at run time cannot be added."""
    example = (*qkv(dtype=torch.float16), torch.zeros(2, 1, 1, 5, dtype=torch.bool))
    draw = lambda g: [*redraw(example[:3], g), torch.ones(2, 1, 1, 5, dtype=torch.bool)]  # noqa: E731
    attend = Call(lambda q, k, v, pad: F.softmax((q @ k.mT).masked_fill(pad, -6e4), dim=-1) @ v)
    stays(NAME, Subject(attend, *example, draw=draw), attention=0)


def test_other_ranks_are_right():
    for shape in ((5, 8), (4, 5, 8), (2, 2, 4, 5, 8)):
        attend = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
        stays(
            NAME, Subject(attend, values(*shape), values(*shape, seed=1), values(*shape, seed=2)), attention=0
        )
        masked = Call(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m))
        mask = values(*shape[:-1], 5, seed=3)
        stays(
            NAME,
            Subject(masked, values(*shape), values(*shape, seed=1), values(*shape, seed=2), mask),
            attention=0,
        )


def test_broadcast_batches_and_heads_are_right():
    q, k, v = qkv()
    attend = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    stays(NAME, Subject(attend, q, k[:1], v[:1]), attention=0)
    stays(NAME, Subject(attend, q, k[:, :1], v), attention=0)
    fires(NAME, Subject(attend, q, k[:, :1], v[:, :1]), attention=1)


def test_empty_sequences_and_single_rows():
    attend = Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v))
    fires(NAME, Subject(attend, *qkv(rows=1)), attention=1)
    survives(Subject(attend, *qkv(batch=0)))
    survives(Subject(attend, values(1, 2, 0, 8), *qkv(batch=1, heads=2)[1:]))
