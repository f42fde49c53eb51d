"""Attention over a cache with new rows behind it reads the cache that these rows were written to."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, fused, settle, stays, values
from torch import nn
from torch.nn import functional as F

from forgec.capture.rows import UPDATE_ROWS, limited, update_rows
from forgec.graph import node_type
from forgec.ir.types import DType

NAME = "joined_cache"
ROWS, COLUMNS = 3, 8


class Joined(nn.Module):
    """Causal attention of new rows behind a cache, which they are written to; ``change`` makes it another."""

    def __init__(self, change: str = "") -> None:
        super().__init__()
        self.change = change

    def forward(self, q, new, keys, position):
        half = self.change == "half"
        caches = [x.half() if half else x for x in (keys, keys * 2)]
        start = 1 if self.change == "turned otherwise" else 0
        last = (torch.arange(start, COLUMNS + start) + position) % COLUMNS
        if self.change == "not turned":
            last = torch.arange(COLUMNS)
        joined = [torch.cat((x.index_select(2, last).float(), new), 2) for x in caches]
        kept = position + 1 if self.change == "positions" else position
        written = [
            update_rows(cache, limited(both[:, :, COLUMNS:], cache.dtype), at)
            for cache, both, at in zip(caches, joined, (position, kept), strict=True)
        ]
        if self.change == "another":
            written[1] = update_rows(caches[1], new * 3, position)
        if self.change == "unwritten":
            written[1] = caches[1] + 1
        y = F.scaled_dot_product_attention(q, *joined, attn_mask=self.mask(q, position))
        # What is written is given back as far as it means something.
        rows = torch.arange(COLUMNS)[:, None] < position + ROWS
        return y, *(torch.where(rows, x.float(), 0.0) for x in written)

    def mask(self, q, position):
        if self.change == "one column":
            return torch.zeros(q.shape[2], 1)
        at = torch.arange(COLUMNS + ROWS) - COLUMNS + position
        row = (position + torch.arange(q.shape[2]))[:, None]
        seen = (at >= 0) & (at <= row)
        if self.change == "window":
            seen = seen & (at > row - 2)
        return torch.where(seen, 0.0, -1e9) if self.change == "added" else seen


def subject(change: str = "", rows: int = ROWS) -> Subject:
    def draw(generator: torch.Generator) -> list[torch.Tensor]:
        tensors = [torch.randn(x.shape, generator=generator) for x in example[:3]]
        return [*tensors, torch.randint(0, COLUMNS - ROWS + 1, (), generator=generator)]

    example = (
        values(1, 2, rows, 4),
        values(1, 2, ROWS, 4, seed=1),
        values(1, 2, COLUMNS, 4, seed=2),
        torch.tensor(2),
    )
    return Subject(Joined(change), *example, draw=draw)


@pytest.mark.parametrize("change", ["", "added", "window"])
def test_fires(change):
    graph = fires(NAME, subject(change), index_select=3)
    (node,) = fused(graph, "attention")
    assert node.kwargs["length"] is not None
    assert [x.target for x in node.args[1:3]] == [UPDATE_ROWS, UPDATE_ROWS]
    assert node_type(node.args[3]).shape[-1] == COLUMNS


def test_a_cache_of_f16_is_read_as_it_is():
    """New rows too are then read as they are kept, rounded."""
    graph = subject("half").prepared(NAME)
    assert settle(graph, NAME) > 0
    (node,) = fused(graph, "attention")
    assert [node_type(x).dtype for x in node.args[:3]] == [DType.F32, DType.F16, DType.F16]


@pytest.mark.parametrize(
    "change", ["positions", "another", "unwritten", "one column", "not turned", "turned otherwise"]
)
def test_stays(change):
    stays(NAME, subject(change))


def test_queries_that_are_not_the_rows_written():
    stays(NAME, subject(rows=ROWS - 1))
