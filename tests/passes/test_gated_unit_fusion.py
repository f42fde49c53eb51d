"""Gated units: an activation times another tensor."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, fused, seeded, stays, values
from torch import nn
from torch.nn import functional as F

NAME = "gated_unit_fusion"


class Unit(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, gate, up):
        return self.form(gate, up)


FORMS = {
    "silu": (lambda g, u: F.silu(g) * u, "silu"),
    "gelu": (lambda g, u: F.gelu(g) * u, "gelu"),
    "gelu_tanh": (lambda g, u: u * F.gelu(g, approximate="tanh"), "gelu_tanh"),
    "sigmoid": (lambda g, u: torch.sigmoid(g) * u, "sigmoid"),
    "sigmoid last": (lambda g, u: u * g.sigmoid(), "sigmoid"),
    "spelled out": (lambda g, u: g * torch.sigmoid(g) * u, "silu"),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, act = FORMS[form]
    graph = fires(
        NAME, Subject(Unit(function), values(2, 8), values(2, 8)), gated=1, mul=0, silu=0, gelu=0, sigmoid=0
    )
    (node,) = fused(graph, "gated")
    assert node.args[2] == act
    assert list(node.args[:2]) == [x for x in node.graph.nodes if x.op == "placeholder"]


class SwiGlu(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 12, bias=bias), nn.Linear(8, 12, bias=bias)
        self.down = nn.Linear(12, 8, bias=bias)

    def forward(self, x):
        return self.down(F.silu(self.gate(x)) * self.up(x))


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_takes_its_gate_from_one_joined_projection(bias):
    subject = Subject(seeded(SwiGlu(bias)), values(2, 3, 8))
    fires(NAME, subject, gated=1, silu=0)
    graph = subject.optimised()
    assert {x.target.__name__ for x in fused(graph, "gated")[0].args[:2]} == {"getitem"}


def test_two_chunks_of_one_tensor():
    def chunked(x, unused):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up + unused

    fires(NAME, Subject(Unit(chunked), values(2, 16), values(8)), gated=1)


NEAR = {
    "act is a result": lambda g, u: (a := F.silu(g), a * u),
    "act times itself": lambda g, u: (a := F.silu(g)) * a + u,
    "broadcast gate": lambda g, u: F.silu(g[:1]) * u,
    "broadcast up": lambda g, u: F.silu(g) * u[..., :1],
    "number": lambda g, u: F.silu(g) * 2.0 + u,
    "other activation": lambda g, u: F.elu(g) * u,
    "wider up": lambda g, u: F.silu(g) * u.double(),
    "sum": lambda g, u: F.silu(g) + u,
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Unit(NEAR[form]), values(2, 8), values(2, 8)), gated=0)


def test_narrow_gate_beside_a_wide_up():
    stays(NAME, Subject(Unit(FORMS["silu"][0]), values(2, 8, dtype=torch.float16), values(2, 8)), gated=0)
