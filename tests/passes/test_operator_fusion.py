"""What a linear takes in: its activation or a residual sum."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, fused, seeded, stays, values
from torch import nn
from torch.nn import functional as F

NAME = "operator_fusion"


class One(nn.Module):
    """A linear between functions of its input and output."""

    def __init__(self, form, bias: bool = True) -> None:
        super().__init__()
        self.form = form
        self.inner = nn.Linear(8, 8, bias=bias)

    def forward(self, x):
        return self.form(self.inner, x)


ACTS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", ACTS)
def test_activations(act, bias):
    subject = Subject(seeded(One(lambda inner, x: ACTS[act](inner(x)), bias)), values(2, 3, 8))
    graph = fires(NAME, subject, linear=1, aten_linear=0, relu=0, gelu=0, silu=0, sigmoid=0, tanh=0)
    assert fused(graph, "linear")[0].args[4] == act


@pytest.mark.parametrize("form", [lambda f, x: f(x) + x, lambda f, x: x + f(x)])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_residual(form, shape):
    fires(NAME, Subject(seeded(One(form)), values(*shape)), linear=1, aten_linear=0, add=0)


def test_residual_is_constant():
    class Constant(One):
        def __init__(self) -> None:
            super().__init__(None)
            self.position = nn.Parameter(torch.zeros(3, 8))

        def forward(self, x):
            return self.inner(x) + self.position

    fires(NAME, Subject(seeded(Constant()), values(3, 8)), linear=1, add=0)


def test_of_two_products_the_later_takes_the_sum():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(6, 8)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    fires(NAME, Subject(seeded(Two()), values(3, 8), values(3, 6)), linear=1, aten_linear=1, add=0)


def test_weight_given_at_run_time():
    class Given(nn.Module):
        def forward(self, x, weight):
            return F.relu(F.linear(x, weight))

    fires(NAME, Subject(Given(), values(3, 8), values(5, 8)), linear=1, relu=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    subject = Subject(seeded(One(lambda f, x: F.gelu(f(x)))).to(dtype), values(3, 8, dtype=dtype))
    fires(NAME, subject, linear=1, gelu=0)


NEAR = {
    "product is a result": lambda f, x: (y := f(x), F.relu(y)),
    "product is added twice": lambda f, x: (y := f(x)) + x * y,
    "product added to itself": lambda f, x: (y := f(x)) + y,
    "broadcast residual": lambda f, x: f(x) + x[:1],
    "broadcast product": lambda f, x: f(x[:1]) + x,
    "number": lambda f, x: f(x) + 1.0,
    "scaled residual": lambda f, x: torch.add(f(x), x, alpha=2),
    "scaled product": lambda f, x: torch.add(x, f(x), alpha=0.5),
    "difference": lambda f, x: x - f(x),
    "other activation": lambda f, x: F.elu(f(x)),
    "wider residual": lambda f, x: f(x) + x.double(),
    "vector as weight": lambda f, x: F.relu(F.linear(x, f.weight[0])),
    "reshaped between": lambda f, x: F.relu(f(x).reshape(8, -1)),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(seeded(One(NEAR[form])), values(3, 8)), linear=0)


def test_one_epilogue_at_most():
    subject = Subject(seeded(One(lambda f, x: F.relu(f(x)) + x)), values(3, 8))
    graph = fires(NAME, subject, linear=1, relu=0, add=1)
    assert fused(graph, "linear")[0].args[3] is None


def test_product_of_more_than_two_axes_weight():
    class Batched(nn.Module):
        def forward(self, x, y):
            return F.relu(torch.matmul(x, y))

    stays(NAME, Subject(Batched(), values(2, 3, 8), values(2, 8, 4)), linear=0, relu=1)
