"""Triangular systems against torch in float64."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import forgec
from forgec.capture.own_code import own_code

SEED = 3
FORMS = [
    {"upper": upper, "unitriangular": unit, "left": left}
    for upper, unit, left in product((False, True), repeat=3)
]


class Solving(nn.Module):
    def __init__(self, form: dict[str, bool]) -> None:
        super().__init__()
        self.form = form

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(a, b, **self.form)


def system(n: int, batch: tuple[int, ...], columns: int, left: bool, seed: int) -> tuple[Tensor, Tensor]:
    """Both triangles have numbers, of which one is not to be read."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(*batch, n, n, generator=g) / max(n, 1) ** 0.5
    a = a + 2 * torch.eye(n)
    shape = (n, columns) if left else (columns, n)
    return a, torch.randn(*batch, *shape, generator=g)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: " ".join(k for k, v in form.items() if v) or "lower")
@pytest.mark.parametrize("n", [1, 2, 5, 16, 37])
def test_solves(form, n):
    executable = forgec.compile(Solving(form).eval(), system(n, (2, 3), 4, form["left"], SEED))
    a, b = system(n, (2, 3), 4, form["left"], SEED + 1)
    want = torch.linalg.solve_triangular(a.double(), b.double(), **form).numpy()
    got = executable(a.numpy(), b.numpy())
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max(), err_msg=f"seed {SEED}")
    assert not any(instr.op == "aten" for instr in executable.plan.program.main.body)


@pytest.mark.parametrize("shapes", [((0, 0), (0, 4)), ((3, 3), (3, 0)), ((2, 3, 3), (1, 3, 2))])
def test_sizes(shapes):
    a, b = torch.eye(3).expand(shapes[0]) if shapes[0][-1] else torch.zeros(shapes[0]), torch.ones(shapes[1])
    form = {"upper": False}
    got = forgec.compile(Solving(form).eval(), (a.contiguous(), b))(a.numpy(), b.numpy())
    np.testing.assert_array_equal(got, torch.linalg.solve_triangular(a, b, **form).numpy())


def test_large_numbers_beside_small_ones_stay_apart():
    """What a solver does step by step: products of powers of the triangle would cancel here."""
    n = 64
    a = torch.full((n, n), 0.9).tril(-1) + torch.eye(n)
    b = torch.ones(n, 1)
    form = {"upper": False, "unitriangular": True}
    got = forgec.compile(Solving(form).eval(), (a, b))(a.numpy(), b.numpy())
    want = torch.linalg.solve_triangular(a.double(), b.double(), **form).numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_two_systems_share_an_inverse():
    class Twice(nn.Module):
        def forward(self, a, b, c):
            form = {"upper": False, "unitriangular": True}
            return torch.linalg.solve_triangular(a, b, **form), torch.linalg.solve_triangular(a, c, **form)

    a, b = system(8, (), 3, True, SEED)
    twice = forgec.compile(Twice().eval(), (a, b, b + 1))
    once = forgec.compile(Solving({"upper": False, "unitriangular": True}).eval(), (a, b))
    count = len(once.plan.program.main.body)
    assert len(twice.plan.program.main.body) == count + 1


def test_models_use_solvers_while_they_are_traced():
    from transformers.models.qwen3_5 import modeling_qwen3_5 as module

    before = module.is_torchdynamo_exporting
    with own_code(), own_code():
        assert module.is_torchdynamo_exporting is not before
        assert not module.is_torchdynamo_exporting()
    assert module.is_torchdynamo_exporting is before
