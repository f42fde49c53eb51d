"""Projections of one input as one product."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, seeded, stays, values
from torch import nn
from torch.nn import functional as F

NAME = "projection_fusion"


class Projections(nn.Module):
    def __init__(self, sizes=(8, 4, 4), biases=(True, True, True), form=None) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(8, n, bias=b) for n, b in zip(sizes, biases, strict=True))
        self.form = form or (lambda x, parts: [part(x) for part in parts])

    def forward(self, x):
        return self.form(x, self.parts)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(8, 4, 4), (6, 6), (1, 2, 3, 4)])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_joined(bias, sizes, shape):
    case = Subject(seeded(Projections(sizes, [bias] * len(sizes))), values(*shape))
    fires(NAME, case, aten_linear=1, split_with_sizes=1)


def test_results_in_another_order():
    """The first product read is the last one made, and a result in between is read early."""

    def late(x, parts):
        v = parts[2](x)
        early = torch.tanh(v)
        return parts[0](x) * 2, early, parts[1](x)

    fires(NAME, Subject(seeded(Projections(form=late)), values(3, 8)), aten_linear=1)


def test_weights_made_between_the_products():
    """Weights are expressions that stand after the first product."""

    def scaled(x, parts):
        return [F.linear(x, part.weight * 2, part.bias + 1) for part in parts]

    case = Subject(seeded(Projections(form=scaled)), values(3, 8))
    fires(NAME, case, aten_linear=1)
    case.check(case.optimised(passes=("-constant_folding",)))


def test_some_have_a_bias():
    """As in Whisper, whose keys have none."""
    for biases in ((True, False, True), (False, False, True)):
        fires(NAME, Subject(seeded(Projections((4, 6, 8), biases)), values(3, 8)), aten_linear=1)


def test_queries_apart_from_keys_and_values():
    def cross(x, parts):
        return [parts[0](x[:1]), parts[1](x), parts[2](x)]

    fires(NAME, Subject(seeded(Projections(form=cross)), values(3, 8)), aten_linear=2, split_with_sizes=1)


NEAR = {
    "two inputs": Projections((4, 4), (True, True), lambda x, p: [p[0](x), p[1](x + 1)]),
    "one weight": Projections((4, 4), (True, True), lambda x, p: [p[0](x), F.linear(x, p[0].weight, p[1].bias)]),
    "weight read elsewhere": Projections((8, 8), (True, True), lambda x, p: [p[0](x), p[1](x), x * p[0].weight, x * p[1].weight]),
    "weight from an input": Projections((8, 8), (False, False), lambda x, p: [F.linear(x, x), p[1](x)]),
    "vector": Projections((8, 8), (False, False), lambda x, p: [F.linear(x, p[0].weight[0]), p[1](x)]),
}  # fmt: skip


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(seeded(NEAR[form]), values(8, 8)), split_with_sizes=0)


def test_embedding_that_is_also_a_head_is_not_copied():
    """Tied weights: joining them with another projection would put them into the artifact twice."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.other = nn.Embedding(16, 8), nn.Linear(8, 4, bias=False)

        def forward(self, ids):
            x = self.table(ids)
            return F.linear(x, self.table.weight), self.other(x)

    stays(NAME, Subject(seeded(Tied()), torch.arange(6)), aten_linear=2)


@pytest.mark.parametrize("mode", ["full", "auto"])
def test_instances_of_a_block_join_their_own_weights(mode):
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            return x + torch.tanh(self.a(x)) * self.b(x)

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block() for _ in range(3))

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    case = Subject(seeded(Stack()), values(3, 8), mode=mode)
    graph = fires(NAME, case, aten_linear=3, split_with_sizes=3)
    assert bool(graph.blocks) is (mode == "auto")
    assert counts(graph)["cat"] == 0
