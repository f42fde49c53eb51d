"""What depends on no input, and identities of arithmetic and logic."""

from __future__ import annotations

import pytest
import torch
from forgec.passes.constant_folding import LIMIT
from pass_checks import Subject, counts, fires, fused, run_pass, seeded, stays, survives, values
from pass_modules import Call
from torch import nn

NAME = "constant_folding"


def causal_by_index(m, x):
    rows, columns = torch.arange(4)[:, None], torch.arange(4)[None, :]
    return x.masked_fill((columns <= rows).logical_not(), -1.0)


def rotary_table(m, x):
    angles = torch.outer(torch.arange(4).float(), m.freq)
    return x * torch.cat((angles, angles), -1).cos()


FOLDED = {
    "generators": (lambda m, x: x + (torch.arange(4) * 2 + 1).float().sin(), {}, {"arange": 0, "sin": 0}),
    "mask by index": (causal_by_index, {}, {"arange": 0, "le": 0, "logical_not": 0}),
    "rotary table": (rotary_table, {"freq": torch.tensor([1.0, 0.1])}, {"arange": 0, "cos": 0, "cat": 0}),
    "buffer": (lambda m, x: x + (m.b * 2).tanh(), {"b": values(4)}, {"tanh": 0}),
    "several results": (lambda m, x: x + m.b.split(4)[1], {"b": values(8)}, {"split": 0}),
    "look-up": (
        lambda m, x: x + nn.functional.embedding(torch.arange(4), m.b),
        {"b": values(9, 4)},
        {"embedding": 0},
    ),
}


@pytest.mark.parametrize("form", FOLDED)
def test_folded(form):
    function, buffers, after = FOLDED[form]
    folded = Subject(Call(function, **buffers), values(4, 4))
    graph = folded.prepared(NAME)
    assert run_pass(graph, NAME) > 0
    for name, count in after.items():
        assert counts(graph)[name] == count
        assert not any(name in node.name for node in graph.graph.nodes)
    folded.check(graph)
    assert run_pass(graph, NAME) == 0
    survives(folded)


def test_constant_result():
    """A result that is a constant is still one of the program's results."""
    subject = Subject(Call(lambda m, x: (x + 1, torch.arange(3) * 2)), values(2))
    fires(NAME, subject, arange=0, mul=0)


def test_expanded_value_is_stored_small():
    subject = Subject(Call(lambda m, x: x @ torch.arange(4.0)[:, None].expand(4, 1000)), values(4, 4))
    graph = fires(NAME, subject, arange=0)
    assert [t.numel() for name, t in graph.constants.items() if name.startswith("folded")] == [4]


def test_uniform_value_is_stored_small():
    subject = Subject(Call(lambda m, x: x @ torch.full((4, 1000), 0.5)), values(4, 4))
    graph = fires(NAME, subject, full=0)
    assert [t.numel() for name, t in graph.constants.items() if name.startswith("folded")] == [1]


IDENTITIES = {
    "times one": lambda m, x: (x * 1.0) @ x.mT,
    "one times": lambda m, x: (1 * x) @ x.mT,
    "over one": lambda m, x: (x / 1) @ x.mT,
    "plus zero": lambda m, x: (x + 0) @ x.mT,
    "zero plus": lambda m, x: torch.add(torch.zeros(()), x) @ x.mT,
    "minus zero": lambda m, x: (x - 0.0) @ x.mT,
    "to the first": lambda m, x: (x**1) @ x.mT,
    "scaled zero": lambda m, x: torch.add(x, 0.0, alpha=5) @ x.mT,
    "tensor of ones": lambda m, x: (x * torch.ones(4)) @ x.mT,
    "tensor of zeros": lambda m, x: (torch.zeros(4, 1) + x) @ x.mT,
    "buffer of ones": lambda m, x: (x * m.ones) @ x.mT,
}


@pytest.mark.parametrize("form", IDENTITIES)
def test_identities(form):
    subject = Subject(Call(IDENTITIES[form], ones=torch.ones(4, 4)), values(4, 4))
    fires(NAME, subject, mul=0, div=0, add=0, sub=0, pow=0, expand=0)


LOGIC = {
    "and true": lambda m, b: b & torch.ones(4, dtype=torch.bool),
    "true and": lambda m, b: torch.logical_and(torch.ones((), dtype=torch.bool), b),
    "or false": lambda m, b: b | torch.zeros(4, 1, dtype=torch.bool),
}


