"""Attention fusion: masks that become attributes, operands, or stay what they were."""

from __future__ import annotations

import math

import pytest
import torch
from attention_forms import MIN, NAME, additive, causal, only_attention, padded, qkv, written_out
from pass_checks import Subject, fires, redraw, settle, stays, values
from pass_modules import Apply
from torch.nn import functional as F


def test_rows_fewer_than_columns_are_the_last_ones():
    mask = causal(3, 7)
    for attend in (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda q, k, v: written_out(q, k, v, terms=[additive(mask)]),
    ):
        graph = fires(NAME, Subject(Apply(attend), *qkv(rows=3, length=7)), attention=1)
        assert only_attention(graph)["causal"] is True


def test_causal_from_the_first_column_is_not_causal_from_the_last():
    mask = torch.ones(3, 7, dtype=torch.bool).tril()
    graph = fires(
        NAME,
        Subject(
            Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)),
            *qkv(rows=3, length=7),
        ),
        attention=1,
    )
    attributes = only_attention(graph)
    assert attributes["causal"] is False and attributes["mask"] is not None
    operator = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True))
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
        subject = Subject(Apply(attend), *example, draw=lambda g: padded(g, example))
        attributes = only_attention(fires(NAME, subject, attention=1))
        assert not attributes["causal"] and attributes["mask"] is not None


def test_causal_and_padding_together():
    """As transformers joins them: one boolean mask, from a constant and an input."""

    def attend(q, k, v, keep):
        mask = causal(5)[None, None] & keep[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    example = (*qkv(), torch.ones(2, 5, dtype=torch.bool))
    subject = Subject(Apply(attend), *example, draw=lambda g: padded(g, example))
    attributes = only_attention(fires(NAME, subject, attention=1))
    assert not attributes["causal"] and attributes["mask"] is not None


def test_rows_without_any_column_average_over_all_of_them():
    """The smallest float excludes nothing where it stands everywhere, for a constant and for an input."""
    mask = causal(5)
    mask[2] = False
    constant = Apply(lambda q, k, v: written_out(q, k, v, terms=[additive(mask)]))
    assert only_attention(fires(NAME, Subject(constant, *qkv()), attention=1))["mask"] is not None
    example = (*qkv(), mask)
    for attend in (
        lambda q, k, v, mask: written_out(q, k, v, terms=[torch.where(mask, 0.0, MIN)]),
        lambda q, k, v, mask: written_out(q, k, v, fill=(~mask, MIN)),
    ):
        fires(
            NAME,
            Subject(Apply(attend), *example, draw=lambda g: [*redraw(example[:3], g), mask]),
            attention=1,
        )


def test_rows_without_any_column_give_zero_in_the_operator():
    mask = causal(5)
    mask[2] = False
    example = (*qkv(), mask)
    attend = Apply(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    fires(NAME, Subject(attend, *example, draw=lambda g: [*redraw(example[:3], g), mask]), attention=1)
    rows = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=causal(7, 3)))
    graph = fires(NAME, Subject(rows, *qkv(rows=7, length=3)), attention=1)
    assert only_attention(graph)["causal"] is True


def test_more_rows_than_columns_with_a_finite_mask():
    """The first rows see nothing, and the smallest float excludes nothing there."""
    attend = Apply(lambda q, k, v: written_out(q, k, v, terms=[additive(causal(7, 3))]))
    graph = fires(NAME, Subject(attend, *qkv(rows=7, length=3)), attention=1)
    assert only_attention(graph)["causal"] is False


def test_bias_and_causal_mask_in_two_sums():
    """As T5 does it: the mask becomes an attribute, the constant bias stays."""
    bias = values(1, 4, 5, 5, seed=9)
    graph = fires(
        NAME,
        Subject(
            Apply(lambda q, k, v: written_out(q, k, v, scale=1.0, terms=[bias, additive(causal(5))])), *qkv()
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
        graph = fires(NAME, Subject(Apply(form), *example, draw=draw), attention=1)
        assert only_attention(graph)["causal"] is False

    def exact(q, k, v, padding):
        return written_out(q, k, v, terms=[additive(causal(5), -math.inf), padding])

    graph = fires(NAME, Subject(Apply(exact), *example), attention=1)
    assert only_attention(graph)["causal"] is True


def test_huge_constant_bias_keeps_a_finite_mask():
    bias = 2e4 * values(1, 4, 5, 5, seed=9).abs()
    attend = Apply(lambda q, k, v: written_out(q, k, v, terms=[bias, additive(causal(5), -1e4)]))
    graph = fires(NAME, Subject(attend, *qkv()), attention=1)
    assert only_attention(graph)["causal"] is False


def test_alibi_and_windows_on_both_sides_stay_masks():
    distance = torch.arange(5)[None, :] - torch.arange(5)[:, None]
    alibi = -distance.abs() * torch.tensor([0.5, 0.25, 0.125, 0.0625])[:, None, None]
    both_sides = distance.abs() < 2
    for mask in (alibi, both_sides):
        attend = Apply(lambda q, k, v, mask=mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
        attributes = only_attention(fires(NAME, Subject(attend, *qkv()), attention=1))
        assert not attributes["causal"] and attributes["mask"] is not None


def test_masks_that_differ_between_batches_or_heads_stay_masks():
    batches = torch.stack((causal(5), torch.ones(5, 5, dtype=torch.bool)))[:, None]
    attend = Apply(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=batches))
    assert only_attention(fires(NAME, Subject(attend, *qkv()), attention=1))["mask"] is not None


def test_mask_that_becomes_known_later():
    """A mask folded after the attention was fused becomes attributes of it."""
    subject = Subject(
        Apply(lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)),
        *qkv(),
        causal(5),
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


@pytest.mark.parametrize("fill", [-1e4, -1e9, MIN, -math.inf])
def test_fill_at_run_time(fill):
    """The second row of the batch has nothing but padding: its fill levels all scores."""
    example = (*qkv(), torch.zeros(2, 1, 1, 5, dtype=torch.bool))

    def draw(generator):
        pad = torch.zeros(2, 1, 1, 5, dtype=torch.bool)
        pad[0, ..., 3:] = True
        pad[1] = fill != -math.inf
        return [*redraw(example[:3], generator), pad]

    attend = Apply(lambda q, k, v, pad: written_out(q, k, v, fill=(pad, fill)))
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

    attend = Apply(lambda q, k, v, pad, more: written_out(q, k, v, fill=(pad, -1e4), terms=[more]))
    stays(NAME, Subject(attend, *example, draw=draw), attention=0)


def test_shallow_fills_and_small_floats():
    """In f16 no finite number absorbs a score, so a finite fill at run time cannot be added."""
    example = (*qkv(dtype=torch.float16), torch.zeros(2, 1, 1, 5, dtype=torch.bool))
    draw = lambda g: [*redraw(example[:3], g), torch.ones(2, 1, 1, 5, dtype=torch.bool)]  # noqa: E731
    attend = Apply(lambda q, k, v, pad: F.softmax((q @ k.mT).masked_fill(pad, -6e4), dim=-1) @ v)
    stays(NAME, Subject(attend, *example, draw=draw), attention=0)
