"""Nodes without users."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, run_pass, seeded, stays, survives, values
from pass_modules import Call
from torch import nn

NAME = "dead_code"


def unused(m, x):
    torch.sin(x)
    return x + 1


def chain(m, x):
    torch.cos(torch.sin(m.inner(x)))
    return x + 1


def part_of_several(m, x):
    x.split(1)
    torch.topk(x, 2)[1]
    return x + 1


@pytest.mark.parametrize("form", [unused, chain, part_of_several])
def test_dead(form):
    fires(
        NAME,
        Subject(seeded(Call(form, inner=nn.Linear(4, 4))), values(2, 4)),
        add=1,
        sin=0,
        cos=0,
        aten_linear=0,
        split=0,
        topk=0,
    )


def test_count_is_of_operators():
    graph = Subject(seeded(Call(chain, inner=nn.Linear(4, 4))), values(2, 4)).graph
    assert run_pass(graph, NAME) == 3
    assert not list(graph.graph.find_nodes(op="get_attr"))


def test_inputs_stay():
    """An input that nobody reads is in the signature."""
    subject = Subject(Call(lambda m, x, y: x + 1), values(2, 4), values(3))
    graph = survives(subject)
    assert len(graph.graph.find_nodes(op="placeholder")) == 2


NEAR = {
    "one of several results": lambda m, x: torch.topk(x, 2)[1],
    "all is read": lambda m, x: torch.sin(x) + torch.cos(x),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Call(NEAR[form], inner=nn.Linear(4, 4)), values(2, 4)))


def test_writes_to_a_state_stay():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.seen.add_(x[0])
            torch.sin(self.seen)
            return x + 1

    subject = Subject(Counter(), values(2, 4))
    graph = subject.optimised()
    assert counts(graph) == {"select": 1, "add": 2}
    assert [n.target.__name__ for n in graph.graph.nodes if "write_state" in n.name] == ["write_state"]