@pytest.mark.parametrize("form", LOGIC)
def test_logic(form):
    subject = Subject(Call(LOGIC[form]), values(4, 4) > 0)
    fires(NAME, subject, __and__=0, __or__=0, logical_and=0)


def test_identity_that_broadcasts_leaves_an_expand():
    subject = Subject(Call(lambda m, x: (x + torch.zeros(3, 4)) @ torch.ones(4, 2)), values(1, 4))
    graph = fires(NAME, subject, add=0, expand=1)
    assert fused(graph, "expand")[0].meta["type"].shape == (3, 4)


NEAR = {
    "times almost one": lambda m, x: x * 1.0000001,
    "times minus one": lambda m, x: x * -1,
    "zero minus": lambda m, x: 0.0 - x,
    "scaled term": lambda m, x: torch.add(m.zeros, x, alpha=2),
    "integers become floats": lambda m, x: (x.to(torch.int64) * 1.0, x.to(torch.int64) / 1),
    "truth becomes a number": lambda m, x: ((x > 0) + 0, (x > 0) * 1),
    "wider zero": lambda m, x: x + torch.zeros(4, dtype=torch.float64),
    "one element differs": lambda m, x: x * m.almost,
    "tensor of NaN": lambda m, x: x * (m.zeros / m.zeros),
    "and false": lambda m, x: (x > 0) & torch.zeros(4, dtype=torch.bool),
    "or true": lambda m, x: (x > 0) | torch.ones(4, dtype=torch.bool),
    "bits": lambda m, x: x.to(torch.int64).logical_and(torch.ones(4, dtype=torch.int64)),
    "exponent of tensors": lambda m, x: torch.pow(x.abs(), m.almost),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    almost = torch.ones(4)
    almost[1] = 2.0
    subject = Subject(Call(NEAR[form], zeros=torch.zeros(4), almost=almost), values(4, 4))
    wanted = counts(subject.graph)
    kept = {
        name: wanted[name]
        for name in ("add", "sub", "mul", "div", "pow", "__and__", "__or__")
        if wanted[name]
    }
    folded = {"mul": 1} if form == "tensor of NaN" else kept
    after = counts(survives(subject))
    assert {name: after[name] for name in folded} == folded


def test_a_buffer_that_the_model_changes_is_no_constant():
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            y = x + self.seen
            self.seen.add_(1.0)
            return y

    subject = Subject(Counter(), values(2, 4))
    graph = subject.optimised()
    assert counts(graph) == {"add": 2}


def test_random_numbers_stay():
    subject = Subject(Call(lambda m, x: x + torch.rand(4)), values(2, 4))
    graph = subject.graph
    assert run_pass(graph, NAME) == 0 and counts(graph)["rand"] == 1


def test_weights_stay_recipes():
    """Turning, joining, reshaping or casting a weight is left for when the artifact is written."""

    def form(m, x):
        joined = torch.cat((m.weight.t().contiguous(), m.weight.double().float()))
        return x @ joined.view(8, 4)

    subject = Subject(Call(form, weight=values(4, 4)), values(2, 8))
    graph = subject.prepared(NAME)
    assert run_pass(graph, NAME) == 0
    assert not any(name.startswith("folded") for name in graph.constants)
    survives(subject)


def test_large_values_and_large_tensors_stay():
    rows = LIMIT // 4 // 1024 + 1

    def large(m, x):
        return x @ (torch.arange(rows * 1024.0).view(rows, 1024)[:4] * 0 + m.row)

    subject = Subject(Call(large, row=values(1024)), values(1, 4))
    graph = subject.graph.copy()
    run_pass(graph, NAME)
    assert counts(graph)["arange"] == 1

    subject = Subject(
        Call(lambda m, x: x + m.table[:4].sin(), table=torch.zeros(rows, 1024)), values(4, 1024)
    )
    graph = subject.graph.copy()
    assert run_pass(graph, NAME) == 0


def test_constants_of_a_block_that_differ_stay_apart():
    class Block(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.register_buffer("factor", torch.full((4,), value))
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x * (self.factor + 1).sqrt())

    class Stack(nn.Module):
        def __init__(self, *factors: float) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Block(factor) for factor in factors)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    differ = Subject(seeded(Stack(0.0, 3.0)), values(2, 4), mode="blocks")
    with torch.no_grad():
        assert not torch.equal(differ.module.blocks[0].factor, differ.module.blocks[1].factor)
    stays(NAME, differ, mul=2)
    equal = Subject(seeded(Stack(0.0, 0.0)), values(2, 4), mode="blocks")
    assert counts(survives(equal))["mul"] == 0
