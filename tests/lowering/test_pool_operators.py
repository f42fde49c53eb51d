"""Pooling modules from capture to the CPU: which become ``pool``, which a mean, and which stay PyTorch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import forgec

GEN = torch.Generator().manual_seed(12)


def f(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GEN)


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(*args)


def ops_of(model: nn.Module, x: Tensor) -> set[str]:
    """Compile, compare with eager on two inputs; the ops of the program."""
    model = model.eval()
    exe = forgec.compile(model, (x,))
    for given in (x, x.flip(-1)):
        with torch.no_grad():
            want = model(given).numpy()
        got = exe(given)
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return {instr.op for instr in exe.program.main.body}


POOLS: dict[str, tuple[nn.Module, Tensor]] = {
    "max 1-d": (nn.MaxPool1d(3, 2, 1), f(2, 4, 11)),
    "max 1-d dilated": (nn.MaxPool1d(3, 1, 1, dilation=2), f(2, 4, 11)),
    "max 1-d unbatched": (nn.MaxPool1d(2), f(4, 11)),
    "max 1-d rounded up": (nn.MaxPool1d(2, ceil_mode=True), f(2, 4, 11)),
    "max 2-d": (nn.MaxPool2d(2), f(2, 3, 8, 9)),
    "max 2-d rectangle": (nn.MaxPool2d((3, 2), (1, 2), (1, 0), dilation=(2, 1)), f(1, 3, 8, 9)),
    "max 2-d rounded up": (nn.MaxPool2d(3, 2, 1, ceil_mode=True), f(1, 3, 8, 8)),
    "max 2-d unbatched": (nn.MaxPool2d(2), f(3, 8, 9)),
    "max 2-d channels last": (Function(lambda x: F.max_pool2d(x.permute(0, 3, 1, 2), 2)), f(1, 8, 8, 3)),
    "max 2-d values of both": (
        Function(lambda x: F.max_pool2d(x, 2, return_indices=True)[0]), f(1, 3, 8, 8),
    ),
    "max 1-d values of both": (
        Function(lambda x: F.max_pool1d(x, 2, return_indices=True)[0]), f(1, 3, 8),
    ),
    "average 1-d": (nn.AvgPool1d(4, 3, 2), f(2, 4, 11)),
    "average 1-d rounded up": (nn.AvgPool1d(4, 3, 2, ceil_mode=True), f(2, 4, 10)),
    "average 2-d": (nn.AvgPool2d(2), f(2, 3, 8, 9)),
    "average 2-d of the input": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), f(2, 3, 8, 9)),
    "average 2-d rounded up": (nn.AvgPool2d((3, 2), 2, 1, ceil_mode=True), f(1, 3, 8, 9)),
    "average 2-d unbatched": (nn.AvgPool2d(3, 1), f(3, 8, 9)),
    "adaptive 1-d": (nn.AdaptiveAvgPool1d(4), f(2, 3, 12)),
    "adaptive 2-d": (nn.AdaptiveAvgPool2d((2, 3)), f(2, 3, 8, 9)),
    "adaptive 2-d of one axis": (nn.AdaptiveAvgPool2d((1, None)), f(2, 3, 8, 9)),
    "norm": (nn.LPPool2d(2, 2), f(1, 3, 8, 8)),
    "f16": (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2)), f(1, 3, 8, 8).half()),
}  # fmt: skip


@pytest.mark.parametrize("form", POOLS)
def test_pools_are_pools(form: str) -> None:
    ops = ops_of(*POOLS[form])
    assert "pool" in ops and "aten" not in ops


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.AdaptiveAvgPool1d(1), f(2, 3, 12)),
        (nn.AdaptiveAvgPool2d(1), f(2, 3, 8, 7)),
        (nn.AdaptiveAvgPool2d(1), f(3, 8, 7)),
    ],
)
def test_a_pool_of_everything_is_a_mean(model: nn.Module, x: Tensor) -> None:
    ops = ops_of(model, x)
    assert "mean" in ops and not {"pool", "aten"} & ops


PYTORCHS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "windows of different sizes": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), f(1, 3, 8, 8)),
    "a divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), f(1, 3, 8, 8)),
    "indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 2, f(1, 3, 8, 8)),
    "integers": (lambda x: F.max_pool2d(x, 2), (f(1, 3, 8, 8) * 9).long()),
    "an adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, 2), f(1, 3, 8, 8)),
}


@pytest.mark.parametrize("form", PYTORCHS)
def test_other_forms_stay_pytorchs(form: str) -> None:
    function, x = PYTORCHS[form]
    ops = ops_of(Function(function), x)
    assert "aten" in ops and "pool" not in ops


def test_a_program_in_core_aten() -> None:
    """There a maximum always comes with its indices."""
    x = f(1, 3, 8, 8)
    program = torch.export.export(nn.MaxPool2d(3, 2, 1), (x,)).run_decompositions()
    assert any("with_indices" in str(node.target) for node in program.graph.nodes)
    exe = forgec.compile(program, (x,))
    assert [instr.op for instr in exe.program.main.body] == ["pool"]
    np.testing.assert_array_equal(exe(x), F.max_pool2d(x, 3, 2, 1).numpy())


def test_a_small_network_runs_without_pytorchs_kernels() -> None:
    """Convolutions, both poolings and a head; the compiler is strict, so nothing falls back."""
    torch.manual_seed(13)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.GELU(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).eval()
    x = f(2, 3, 17, 19)
    exe = forgec.compile(model, (x,), strict=True)
    with torch.no_grad():
        np.testing.assert_allclose(exe(x), model(x).numpy(), rtol=1e-5, atol=1e-5)
    assert [instr.op for instr in exe.program.main.body].count("pool") == 2
