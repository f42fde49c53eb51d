"""Attention over a cache reads what was written."""

from __future__ import annotations

import torch
from pass_checks import Subject, fires, fused, stays, values
from torch import nn
from torch.nn import functional as F

from forgec.capture.rows import update_rows
from forgec.graph import node_type
from forgec.ir.types import DType

NAME = "cached_attention"
ROWS, COLUMNS = 3, 8


class Cached(nn.Module):
    """Causal attention of new rows over a cache; ``change`` makes it another one."""

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change

    def forward(self, q, new, keys, position):
        other = position + 1 if self.change == "positions" else position
        if self.change == "half":
            k, v = (update_rows(x.half(), new.half(), position).float() for x in (keys, keys * 2))
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(q, position))
        k = update_rows(keys, new, position)
        v = update_rows(keys * 2, new, other) if self.change != "values" else keys * 2
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(q, position))

    def mask(self, q, position):
        last = position + torch.arange(q.shape[2])
        return torch.arange(COLUMNS) <= last[:, None]


def subject(change: str = "", rows: int = ROWS) -> Subject:
    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        tensors = [torch.randn(x.shape, generator=generator) for x in example[:3]]
        return [*tensors, torch.randint(0, COLUMNS - ROWS, (), generator=generator)]

    example = (
        values(1, 2, rows, 4),
        values(1, 2, ROWS, 4, seed=1),
        values(1, 2, COLUMNS, 4, seed=2),
        torch.tensor(2),
    )
    return Subject(Cached(change), *example, draw=draw)


def test_fires():
    graph = fires(NAME, subject(), add=2)
    (node,) = fused(graph, "attention")
    assert node.kwargs["length"] is not None


def test_a_cache_of_f16_is_read_as_it_is():
    graph = fires(NAME, subject("half"), add=2)
    (node,) = fused(graph, "attention")
    assert node.kwargs["length"] is not None
    assert [node_type(x).dtype for x in node.args[:3]] == [DType.F32, DType.F16, DType.F16]


def test_values_that_are_no_cache():
    stays(NAME, subject("values"))


def test_keys_and_values_at_different_positions():
    stays(NAME, subject("positions"))


def test_queries_that_are_not_the_rows_written():
    stays(NAME, subject(rows=ROWS - 1))
