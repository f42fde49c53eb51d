"""Converters of reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import UnsupportedOpError
from ...graph import TORCH_DTYPES
from ..types import DType, TensorType
from .builder import FunctionBuilder
from .elementwise import binary, literal
from .registry import lowers


def _axes(x: Any, dim: int | Sequence[int] | None) -> tuple[int, ...]:
    rank = x.type.rank
    if dim is None or (not isinstance(dim, int) and not dim):
        return tuple(range(rank))
    return tuple(axis % rank for axis in ([dim] if isinstance(dim, int) else dim))


def _reduction(op: str) -> Any:
    def convert(b: FunctionBuilder, self: Any, dim: Any, keepdim: bool) -> Any:
        assert isinstance(b.result_type, TensorType)
        return b.emit(op, b.cast(self, b.result_type.dtype), axes=_axes(self, dim), keepdims=keepdim)

    return convert


def _full_reduction(op: str) -> Any:
    def convert(b: FunctionBuilder, self: Any) -> Any:
        assert isinstance(b.result_type, TensorType)
        return b.emit(op, b.cast(self, b.result_type.dtype), axes=_axes(self, None), keepdims=False)

    return convert


lowers("aten.mean.dim")(_reduction("mean"))
lowers("aten.sum.dim_IntList")(_reduction("sum"))
lowers("aten.amax.default")(_reduction("max"))
lowers("aten.amin.default")(_reduction("min"))
lowers("aten.prod.dim_int")(_reduction("prod"))
lowers("aten.any.dim", "aten.any.dims")(_reduction("any"))
lowers("aten.all.dim", "aten.all.dims")(_reduction("all"))
for _name in ("mean", "sum", "max", "min", "prod", "any", "all"):
    lowers(f"aten.{_name}.default")(_full_reduction(_name))


@lowers("aten.max.dim")
def max_dim(b: FunctionBuilder, self: Any, dim: int, keepdim: bool) -> Any:
    return (
        b.emit("max", self, axes=_axes(self, dim), keepdims=keepdim),
        b.emit("argmax", self, axis=dim, keepdims=keepdim),
    )


@lowers("aten.argmax")
def argmax(b: FunctionBuilder, self: Any, dim: int | None, keepdim: bool) -> Any:
    if dim is None:
        flat = b.reshape(self, (self.type.numel,))
        return b.reshape(b.emit("argmax", flat, axis=0), (1,) * self.type.rank if keepdim else ())
    return b.emit("argmax", self, axis=dim, keepdims=keepdim)


@lowers("aten.min.dim")
def min_dim(b: FunctionBuilder, self: Any, dim: int, keepdim: bool) -> Any:
    return b.emit("min", self, axes=_axes(self, dim), keepdims=keepdim), argmin(b, self, dim, keepdim)


@lowers("aten.argmin")
def argmin(b: FunctionBuilder, self: Any, dim: int | None, keepdim: bool) -> Any:
    """The largest of what falls as the elements rise; for integers without overflow."""
    if self.type.dtype.is_float:
        return argmax(b, b.emit("neg", self), dim, keepdim)
    wide = b.cast(self, DType.I64)
    return argmax(b, b.emit("sub", literal(-1, DType.I64), wide), dim, keepdim)


@lowers("aten.var.correction")
def variance(b: FunctionBuilder, self: Any, dim: Any, correction: Any, keepdim: bool) -> Any:
    axes = _axes(self, dim)
    centred = b.emit("sub", self, b.emit("mean", self, axes=axes, keepdims=True))
    mean = b.emit("mean", b.emit("mul", centred, centred), axes=axes, keepdims=keepdim)
    count = 1
    for axis in axes:
        count *= self.type.shape[axis]
    bias = 1 if correction is None else correction
    return mean if bias == 0 else binary(b, "mul", mean, count / (count - bias))


@lowers("aten.norm.ScalarOpt_dim")
def norm(b: FunctionBuilder, self: Any, p: Any, dim: Any, keepdim: bool) -> Any:
    return vector_norm(b, self, 2 if p is None else p, dim, keepdim)


@lowers("aten.linalg_vector_norm")
def vector_norm(b: FunctionBuilder, self: Any, ord: Any, dim: Any, keepdim: bool) -> Any:
    if ord != 2:
        raise UnsupportedOpError(f"the {ord}-norm has no lowering", hint="use the 2-norm or torch.sum")
    total = b.emit("sum", b.emit("mul", self, self), axes=_axes(self, dim), keepdims=keepdim)
    return b.emit("sqrt", total)


@lowers("aten.cumsum")
def cumsum(b: FunctionBuilder, self: Any, dim: int, dtype: Any) -> Any:
    target = TORCH_DTYPES[dtype] if dtype is not None else _sum_dtype(self.type.dtype)
    return b.emit("cumsum", b.cast(self, target), axis=dim)


def _sum_dtype(dtype: DType) -> DType:
    return dtype if dtype.is_float else DType.I64


@lowers("aten.topk")
def top_k(b: FunctionBuilder, self: Any, k: int, dim: int, largest: bool) -> Any:
    if not largest or dim % self.type.rank != self.type.rank - 1:
        raise UnsupportedOpError("topk has a lowering for the largest of the last axis only")
    return b.emit("top_k", self, k=k)
