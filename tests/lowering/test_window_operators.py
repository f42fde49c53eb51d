"""Padding by the tensor's own elements, sliding windows, sampling at coordinates, smallest elements: from
capture to the CPU, without PyTorch at run time, over generated shapes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiers import slow_after
from torch import Tensor, nn
from torch.nn import functional as F

import forgec
from forgec.errors import UnsupportedOpError

SEED = 29
GEN = torch.Generator().manual_seed(SEED)


def f(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GEN)


class Function(nn.Module):
    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def check(function: Callable[..., object], *inputs: Tensor) -> list[str]:
    """Compile, compare with eager on two inputs; the ops of the program, among which nothing is PyTorch's."""
    model = Function(function).eval()
    exe = forgec.compile(model, inputs)
    for given in (inputs, tuple(x.flip(0).flip(-1) for x in inputs)):
        with torch.no_grad():
            want = model(*given)
        wanted, got = ((x if isinstance(x, tuple) else (x,)) for x in (want, exe(*given)))
        for theirs, ours in zip(wanted, got, strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.numpy().dtype
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=5e-6)
    ops = [instr.op for instr in exe.plan.program.main.body]
    assert "aten" not in ops
    return ops


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("spatial", slow_after(2, [1, 2, 3]))
def test_padding_by_elements(mode, spatial):
    rng = random.Random(SEED + spatial)
    for _ in range(4):
        sizes = [rng.randint(3, 6) for _ in range(spatial)]
        amounts = [rng.randint(0 if mode == "circular" else -1, n - 1) for n in sizes[::-1] for _ in range(2)]
        print("seed", SEED, "shape", sizes, "amounts", amounts)
        check(lambda x, a=amounts: F.pad(x, a, mode=mode) * 2, f(2, 3, *sizes))


def test_windows():
    rng = random.Random(SEED)
    for _ in range(8):
        shape = [rng.randint(2, 7) for _ in range(rng.randint(1, 4))]
        axis = rng.randrange(-len(shape), len(shape))
        size, step = rng.randint(1, shape[axis]), rng.randint(1, 4)
        print("seed", SEED, "shape", shape, "axis", axis, "size", size, "step", step)
        check(lambda x, a=axis, n=size, s=step: x.unfold(a, n, s) + 1, f(*shape))
    check(lambda x: x.sum().unfold(0, 1, 3), f(4))


def test_windows_side_by_side_are_views():
    assert set(check(lambda x: x.unfold(1, 2, 2).unfold(2, 3, 3) + 1, f(2, 7, 9))) <= {
        *("slice", "reshape", "transpose", "add"),
    }


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("mode", "spatial"), slow_after(2, [("bilinear", 2), ("nearest", 2), ("bilinear", 3)])
)
def test_samples_at_coordinates(mode, spatial, padding):
    """Coordinates reach three times as far as the image."""
    rng = random.Random(SEED)
    for corners in (False, True):
        sizes = [rng.randint(1 if spatial == 2 else 2, 6) for _ in range(spatial)]
        outputs = [rng.randint(1, 5) for _ in range(spatial)]
        print("seed", SEED, "sizes", sizes, "outputs", outputs, "corners", corners)
        check(
            lambda x, g, c=corners: F.grid_sample(x, g, mode, padding, c),
            f(2, 3, *sizes), f(2, *outputs, spatial) * 1.5,
        )  # fmt: skip


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_samples_at_the_borders(padding):
    """Coordinates of elements, of the borders between them and of the image's."""
    ends = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    grid = torch.stack(torch.meshgrid(ends, ends, indexing="ij"), -1)[None]
    for mode, corners in itertools.product(("bilinear", "nearest"), (False, True)):
        check(lambda x, g, m=mode, c=corners: F.grid_sample(x, g, m, padding, c), f(1, 2, 4, 4), grid)


def test_samples_leave_infinite_elements_alone_that_they_do_not_touch():
    image = torch.zeros(1, 1, 3, 3)
    image[..., 0] = float("inf")
    grid = torch.tensor([[[[1.0, 0.0], [0.5, 0.9], [3.0, 0.0]]]])
    check(lambda x, g: F.grid_sample(x, g, align_corners=True), image, grid)


def test_cubic_samples_are_pytorchs_or_refused():
    model = Function(lambda x, g: F.grid_sample(x, g, "bicubic", align_corners=True)).eval()
    with pytest.raises(UnsupportedOpError, match="grid_sampl"):
        forgec.compile(model, (f(1, 2, 4, 4), f(1, 3, 3, 2)), strict=True)


def test_smallest_elements():
    """The first of equal ones; of integers those that have no negative."""
    whole = torch.tensor([[3, -(2**63), 4, -(2**63)], [2**63 - 1, 0, -5, -5]])
    for x in (f(3, 4), whole):
        check(lambda x: (x.argmin(-1), x.argmin(0, keepdim=True), x.argmin()), x)
    for x in (f(3, 4), whole, whole % 3 == 0):
        check(lambda x: tuple(x.min(-1)) + tuple(x.min(0, keepdim=True)), x)
