"""Matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..registry import CONTRIB, Unsupported, converts
from .elementwise import elu, hard_sigmoid, leaky_relu, selu, thresholded_relu

__all__ = ["spatial_padding"]


@converts("MatMul")
def matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


@converts("FusedMatMul", domain=CONTRIB)
def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Tensor:
    if transBatchA or transBatchB:
        raise Unsupported("transposed batches")
    product = torch.matmul(a.mT if transA else a, b.mT if transB else b)
    return product if alpha == 1 else product * alpha


@converts("Gemm")
def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 1,
) -> Tensor:
    a = a.t() if transA else a
    if transB and alpha == 1 and (c is None or (beta == 1 and c.shape == b.shape[:1])):
        return F.linear(a, b, c)
    b = b.t() if transB else b
    if c is not None and alpha == 1 and beta == 1 and c.shape == b.shape[1:] and a.is_floating_point():
        return torch.addmm(c, a, b)
    product = torch.matmul(a, b)
    product = product if alpha == 1 else product * alpha
    if c is None:
        return product
    return product + (c if beta == 1 else c * beta)


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": F.relu, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Softplus": F.softplus,
    "Softsign": F.softsign, "LeakyRelu": leaky_relu, "Elu": elu, "HardSigmoid": hard_sigmoid, "Selu": selu,
    "ThresholdedRelu": thresholded_relu,
}  # fmt: skip


@converts("FusedGemm", domain=CONTRIB)
def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
) -> Tensor:
    if activation not in _ACTIVATIONS:
        raise Unsupported(f"activation {activation!r}")
    given = {"alpha": activation_alpha, "beta": activation_beta, "gamma": activation_gamma}
    y = gemm(a, b, c, alpha=alpha, beta=beta, transA=transA, transB=transB)
    return _ACTIVATIONS[activation](y, **{name: x for name, x in given.items() if x is not None})


@converts("Einsum")
def einsum(*xs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *xs)


@converts("Conv")
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    axes = x.ndim - 2
    if axes not in (1, 2, 3):
        raise Unsupported(f"{axes} spatial axes")
    dilations, strides = list(dilations or [1] * axes), list(strides or [1] * axes)
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    x, padding = spatial_padding(x, kernel, strides, auto_pad, pads)
    function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return function(x, weight, bias, strides, padding, dilations, group)


@converts("ConvTranspose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    output_padding: Any = None,
    output_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Tensor:
    """The whole product, of which what is padding is cut off."""
    axes = x.ndim - 2
    if axes not in (1, 2):
        raise Unsupported(f"{axes} spatial axes")
    dilations, strides = list(dilations or [1] * axes), list(strides or [1] * axes)
    more = list(output_padding or [0] * axes)
    function = (F.conv_transpose1d, F.conv_transpose2d)[axes - 1]
    whole = [
        (n - 1) * stride + (k - 1) * d + 1
        for n, k, stride, d in zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
    ]
    before, after = (list(pads[:axes]), list(pads[axes:])) if pads else ([0] * axes, [0] * axes)
    wanted = list(output_shape)[-axes:] if output_shape else None
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * stride for n, stride in zip(x.shape[2:], strides, strict=True)]
    if wanted is not None:
        for i, size in enumerate(wanted):
            total = max(whole[i] + more[i] - size, 0)
            half = total // 2
            before[i], after[i] = (half, total - half) if auto_pad != "SAME_LOWER" else (total - half, half)
            more[i] = max(size - whole[i], more[i])
    elif auto_pad not in ("NOTSET", "VALID", ""):
        raise Unsupported(f"auto_pad {auto_pad}")
    y = function(x, weight, bias, strides, [0] * axes, 0, group, dilations)
    sides = [n for b, a, m in zip(before[::-1], after[::-1], more[::-1], strict=True) for n in (-b, m - a)]
    grows = any(n > 0 for n in sides)
    if grows and bias is not None:
        raise Unsupported("more results than elements reach, with a bias")
    return F.pad(y, sides) if any(sides) else y


def spatial_padding(
    x: Tensor, kernel: list[int], strides: list[int], auto_pad: str, pads: Any, fill: float = 0.0
) -> tuple[Tensor, list[int]]:
    """The input, and how much to pad on both sides of each spatial axis; what is uneven is padded here."""
    axes = x.ndim - 2
    before = [0] * axes if pads is None else list(pads[:axes])
    after = [0] * axes if pads is None else list(pads[axes:])
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        for i, (size, k, stride) in enumerate(zip(x.shape[2:], kernel, strides, strict=True)):
            total = max((math.ceil(size / stride) - 1) * stride + k - size, 0)
            small, large = total // 2, total - total // 2
            before[i], after[i] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad not in ("NOTSET", "VALID", ""):
        raise Unsupported(f"auto_pad {auto_pad}")
    if before == after:
        return x, before
    sides = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    return F.pad(x, sides, value=fill), [0] * axes
