"""Every product with a constant matrix in one form."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, seeded, stays, values
from torch import nn

NAME = "linear_form"


class Product(nn.Module):
    def __init__(self, form, **buffers: torch.Tensor) -> None:
        super().__init__()
        self.form = form
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 5)), nn.Parameter(torch.zeros(5))
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, x):
        return self.form(self, x)


FORMS = {
    "mm": (lambda m, x: torch.mm(x, m.weight), (3, 8)),
    "matmul": (lambda m, x: x @ m.weight, (2, 3, 8)),
    "addmm": (lambda m, x: torch.addmm(m.bias, x, m.weight), (3, 8)),
    "Conv1D of transformers": (
        lambda m, x: torch.addmm(m.bias, x.view(-1, 8), m.weight).view(2, 3, 5),
        (2, 3, 8),
    ),
    "bias added": (lambda m, x: x @ m.weight + m.bias, (2, 3, 8)),
    "bias first": (lambda m, x: m.bias + torch.mm(x, m.weight), (3, 8)),
    "transposed weight": (lambda m, x: torch.mm(x, m.weight.t().contiguous().t()), (3, 8)),
    "empty": (lambda m, x: torch.mm(x, m.weight), (0, 8)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, shape = FORMS[form]
    case = Subject(seeded(Product(function)), values(*shape))
    fires(NAME, case, aten_linear=1, mm=0, matmul=0, addmm=0, view=0, add=0, once=False)


def test_reshapes_around_a_linear():
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 5)

        def forward(self, x):
            return self.inner(x.flatten(0, 1)).unflatten(0, (2, 3))

    fires(NAME, Subject(seeded(Flat()), values(2, 3, 8)), aten_linear=1, flatten=0, unflatten=0)


NEAR = {
    "run-time matrix": (lambda m, x: x @ x.mT, (3, 8)),
    "scaled product": (lambda m, x: torch.addmm(m.bias, x, m.weight, alpha=2), (3, 8)),
    "scaled sum": (lambda m, x: torch.addmm(m.bias, x, m.weight, beta=0.5), (3, 8)),
    "matrix as bias": (lambda m, x: torch.addmm(m.weight[:3], x, m.weight), (3, 8)),
    "square matrix as bias": (lambda m, x: torch.addmm(m.weight[:5], x, m.weight), (5, 8)),
    "bias of one": (lambda m, x: torch.addmm(m.bias[:1], x, m.weight), (3, 8)),
    "batched matrix": (lambda m, x: x @ m.weight.expand(2, 8, 5), (2, 3, 8)),
    "vector on the left": (lambda m, x: x @ m.weight, (8,)),
    "vector on the right": (lambda m, x: x @ m.weight[:, 0], (3, 8)),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    function, shape = NEAR[form]
    stays(NAME, Subject(seeded(Product(function)), values(*shape)), aten_linear=0)


class Reshaped(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.inner, self.form = nn.Linear(8, 8), form

    def forward(self, x):
        return self.form(self.inner, x)


def test_biases_that_stay():
    added = {
        "of one": lambda m, x: x @ m.weight + m.bias[:1],
        "scaled": lambda m, x: torch.add(x @ m.weight, m.bias, alpha=2),
        "of rows": lambda m, x: x @ m.weight + m.bias[:3, None],
        "of an input": lambda m, x: x @ m.weight + x[0, :5],
        "beside another user": lambda m, x: (y := x @ m.weight, y + m.bias),
        "a second one": lambda m, x: torch.addmm(m.bias, x, m.weight) + m.bias * 2,
    }
    for form in added.values():
        fires(NAME, Subject(seeded(Product(form)), values(3, 8)), aten_linear=1, add=1)


RESHAPED = {
    "last axis is cut before": lambda f, x: f(x.reshape(6, 8)).reshape(3, 16),
    "last axis is cut after": lambda f, x: f(x.reshape(6, 8)).reshape(6, 2, 4),
    "rows in another order": lambda f, x: f(x.reshape(6, 8)).reshape(2, 3, 8),
    "flat product is a result": lambda f, x: (y := f(x.reshape(6, 8)), y.reshape(3, 2, 8)),
}


@pytest.mark.parametrize("form", RESHAPED)
def test_reshapes_that_stay(form):
    stays(
        NAME,
        Subject(
            seeded(Reshaped(RESHAPED[form])), values(3, 2, 8) if "cut before" not in form else values(3, 16)
        ),
    )
