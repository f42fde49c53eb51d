"""A sum and the normalisation that reads it."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, seeded, stays, values
from torch import nn
from torch.nn import functional as F

NAME = "norm_residual_fusion"


class Norm(nn.Module):
    def __init__(self, form, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.form = form
        self.norm = norm or nn.LayerNorm(8)

    def forward(self, x, y):
        return self.form(self.norm, x, y)


class Rms(nn.Module):
    def __init__(self, weight: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8)) if weight else None

    def forward(self, x):
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return y if self.weight is None else y * self.weight


def subject(form, norm=None, **kwargs) -> Subject:
    return Subject(seeded(Norm(form, norm)), values(2, 3, 8), values(2, 3, 8, seed=1), **kwargs)


LAYER = [nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.LayerNorm(8, elementwise_affine=False, eps=0.1)]


@pytest.mark.parametrize("norm", LAYER, ids=["plain", "no bias", "no weight"])
def test_layer_norm(norm):
    fires(NAME, subject(lambda n, x, y: n(x + y), norm), add_layer_norm=1, layer_norm=0, add=0)


@pytest.mark.parametrize("weight", [True, False])
def test_rms_norm(weight):
    fires(NAME, subject(lambda n, x, y: n(x + y), Rms(weight)), add_rms_norm=1, rms_norm=0, add=0)


def test_residual_stream_goes_on():
    """The sum has other users, before and after the norm, and is a result."""

    def stream(norm, x, y):
        total = x + y
        early = total * 2
        return early + norm(total) + total, total

    fires(NAME, subject(stream), add_layer_norm=1, layer_norm=0)


def test_two_norms_of_one_sum():
    """The second reads the sum that the first gives."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.LayerNorm(8), nn.LayerNorm(8)

        def forward(self, x, y):
            total = x + y
            return self.a(total) * self.b(total)

    case = Subject(seeded(Two()), values(2, 8), values(2, 8))
    fires(NAME, case, add_layer_norm=1, layer_norm=1, add=0)


def test_weight_defined_after_the_sum():
    """1 + weight is computed between the sum and the norm; it moves in front."""

    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))

        def forward(self, x, y):
            total = x + y
            weight = 1.0 + self.weight
            return F.layer_norm(total, (8,), weight)

    case = Subject(seeded(Late()), values(2, 8), values(2, 8))
    graph = case.optimised(passes=("-constant_folding",))
    assert counts(graph)["add_layer_norm"] == 1
    case.check(graph)
    fires(NAME, case, add_layer_norm=1)


NEAR = {
    "linear takes the sum": (lambda n, x, y: n(F.linear(x, torch.eye(8)) + y), None),
    "broadcast": (lambda n, x, y: n(x + y[:, :1]), None),
    "scaled": (lambda n, x, y: n(torch.add(x, y, alpha=2)), None),
    "number": (lambda n, x, y: n(x + 1.0) + y, None),
    "difference": (lambda n, x, y: n(x - y), None),
    "wider": (lambda n, x, y: n((x + y.double()).float()), None),
    "two axes": (lambda n, x, y: n(x + y), nn.LayerNorm((3, 8))),
    "two axes, no weight": (lambda n, x, y: n(x + y), nn.LayerNorm((3, 8), elementwise_affine=False)),
    "weight from an input": (lambda n, x, y: F.layer_norm(x + y, (8,), y[0, 0]), None),
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    function, norm = NEAR[form]
    stays(NAME, subject(function, norm), add_layer_norm=0)


def test_wide_weights_in_a_narrow_model():
    """torch takes f32 weights beside a bf16 input, the op does not."""
    module = seeded(Norm(lambda n, x, y: n(x + y)))
    stays(
        NAME, Subject(module, *(values(2, 8, seed=s, dtype=torch.bfloat16) for s in (0, 1))), add_layer_norm=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_floats(dtype):
    module = seeded(Norm(lambda n, x, y: n(x + y))).to(dtype)
    fires(
        NAME, Subject(module, values(2, 8, dtype=dtype), values(2, 8, seed=1, dtype=dtype)), add_layer_norm=1
    )
