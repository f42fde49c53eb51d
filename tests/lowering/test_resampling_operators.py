"""Interpolation, transposed convolution, batch norm of stored statistics, scatters along an axis: from capture to
the CPU, without PyTorch at run time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import forgec
from forgec.errors import UnsupportedOpError

GEN = torch.Generator().manual_seed(13)


def f(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GEN)


def i(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=GEN)


class Function(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def check(model: nn.Module, *inputs: Tensor) -> set[str]:
    """Compile, compare with eager on two inputs; the ops of the program, among which nothing is PyTorch's."""
    model = model.eval()
    exe = forgec.compile(model, inputs)
    for given in (inputs, tuple(x.flip(-1) for x in inputs)):
        with torch.no_grad():
            want = model(*given).numpy()
        got = exe(*given)
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)
    ops = {instr.op for instr in exe.plan.program.main.body}
    assert "aten" not in ops
    return ops


@pytest.mark.parametrize(
    ("shape", "given"),
    [
        ((2, 3, 5), {"size": 9, "mode": "linear"}),
        ((2, 3, 5, 4), {"size": (9, 7), "mode": "bilinear"}),
        ((2, 3, 5, 4), {"size": (9, 3), "mode": "bilinear", "align_corners": True}),
        ((2, 3, 5, 4), {"scale_factor": 2.3, "mode": "bilinear"}),
        ((1, 2, 9, 8), {"size": (1, 3), "mode": "bilinear", "align_corners": True}),
        ((1, 2, 5, 4), {"size": (9, 6), "mode": "bicubic"}),
        ((1, 2, 5, 4), {"scale_factor": (1.7, 0.6), "mode": "bicubic", "align_corners": True}),
        ((2, 3, 5), {"scale_factor": 3.0, "mode": "nearest"}),
        ((2, 3, 5, 4), {"size": (7, 9), "mode": "nearest"}),
        ((2, 3, 10, 7), {"scale_factor": 0.43, "mode": "nearest"}),
        ((2, 3, 5, 4), {"size": (7, 3), "mode": "nearest-exact"}),
        ((1, 2, 3, 4, 2), {"size": (5, 4, 3), "mode": "trilinear"}),
    ],
    ids=str,
)
def test_interpolation(shape, given):
    ops = check(Function(lambda x: F.interpolate(x, **given)), f(*shape))
    assert ("gather" in ops) == ("nearest" in given["mode"]) and ("linear" in ops) == (
        "nearest" not in given["mode"]
    )


def test_an_axis_that_keeps_its_size_is_left_alone():
    ops = check(Function(lambda x: F.interpolate(x, size=(5, 4), mode="bilinear") + 1), f(1, 2, 5, 4))
    assert "linear" not in ops


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 2, 2), (2, 4, 5, 3)),
        (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1), (2, 4, 5, 3)),
        (nn.ConvTranspose2d(4, 6, (3, 2), (1, 3), (2, 0), bias=False, dilation=(2, 1)), (1, 4, 5, 3)),
        (nn.ConvTranspose2d(4, 6, 3, 3, groups=2), (1, 4, 5, 3)),
        (nn.ConvTranspose1d(4, 6, 5, 2, 3), (2, 4, 7)),
        (nn.ConvTranspose1d(4, 2, 4, 4), (2, 4, 7)),
    ],
    ids=str,
)
def test_transposed_convolution(module, shape):
    ops = check(module, f(*shape))
    patches = module.stride == module.kernel_size and module.groups == 1
    assert ("conv" in ops) != patches and ("linear" in ops) == patches


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.BatchNorm2d(3), (2, 3, 4, 5)),
        (nn.BatchNorm1d(3, affine=False), (4, 3)),
        (nn.BatchNorm1d(3, eps=0.1), (2, 3, 4)),
    ],
    ids=str,
)
def test_batch_norm_of_stored_statistics(module, shape):
    module.running_mean.copy_(f(3))
    module.running_var.copy_(f(3).abs() + 0.1)
    check(module, f(*shape))
    in_place = nn.Sequential(module, nn.ReLU(inplace=True))  # torch then gives another operator
    check(in_place, f(*shape))


def test_batch_norm_over_the_batch_is_pytorchs_or_refused():
    model = Function(lambda x: F.batch_norm(x, None, None, training=True)).eval()
    with pytest.raises(UnsupportedOpError, match="batch_norm"):
        forgec.compile(model, (f(4, 3),), strict=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, j, v: x.scatter(1, j, v),
        lambda x, j, v: x.scatter(-2, j % 3, v),
        lambda x, j, v: x.scatter(1, j, 2.5),
        lambda x, j, v: torch.zeros_like(x).scatter_add(1, j, v),
        lambda x, j, v: torch.ops.aten._unsafe_index.Tensor(x, [None, j[0]]),
    ],
    ids=["source", "first axis", "number", "sums", "index"],
)
def test_scatters_along_an_axis(function):
    places = torch.stack([torch.randperm(5, generator=GEN)[:3] for _ in range(2)])
    check(Function(function), f(3, 5), places, f(3, 4))
