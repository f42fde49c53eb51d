"""RMS normalisation in pieces, as models write it."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, counts, fires, fused, seeded, stays, values
from torch import nn

NAME = "rms_norm_fusion"


class Norm(nn.Module):
    """x times a function of mean(x^2), perhaps with a weight."""

    def __init__(self, form, size: int = 8, weight: bool = True) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.ones(size)) if weight else None

    def forward(self, x):
        y = self.form(x)
        return y if self.weight is None else self.weight * y


def llama(x, eps=1e-5):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


FORMS = {
    "llama": llama,
    "product": lambda x: torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6) * x,
    "square": lambda x: x * torch.rsqrt(torch.square(x).mean([2], True) + 0.5),
    "power": lambda x: x * (x.pow(2).mean(-1, True) + 1e-6).pow(-0.5),
    "root": lambda x: x / torch.sqrt(x.pow(2).mean(-1, True) + 1e-6),
    "reciprocal of the root": lambda x: x * torch.reciprocal(torch.sqrt(x.pow(2).mean(-1, True) + 1e-6)),
    "eps first": lambda x: x * torch.rsqrt(1e-6 + x.pow(2).mean(-1, True)),
    "through f32": lambda x: llama(x.float()).type_as(x),
}


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_forms(form, weight):
    subject = Subject(seeded(Norm(FORMS[form], weight=weight)), values(2, 3, 8))
    graph = fires(NAME, subject, rms_norm=1, mean=0, rsqrt=0, sqrt=0, reciprocal=0, pow=0, mul=0, div=0)
    (node,) = fused(graph, "rms_norm")
    assert (node.args[1] is None) is not weight


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_operator(eps):
    subject = Subject(seeded(nn.RMSNorm(8, eps=eps)), values(2, 3, 8))
    (node,) = fused(fires(NAME, subject, rms_norm=1, aten_rms_norm=0), "rms_norm")
    assert node.args[2] == (eps or torch.finfo(torch.float32).eps)


def test_operator_over_two_axes_stays():
    for weight in (True, False):
        norm = seeded(nn.RMSNorm((3, 8), elementwise_affine=weight))
        stays(NAME, Subject(norm, values(2, 3, 8)), aten_rms_norm=1)


def test_weight_is_an_expression():
    """1 + weight, as Gemma has it."""

    class Gemma(Norm):
        def forward(self, x):
            return self.form(x) * (1.0 + self.weight)

    fires(NAME, Subject(seeded(Gemma(llama)), values(2, 3, 8)), rms_norm=1, mul=0)


def test_a_model_in_16_bits_normalises_in_f32():
    """The weight stays outside: it multiplies the rounded value."""

    class Llama(Norm):
        def forward(self, x):
            return self.weight.to(x.dtype) * llama(x.float()).to(x.dtype)

    subject = Subject(seeded(Llama(llama)), values(2, 3, 8, dtype=torch.bfloat16))
    graph = fires(NAME, subject, rms_norm=1, mul=1, to=2)
    assert fused(graph, "rms_norm")[0].args[1] is None


def test_weights_that_the_op_does_not_take_stay_outside():
    for size in (1, 3):

        class Rows(Norm):
            def forward(self, x):
                return self.form(x) * self.weight[:, None]

        graph = fires(NAME, Subject(seeded(Rows(llama, size)), values(2, 3, 8)), rms_norm=1)
        assert fused(graph, "rms_norm")[0].args[1] is None

    class Given(nn.Module):
        def forward(self, x, weight):
            return llama(x) * weight

    graph = fires(NAME, Subject(Given(), values(2, 3, 8), values(8)), rms_norm=1, mul=1)
    assert fused(graph, "rms_norm")[0].args[1] is None


def test_weight_beside_another_user_of_the_normalised_value():
    class Two(Norm):
        def forward(self, x):
            y = self.form(x)
            return y * self.weight, y

    graph = fires(NAME, Subject(seeded(Two(llama)), values(2, 3, 8)), rms_norm=1, mul=1)
    assert fused(graph, "rms_norm")[0].args[1] is None


def test_one_axis_only():
    fires(NAME, Subject(seeded(Norm(llama)), values(8)), rms_norm=1)


NEAR = {
    "another axis": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-5),
    "two axes": lambda x: x * torch.rsqrt(x.pow(2).mean((-1, -2), keepdim=True) + 1e-5),
    "all axes": lambda x: x * torch.rsqrt(x.pow(2).mean(dim=None, keepdim=True) + 1e-5),
    "sum": lambda x: x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-5),
    "cube": lambda x: x * torch.rsqrt(x.pow(3).abs().mean(-1, keepdim=True) + 1e-5),
    "other value": lambda x: (x + 1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5),
    "other power": lambda x: x * (x.pow(2).mean(-1, True) + 1e-6).pow(-0.25),
    "root multiplied": lambda x: x * torch.sqrt(x.pow(2).mean(-1, True) + 1e-6),
    "scaled eps": lambda x: x * torch.rsqrt(torch.add(x.pow(2).mean(-1, True), 0.5, alpha=2)),
    "no eps": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, True)),
    "mean is a result": lambda x: (m := x.pow(2).mean(-1, True) + 1e-5, x * torch.rsqrt(m)),
    "root is a result": lambda x: (r := torch.rsqrt(x.pow(2).mean(-1, True) + 1e-5), x * r),
    "wider mean": lambda x: x * torch.rsqrt(x.pow(2).mean(-1, True, dtype=torch.float64) + 1e-5),
}


class Plain(nn.Module):
    def __init__(self, form) -> None:
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Plain(NEAR[form]), values(2, 8, 8)), rms_norm=0)


def test_mean_without_its_axis_is_another_shape():
    stays(NAME, Subject(Plain(lambda x: x * torch.rsqrt(x.pow(2).mean(-1) + 1e-5)), values(8, 8)), rms_norm=0)


def test_square_that_others_read_keeps_the_pieces():
    module = Plain(lambda x: (s := x.pow(2), x * torch.rsqrt(s.mean(-1, True) + 1e-5)))
    stays(NAME, Subject(module, values(2, 8)), rms_norm=0)
    assert counts(Subject(module, values(2, 8)).optimised())["rsqrt"] == 1
