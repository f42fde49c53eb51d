"""Activations that models spell out: tanh and erf GELU, SiLU."""

from __future__ import annotations

import math

import pytest
import torch
from pass_checks import Subject, fires, fused, stays, values
from torch import nn

NAME = "activation_fusion"
C = math.sqrt(2 / math.pi)


class Act(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


TANH = {
    "transformers": lambda x: 0.5 * x * (1.0 + torch.tanh(C * (x + 0.044715 * torch.pow(x, 3.0)))),
    "product cube": lambda x: 0.5 * x * (1.0 + torch.tanh(C * (x + 0.044715 * (x * x * x)))),
    "half last": lambda x: x * (1.0 + torch.tanh(C * (x + 0.044715 * x**3))) * 0.5,
    "half with the sum": lambda x: x * (0.5 * (1.0 + torch.tanh(C * (x + 0.044715 * x**3)))),
    "halved": lambda x: x / 2 * (torch.tanh((x + x**3 * 0.044715) * C) + 1),
    "fast": lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
}
ERF = {
    "divided": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "multiplied": lambda x: 0.5 * x * (1 + torch.erf(x * 0.7071067811865476)),
    "half last": lambda x: x * (1 + torch.erf(x / 1.4142135623730951)) * 0.5,
}
SILU = {
    "x first": lambda x: x * torch.sigmoid(x),
    "x last": lambda x: torch.sigmoid(x) * x,
}


@pytest.mark.parametrize("form", TANH)
def test_tanh_gelu(form):
    graph = fires(NAME, Subject(Act(TANH[form]), values(2, 3, 8)), gelu=1, tanh=0, mul=0, add=0, pow=0)
    assert fused(graph, "gelu")[0].kwargs == {"approximate": "tanh"}


@pytest.mark.parametrize("form", ERF)
def test_erf_gelu(form):
    graph = fires(NAME, Subject(Act(ERF[form]), values(2, 3, 8)), gelu=1, erf=0, mul=0, add=0, div=0)
    assert not fused(graph, "gelu")[0].kwargs


@pytest.mark.parametrize("form", SILU)
def test_silu(form):
    fires(NAME, Subject(Act(SILU[form]), values(2, 3, 8)), silu=1, sigmoid=0, mul=0)


def test_constants_in_buffers():
    class Buffers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(0.5))
            self.register_buffer("root", torch.tensor(2.0).sqrt())

        def forward(self, x):
            return x * self.scale * (1.0 + torch.erf(x / self.root))

    fires(NAME, Subject(Buffers(), values(2, 8)), gelu=1, erf=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    fires(NAME, Subject(Act(TANH["transformers"]), values(2, 8, dtype=dtype)), gelu=1, tanh=0)


NEAR = {
    "another cubic factor": lambda x: 0.5 * x * (1.0 + torch.tanh(C * (x + 0.0447 * x**3))),
    "another root": lambda x: 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * x**3))),
    "another half": lambda x: 0.25 * x * (1.0 + torch.tanh(C * (x + 0.044715 * x**3))),
    "another one": lambda x: 0.5 * x * (2.0 + torch.tanh(C * (x + 0.044715 * x**3))),
    "square": lambda x: 0.5 * x * (1.0 + torch.tanh(C * (x + 0.044715 * x**2))),
    "scaled sum": lambda x: 0.5 * x * torch.add(torch.tanh(C * (x + 0.044715 * x**3)), 1.0, alpha=3),
    "two tensors": lambda x: 0.5 * (x + 1) * (1.0 + torch.tanh(C * (x + 0.044715 * x**3))),
    "tanh is a result": lambda x: (t := torch.tanh(C * (x + 0.044715 * x**3)), 0.5 * x * (1.0 + t)),
    "erf of x": lambda x: x * 0.5 * (1.0 + torch.erf(x)),
    "minus erf": lambda x: x * 0.5 * (1.0 - torch.erf(x / math.sqrt(2.0))),
    "erf is a result": lambda x: (e := torch.erf(x / math.sqrt(2.0)), x * 0.5 * (1.0 + e)),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "sigmoid is a result": lambda x: (s := torch.sigmoid(x), x * s),
    "sigmoid of another tensor": lambda x: x * torch.sigmoid(x + 1),
    "sigmoid of a part": lambda x: x * torch.sigmoid(x[:1]),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Act(NEAR[form]), values(2, 3, 8)), gelu=0, silu=0)


def test_integers_become_floats():
    """x * 0.5 of integers is f32, and no activation gives f32 from integers."""
    integers = torch.arange(6)
    stays(NAME, Subject(Act(ERF["multiplied"]), integers), gelu=0)
    stays(NAME, Subject(Act(SILU["x first"]), integers), silu=0)
