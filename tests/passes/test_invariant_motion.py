"""What every call of a block would compute alike, computed once."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, run_pass, seeded, stays, survives, values
from torch import nn
from torch.nn import functional as F

NAME = "invariant_motion"


class Block(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form
        self.inner = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, x, *more):
        return self.form(self, x, *more)


class Stack(nn.Module):
    def __init__(self, form, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(form) for _ in range(depth))

    def forward(self, x, *more):
        for block in self.blocks:
            x = block(x, *more)
        return x


def stack(form, *inputs, **kwargs) -> Subject:
    subject = Subject(seeded(Stack(form)), *inputs, mode="blocks", **kwargs)
    assert len(subject.graph.blocks) == 1
    return subject


def test_mask_that_every_layer_converts():
    def form(block, x, keep):
        bias = (1.0 - keep.to(x.dtype)) * -100.0
        return x + torch.softmax(block.inner(x) + bias, -1)

    subject = stack(form, values(2, 4), torch.ones(4, dtype=torch.int64))
    fires(NAME, subject, to=1, rsub=1, mul=1)


def test_with_constants_of_all_instances():
    def form(block, x, positions):
        table = torch.outer(positions, torch.arange(4.0))
        return block.inner(x) * table.cos() + table.sin()

    fires(NAME, stack(form, values(3, 4), values(3)), cos=1, sin=1)


def test_used_by_what_moves_and_by_what_stays():
    def form(block, x, m):
        root = m.exp()
        return block.inner(x) * root + root.sin()

    graph = fires(NAME, stack(form, values(2, 4), values(4)), exp=1, sin=1)
    (block,) = graph.blocks.values()
    assert len([n for n in block.graph.nodes if n.op == "placeholder"]) == 4


def test_behind_views():
    """The product moves, the view of it is made in the block."""

    def form(block, x, m):
        return torch.matmul(block.inner(x), (m * 2).t().expand(4, 4))

    graph = fires(NAME, stack(form, values(2, 4), values(4, 1)), mul=1, t=3)
    (block,) = graph.blocks.values()
    shapes = [n.meta["type"].shape for n in block.graph.nodes if n.op == "placeholder"]
    assert shapes[-1] == (4, 1)


def test_parameter_becomes_superfluous():
    subject = stack(lambda b, x, m: b.inner(x) * m.exp(), values(2, 4), values(4))
    graph = subject.optimised(rounds=3)
    (block,) = graph.blocks.values()
    assert len([n for n in block.graph.nodes if n.op == "placeholder"]) == 2


NEAR = {
    "own weight": lambda b, x, m: torch.matmul(b.inner(x), m * b.gain),
    "changing value": lambda b, x, m: torch.matmul(b.inner(x), m + x[:1]),
    "views alone": lambda b, x, m: torch.matmul(b.inner(x), m.t().unsqueeze(0).expand(2, 4, 4)[0]),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, stack(NEAR[form], values(2, 4), values(4, 4)))


def test_arguments_that_differ():
    class Differ(Stack):
        def forward(self, x, m):
            for index, block in enumerate(self.blocks):
                x = block(x, m + index)
            return x

    subject = Subject(
        seeded(Differ(lambda b, x, m: b.inner(x) * m.exp())), values(2, 4), values(4), mode="blocks"
    )
    stays(NAME, subject, exp=3)


def test_the_first_argument_of_every_call():
    """All blocks read the same x: everything but the weights is common."""

    class Parallel(Stack):
        def forward(self, x):
            return sum(block(x) for block in self.blocks)

    subject = Subject(seeded(Parallel(lambda b, x: b.inner(x.exp()) + x.sin())), values(2, 4), mode="blocks")
    graph = fires(NAME, subject, exp=1, sin=1)
    assert counts(graph)["aten_linear"] == 3


def test_random_numbers_are_drawn_in_every_call():
    subject = stack(lambda b, x, m: b.inner(x) * F.dropout(m, 0.5, training=True), values(2, 4), values(4))
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 0
    assert counts(graph)["dropout"] == 3


def test_call_under_other_names():
    """The moved value is defined before the first call, wherever later arguments are."""

    class Late(Stack):
        def forward(self, x, m):
            x = self.blocks[0](x, m)
            for block in self.blocks[1:]:
                x = block(torch.sin(x), m)
            return x

    survives(
        Subject(seeded(Late(lambda b, x, m: b.inner(x) * m.exp())), values(2, 4), values(4), mode="blocks")
    )
