"""Converters of matrix products, convolutions and normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import UnsupportedOpError
from ...graph import torch_dtype
from ..types import TensorType
from .builder import FunctionBuilder
from .elementwise import binary, literal
from .registry import lowers
from .resampling import transposed_convolution
from .shape import permute, slice_axis


@lowers("aten.linear")
def linear(b: FunctionBuilder, input: Any, weight: Any, bias: Any) -> Any:
    """A weight of rank 1 is one row, and the result has no axis for it."""
    assert isinstance(b.result_type, TensorType)
    matrix = b.reshape(weight, (1, weight.type.shape[0])) if weight.type.rank == 1 else weight
    if bias is None or bias.type.shape == matrix.type.shape[:1]:
        return b.reshape(b.emit("linear", input, matrix, bias, None), b.result_type.shape)
    product = b.reshape(b.emit("linear", input, matrix, None, None), b.result_type.shape)
    return binary(b, "add", product, bias)


@lowers("aten.addmm")
def addmm(b: FunctionBuilder, self: Any, mat1: Any, mat2: Any, beta: Any, alpha: Any) -> Any:
    weight = permute(b, mat2, (1, 0))
    if beta == 1 and alpha == 1 and self.type.shape == (mat2.type.shape[1],):
        return b.emit("linear", mat1, weight, self, None)
    product = b.emit("linear", mat1, weight, None, None)
    product = product if alpha == 1 else binary(b, "mul", product, alpha)
    return binary(b, "add", product, self if beta == 1 else binary(b, "mul", self, beta))


@lowers("aten.mm")
def mm(b: FunctionBuilder, self: Any, mat2: Any) -> Any:
    return b.emit("linear", self, permute(b, mat2, (1, 0)), None, None)


@lowers("aten.bmm")
def bmm(b: FunctionBuilder, self: Any, mat2: Any) -> Any:
    return b.emit("matmul", self, mat2)


@lowers("aten.baddbmm")
def baddbmm(b: FunctionBuilder, self: Any, batch1: Any, batch2: Any, beta: Any, alpha: Any) -> Any:
    product = b.emit("matmul", batch1, batch2)
    product = product if alpha == 1 else binary(b, "mul", product, alpha)
    return binary(b, "add", product, self if beta == 1 else binary(b, "mul", self, beta))


@lowers("aten.matmul")
def matmul(b: FunctionBuilder, self: Any, other: Any) -> Any:
    """A right side of rank 2 is a linear; a vector gets a second axis that the result loses again."""
    if other.type.rank == 2:
        return b.emit("linear", self, permute(b, other, (1, 0)), None, None)
    left = b.reshape(self, (1, *self.type.shape)) if self.type.rank == 1 else self
    right = b.reshape(other, (*other.type.shape, 1)) if other.type.rank == 1 else other
    assert isinstance(b.result_type, TensorType)
    return b.reshape(b.emit("matmul", left, right), b.result_type.shape)


@lowers("aten.conv1d", "aten.conv2d")
def conv(
    b: FunctionBuilder,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Any:
    spatial = weight.type.rank - 2

    def sizes(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(values) * spatial if len(values) == 1 else tuple(values)

    attrs: dict[str, Any] = {
        "stride": sizes(stride),
        "padding": sizes(padding),
        "dilation": sizes(dilation),
        "groups": groups,
    }
    if input.type.rank == spatial + 1:
        lifted = b.emit("conv", b.reshape(input, (1, *input.type.shape)), weight, bias, **attrs)
        return b.reshape(lifted, lifted.type.shape[1:])
    return b.emit("conv", input, weight, bias, **attrs)


@lowers("aten.conv1d.padding", "aten.conv2d.padding")
def conv_named_padding(
    b: FunctionBuilder,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: str,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    extents = [d * (k - 1) for k, d in zip(weight.type.shape[2:], dilation, strict=False)]
    if padding == "same" and any(extent % 2 for extent in extents):
        raise UnsupportedOpError('padding="same" with an even kernel has no lowering', hint="pad explicitly")
    sizes = [0] * len(extents) if padding == "valid" else [extent // 2 for extent in extents]
    return conv(b, input, weight, bias, stride, sizes, dilation, groups)


@lowers("aten.convolution")
def convolution(
    b: FunctionBuilder,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    patches = tuple(stride) == weight.type.shape[2:] and not any(padding) and groups == 1
    if weight.type.rank == 5 and patches and not transposed and all(d == 1 for d in dilation):
        return _volume_patches(b, input, weight, bias)
    if weight.type.rank not in (3, 4):
        raise UnsupportedOpError(f"a convolution over {weight.type.rank - 2} axes has no lowering")
    if transposed:
        return transposed_convolution(
            b, input, weight, bias, stride, padding, dilation, output_padding, groups
        )
    return conv(b, input, weight, bias, stride, padding, dilation, groups)


def _volume_patches(b: FunctionBuilder, x: Any, weight: Any, bias: Any) -> Any:
    """Patches side by side, as encoders for video take them, are the rows of a product."""
    outputs, channels, *kernel = weight.type.shape
    batch = x.type.shape[0]
    counts = [n // k for n, k in zip(x.type.shape[2:], kernel, strict=True)]
    for axis, (count, k) in enumerate(zip(counts, kernel, strict=True), 2):
        x = slice_axis(b, x, axis, 0, count * k)
    parts = [n for pair in zip(counts, kernel, strict=True) for n in pair]
    apart = permute(b, b.reshape(x, (batch, channels, *parts)), (0, 2, 4, 6, 1, 3, 5, 7))
    depth = weight.type.numel // outputs
    rows = b.reshape(apart, (batch, *counts, depth))
    y = b.emit("linear", rows, b.reshape(weight, (outputs, depth)), bias, None)
    return permute(b, y, (0, 4, 1, 2, 3))


@lowers("aten.layer_norm")
def layer_norm(
    b: FunctionBuilder, input: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    return _norm_last(b, "layer_norm", input, normalized_shape, [weight, bias], eps)


@lowers("aten.rms_norm.default")
def aten_rms_norm(
    b: FunctionBuilder, input: Any, normalized_shape: Sequence[int], weight: Any, eps: float | None
) -> Any:
    if eps is None:
        eps = torch.finfo(torch_dtype(input.type.dtype)).eps
    return _norm_last(b, "rms_norm", input, normalized_shape, [weight], eps)


@lowers("aten.batch_norm")
def batch_norm(
    b: FunctionBuilder,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    eps: float,
) -> Any:
    """Of stored statistics: a factor and a summand per channel, which are constants."""
    if training or running_mean is None or running_var is None:
        raise UnsupportedOpError("batch norm over the batch has no lowering", hint="call model.eval() first")
    variance = b.emit("add", running_var, literal(eps, running_var.type.dtype))
    factor = b.emit("rsqrt", variance)
    if weight is not None:
        factor = b.emit("mul", factor, b.cast(weight, factor.type.dtype))
    shift = b.emit("mul", running_mean, factor)
    zero = literal(0, shift.type.dtype)
    shift = b.emit("sub", zero if bias is None else b.cast(bias, shift.type.dtype), shift)
    per_channel = (factor.type.shape[0], *(1,) * (input.type.rank - 2))
    x = b.cast(input, factor.type.dtype)
    y = b.emit("add", b.emit("mul", x, b.reshape(factor, per_channel)), b.reshape(shift, per_channel))
    return b.cast(y, input.type.dtype)


@lowers("aten._native_batch_norm_legit_no_training")
def batch_norm_of_statistics(
    b: FunctionBuilder, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, eps: float
) -> Any:
    y = batch_norm(b, input, weight, bias, running_mean, running_var, False, eps)
    empty = b.tensor(torch.empty(0))
    return y, empty, empty


@lowers("aten.group_norm")
def group_norm(b: FunctionBuilder, input: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Any:
    batch, channels = input.type.shape[:2]
    grouped = b.reshape(input, (batch, num_groups, input.type.numel // (batch * num_groups)))
    y = b.reshape(b.emit("layer_norm", grouped, None, None, eps=eps), input.type.shape)
    per_channel = (channels, *(1,) * (input.type.rank - 2))
    for op, parameter in (("mul", weight), ("add", bias)):
        if parameter is not None:
            y = b.emit(op, y, b.reshape(parameter, per_channel))
    return y


def _norm_last(
    b: FunctionBuilder, op: str, x: Any, axes: Sequence[int], parameters: Sequence[Any], eps: float
) -> Any:
    """Normalise over the last axes, flattened to one; in the widest of the element types that are given."""
    dtypes = {v.type.dtype for v in (x, *parameters) if v is not None}
    if len(dtypes) > 1:
        wide = max(dtypes, key=lambda dtype: dtype.itemsize)
        cast = [None if p is None else b.cast(p, wide) for p in parameters]
        assert isinstance(b.result_type, TensorType)
        return b.cast(_norm_last(b, op, b.cast(x, wide), axes, cast, eps), b.result_type.dtype)
    if len(axes) == 1:
        return b.emit(op, x, *parameters, eps=eps)
    size = 1
    for n in axes:
        size *= n
    flat = b.reshape(x, (*x.type.shape[: -len(axes)], size))
    y = b.emit(op, flat, *(None if p is None else b.reshape(p, (size,)) for p in parameters), eps=eps)
    return b.reshape(y, x.type.shape)
