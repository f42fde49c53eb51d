"""Equal expressions, and those that only look equal."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, run_pass, seeded, stays, values
from pass_modules import Call
from torch import nn

NAME = "common_subexpression"


EQUAL = {
    "twice": (lambda m, x: torch.sin(x) + torch.cos(torch.sin(x)), {"sin": 1}),
    "a chain": (lambda m, x: torch.cos(torch.sin(x)) * torch.cos(torch.sin(x)), {"sin": 1, "cos": 1}),
    "module called twice": (lambda m, x: m.inner(x) * m.inner(x).tanh(), {"aten_linear": 1}),
    "with keyword": (lambda m, x: torch.add(x, x, alpha=2) * torch.add(x, x, alpha=2), {"add": 1}),
    "lists": (lambda m, x: torch.cat([x, x], 0) * torch.cat([x, x], 0), {"cat": 1}),
    "several results": (lambda m, x: x.split(1)[0] * x.split(1)[1], {"split": 1}),
    "a result twice": (lambda m, x: (torch.sin(x), torch.sin(x)), {"sin": 1}),
}


@pytest.mark.parametrize("form", EQUAL)
def test_equal(form):
    function, after = EQUAL[form]
    fires(NAME, Subject(seeded(Call(function, inner=nn.Linear(4, 4))), values(2, 4)), **after)


NEAR = {
    "number type": lambda m, x: (x * 2, x * 2.0),
    "truth": lambda m, x: (torch.pow(x, 1), torch.pow(x, True)),
    "keyword": lambda m, x: torch.add(x, x, alpha=2) * torch.add(x, x, alpha=3),
    "keyword or none": lambda m, x: torch.add(x, x, alpha=2) * torch.add(x, x),
    "element type": lambda m, x: x.to(torch.float64) * x.to(torch.float16),
    "order": lambda m, x: (x - m.inner.bias) * (m.inner.bias - x),
    "operand": lambda m, x: torch.sin(x) + torch.sin(x + 1),
    "sizes": lambda m, x: x.reshape(4, 2).sum() + x.reshape(8, 1).sum(),
    "sign of zero": lambda m, x: (x * 0.0, x * -0.0),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(seeded(Call(NEAR[form], inner=nn.Linear(4, 4))), values(2, 4)))


def test_random_numbers_are_drawn_anew():
    subject = Subject(Call(lambda m, x: x + torch.rand(4) * torch.rand(4)), values(2, 4))
    graph = subject.graph.copy()
    assert run_pass(graph, NAME) == 0
    assert counts(graph)["rand"] == 2
    assert counts(subject.optimised())["rand"] == 2, "folded into constants"


def test_calls_of_a_block_stay_apart():
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))

        def forward(self, x):
            return self.blocks[0](x) + self.blocks[1](x)

    subject = Subject(seeded(Stack()), values(2, 4), mode="blocks")
    stays(NAME, subject, tanh=2)
