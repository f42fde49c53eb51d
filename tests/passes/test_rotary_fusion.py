"""Rotary embedding: halves and interleaved, sliced or split."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, stays, values
from torch import nn

NAME = "rotary_fusion"


def halves(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def chunks(x):
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def splits(x):
    first, second = torch.split(x, x.shape[-1] // 2, -1)
    return torch.cat([-second, first], -1)


def pairs(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def tables(rows: int, size: int, interleaved: bool = False, dtype=torch.float32):
    """cos and sin by row; values that are no angles', so that a mix-up of the two shows."""
    angles = torch.arange(rows)[:, None] / 7.0 ** torch.arange(size // 2)
    angles = angles.repeat_interleave(2, -1) if interleaved else torch.cat((angles, angles), -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


class Rope(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x, cos, sin):
        return self.form(x, cos, sin)


FORMS = {
    "halves": (lambda x, c, s: x * c + halves(x) * s, False),
    "chunks": (lambda x, c, s: x * c + chunks(x) * s, False),
    "splits": (lambda x, c, s: x * c + splits(x) * s, False),
    "pairs": (lambda x, c, s: x * c + pairs(x) * s, True),
    "factors first": (lambda x, c, s: c * x + s * halves(x), False),
    "rotated first": (lambda x, c, s: halves(x) * s + x * c, False),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, interleaved = FORMS[form]
    subject = Subject(Rope(function), values(2, 3, 5, 8), *tables(5, 8, interleaved))
    graph = fires(NAME, subject, rope=1, mul=0, neg=0, cat=0, add=0, stack=0)
    assert fused(graph, "rope")[0].args[3] is interleaved


def test_part_of_the_head():
    """The rest of the channels passes by, as in GPT-NeoX."""

    def partial(x, c, s):
        head, rest = x[..., :4], x[..., 4:]
        return torch.cat((head * c + halves(head) * s, rest), -1)

    fires(NAME, Subject(Rope(partial), values(2, 3, 5, 8), *tables(5, 4)), rope=1, mul=0, cat=1)


def test_tables_per_batch():
    cos, sin = (t[None, None].repeat(2, 1, 1, 1) for t in tables(5, 8))
    fires(NAME, Subject(Rope(FORMS["halves"][0]), values(2, 3, 5, 8), cos, sin), rope=1)


def test_constant_tables():
    class Constant(nn.Module):
        def forward(self, x):
            cos, sin = tables(5, 8)
            return x * cos + halves(x) * sin

    fires(NAME, Subject(Constant(), values(2, 3, 5, 8)), rope=1, cat=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    example = values(2, 3, 5, 8, dtype=dtype), *tables(5, 8, dtype=dtype)
    fires(NAME, Subject(Rope(FORMS["halves"][0]), *example), rope=1)


def thirds(x):
    return torch.cat((-x[..., 3:], x[..., :3]), dim=-1)


NEAR = {
    "rotated is a result": lambda x, c, s: (r := halves(x), x * c + r * s),
    "product is a result": lambda x, c, s: (p := x * c, p + halves(x) * s),
    "turned is a result": lambda x, c, s: (p := halves(x) * s, x * c + p),
    "second term is scaled": lambda x, c, s: torch.add(x * c, halves(x) * s, alpha=2),
    "difference": lambda x, c, s: x * c - halves(x) * s,
    "other half negated": lambda x, c, s: x * c + torch.cat((x[..., 4:], -x[..., :4]), -1) * s,
    "no negation": lambda x, c, s: x * c + torch.cat((x[..., 4:], x[..., :4]), -1) * s,
    "other function than negation": lambda x, c, s: x * c + torch.cat((x[..., 4:].sin(), x[..., :4]), -1) * s,
    "halves in order": lambda x, c, s: x * c + torch.cat((-x[..., :4], x[..., 4:]), -1) * s,
    "unequal halves": lambda x, c, s: x * c + thirds(x) * s,
    "two tensors": lambda x, c, s: x * c + halves(x + 1) * s,
    "halves of two tensors": lambda x, c, s: x * c + torch.cat((-x[..., 4:], (x * 2)[..., :4]), -1) * s,
    "pairs of two tensors": lambda x, c, s: (
        x * c + torch.stack((-x[..., 1::2], (x * 2)[..., ::2]), -1).flatten(-2) * s
    ),
    "another axis": lambda x, c, s: x * c + torch.cat((-x[..., 4:, :], x[..., :4, :]), -2) * s,
    "halves of another axis": lambda x, c, s: (
        x * c + torch.cat((-x[:, :, 4:], x[:, :, :4]), -1).reshape(x.shape) * s
    ),
    "even first": lambda x, c, s: x * c + torch.stack((-x[..., ::2], x[..., 1::2]), -1).flatten(-2) * s,
    "stacked in front": lambda x, c, s: x * c + torch.stack((-x[..., 1::2], x[..., ::2]), -2).flatten(-2) * s,
    "each third": lambda x, c, s: x * c + torch.stack((-x[..., 1:5], x[..., :4]), -1).flatten(-2) * s,
    "one factor for a row": lambda x, c, s: x * c[..., :1] + halves(x) * s[..., :1],
    "cos and sin of other shapes": lambda x, c, s: x * c + halves(x) * s[:1],
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Rope(NEAR[form]), values(2, 3, 8, 8), *tables(8, 8)), rope=0)


def test_wider_tables_stay_apart():
    """The result is f32, which the op on 16-bit x would not give; f16 tables beside an f32 x are no
    better."""
    stays(
        NAME,
        Subject(Rope(FORMS["halves"][0]), values(2, 3, 5, 8, dtype=torch.bfloat16), *tables(5, 8)),
        rope=0,
    )
    narrow = tables(5, 8, dtype=torch.float16)
    stays(NAME, Subject(Rope(FORMS["halves"][0]), values(2, 3, 5, 8), *narrow), rope=0)


def test_queries_and_keys_share_their_tables():
    def both(x, c, s):
        y = x[:, :1] * 2
        return x * c + halves(x) * s, y * c + halves(y) * s

    graph = fires(NAME, Subject(Rope(both), values(2, 3, 5, 8), *tables(5, 8)), rope=2)
    assert counts(graph)["cat"] == 0
