"""Layer normalisation in pieces, as exporters before ONNX opset 17 write it."""

from __future__ import annotations

import pytest
import torch
from pass_checks import Subject, fires, fused, seeded, stays, values
from torch import nn

NAME = "layer_norm_fusion"


def exported(x, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps)


class Norm(nn.Module):
    def __init__(self, form=exported, weight: bool = True, bias: bool = True) -> None:
        super().__init__()
        self.form = form
        self.weight = nn.Parameter(torch.ones(8)) if weight else None
        self.bias = nn.Parameter(torch.ones(8)) if bias else None

    def forward(self, x):
        y = self.form(x)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


@pytest.mark.parametrize(("weight", "bias"), [(True, True), (True, False), (False, True), (False, False)])
def test_forms(weight, bias):
    subject = Subject(seeded(Norm(weight=weight, bias=bias)), values(2, 3, 8))
    graph = fires(NAME, subject, layer_norm=1, rms_norm=0, mean=0, sub=0, add=0)
    (node,) = fused(graph, "layer_norm")
    assert (node.args[2] is not None, node.args[3] is not None) == (weight, bias)


def test_multiplied_by_the_reciprocal_root():
    def form(x):
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)

    fires(NAME, Subject(seeded(Norm(form)), values(2, 3, 8)), layer_norm=1, mean=0)


def test_bias_beside_another_user():
    class Two(Norm):
        def forward(self, x):
            y = self.form(x) * self.weight
            return y + self.bias, y

    graph = fires(NAME, Subject(seeded(Two()), values(2, 3, 8)), layer_norm=1, add=1)
    assert fused(graph, "layer_norm")[0].args[3] is None


def _scaled_mean(x):
    centred = torch.sub(x, x.mean(-1, keepdim=True), alpha=2)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


def _other_axis(x):
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


def _other_value(x):
    centred = x - (x * 2).mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize("form", [_scaled_mean, _other_axis, _other_value])
def test_near_misses(form):
    stays(NAME, Subject(seeded(Norm(form)), values(2, 3, 8)), rms_norm=1, layer_norm=0)
