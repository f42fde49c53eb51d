"""Parts that are taken before what computes them."""

from __future__ import annotations

import random

import pytest
import torch
from pass_checks import Subject, settle, stays, survives, values
from pass_modules import Call
from torch import nn
from torch.nn import functional as F

from forgec.graph import CapturedGraph

NAME = "slice_motion"


def convolution(**options) -> nn.Module:
    return nn.Conv1d(6, 6, 4, groups=6, **options)


FORMS = {
    "slice of a slice": (lambda m, x: x[..., 1:7][..., 2:4], {}),
    "from the end": (lambda m, x: x[..., 1:-1][..., -3:], {}),
    "unary": (lambda m, x: F.silu(x)[..., -1:], {}),
    "cast": (lambda m, x: x.double()[:, 2:4], {}),
    "one of several tensors": (lambda m, x: torch.cat((x, x + 1, x + 2), 1)[:, 6:12], {}),
    "a part of one of several": (lambda m, x: torch.cat((x + 1, x), -1)[..., 9:11], {}),
    "rows of a linear": (
        lambda m, x: m.linear(x).index_select(1, torch.tensor([4, 0])),
        {"linear": nn.Linear(8, 5)},
    ),
    "several": (lambda m, x: torch.exp(-torch.sigmoid(x))[:, :2, 1:3], {}),
    "no padding": (lambda m, x: m.conv(x)[..., 1:3], {"conv": convolution()}),
    "last inputs of a causal convolution": (
        lambda m, x: F.silu(m.conv(x)[..., :8])[..., -1:],
        {"conv": convolution(padding=3)},
    ),
    "as much padding on both sides": (lambda m, x: m.conv(x)[..., 1:-1], {"conv": convolution(padding=3)}),
    "strides and dilation": (
        lambda m, x: m.conv(x)[..., 2:3],
        {"conv": nn.Conv1d(6, 4, 3, stride=2, dilation=2, padding=4)},
    ),
}


def moved(subject: Subject) -> CapturedGraph:
    graph = subject.graph.copy()
    assert settle(graph, NAME) > 0
    subject.check(graph)
    return graph


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    function, parts = FORMS[form]
    subject = Subject(Call(function, **parts), values(2, 6, 8))
    graph = moved(subject)
    sliced = [n for n in graph.graph.nodes if n.target is torch.ops.aten.slice.Tensor]
    assert all(n.args[0].op == "placeholder" or n.args[0].target is n.target for n in sliced)
    survives(subject)


def test_images_and_no_batch():
    conv = nn.Conv2d(3, 4, (3, 5), padding=(1, 2))
    graph = moved(Subject(Call(lambda m, x: m.conv(x)[:, :, 2:4, 3:5], conv=conv), values(1, 3, 8, 9)))
    (made,) = (n for n in graph.graph.nodes if n.target is torch.ops.aten.conv2d.default)
    assert list(made.args[4]) == [0, 0] and made.args[0].meta["type"].shape == (1, 3, 4, 6)
    moved(Subject(Call(lambda m, x: m.conv(x)[:, 2:5], conv=convolution(padding=1)), values(6, 8)))


NEAR = {
    "read twice": lambda m, x: ((y := F.silu(x))[..., :2], y),
    "a slice that others read": lambda m, x: (y := x[:, 1:7], y[:, 2:4]),
    "with steps": lambda m, x: F.silu(x)[..., ::2],
    "channels": lambda m, x: m.conv(x)[:, 1:3],
    "padding at one end": lambda m, x: m.conv(x)[..., :4],
    "steps of a slice": lambda m, x: x[..., ::2][..., 1:3],
    "two axes": lambda m, x: x[..., 1:7][:, 1:3],
    "two operands": lambda m, x: (x * x)[..., 1:3],
}


@pytest.mark.parametrize("form", NEAR)
def test_near_misses(form):
    stays(NAME, Subject(Call(NEAR[form], conv=convolution(padding=3)), values(2, 6, 8)))


def test_random_parts_of_convolutions():
    for seed in range(60):
        print("seed", seed)
        rng = random.Random(seed)
        kernel, stride, dilation = rng.randint(1, 4), rng.randint(1, 3), rng.randint(1, 3)
        conv = nn.Conv1d(2, 2, kernel, stride=stride, dilation=dilation, padding=rng.randint(0, 4))
        x = values(1, 2, rng.randint((kernel - 1) * dilation + 1, 20))
        size = conv(x).shape[-1]
        start = rng.randrange(size)
        stop = rng.randint(start + 1, size)
        subject = Subject(Call(lambda m, x: m.conv(x)[..., start:stop], conv=conv), x)  # noqa: B023
        graph = subject.graph.copy()
        settle(graph, NAME)
        subject.check(graph)
