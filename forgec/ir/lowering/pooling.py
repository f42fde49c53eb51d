"""Converters of pooling. What has no form in ``pool`` is refused here and so stays PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import UnsupportedOpError
from .builder import FunctionBuilder
from .registry import lowers


def _sizes(values: Sequence[int], spatial: int) -> tuple[int, ...]:
    """One number for each axis; a single one stands for all."""
    return tuple(values) * spatial if len(values) == 1 else tuple(values)


def _pool(
    b: FunctionBuilder,
    x: Any,
    kind: str,
    kernel: tuple[int, ...],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
    include_padding: bool = False,
) -> Any:
    """``pool`` on an input with or without a batch axis; no stride is that of windows side by side."""
    spatial = len(kernel)
    _require_float(x)
    batched = x if x.type.rank == spatial + 2 else b.reshape(x, (1, *x.type.shape))
    y = b.emit(
        "pool",
        batched,
        kind=kind,
        kernel=kernel,
        stride=_sizes(stride or kernel, spatial),
        padding=_sizes(padding, spatial),
        dilation=_sizes(dilation, spatial),
        ceil=bool(ceil),
        include_padding=bool(include_padding and any(padding)),
    )
    return y if batched is x else b.reshape(y, y.type.shape[1:])


def _require_float(x: Any) -> None:
    if not x.type.dtype.is_float:
        raise UnsupportedOpError(f"pooling of {x.type} has no lowering", hint="cast to floating point first")


def _max_pool(spatial: int, with_indices: bool) -> Any:
    """The converter of a maximum, or of one that gives pairs of values and their indices."""

    def convert(
        b: FunctionBuilder,
        self: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> Any:
        if with_indices and 1 in b.used:
            raise UnsupportedOpError("the indices of a max_pool have no lowering", hint="use its values only")
        y = _pool(b, self, "max", _sizes(kernel_size, spatial), stride, padding, dilation, ceil_mode)
        return (y, None) if with_indices else y

    return convert


def _average(
    b: FunctionBuilder,
    x: Any,
    kernel: tuple[int, ...],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Any:
    return _pool(b, x, "average", kernel, stride, padding, ceil=ceil_mode, include_padding=count_include_pad)


@lowers("aten.avg_pool1d")
def avg_pool1d(
    b: FunctionBuilder,
    self: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Any:
    return _average(b, self, _sizes(kernel_size, 1), stride, padding, ceil_mode, count_include_pad)


@lowers("aten.avg_pool2d")
def avg_pool2d(
    b: FunctionBuilder,
    self: Any,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Any:
    if divisor_override is not None:
        raise UnsupportedOpError(
            f"avg_pool2d with divisor_override={divisor_override} has no lowering",
            hint="leave it out, and multiply the averages",
        )
    return _average(b, self, _sizes(kernel_size, 2), stride, padding, ceil_mode, count_include_pad)


def _adaptive(spatial: int) -> Any:
    def convert(b: FunctionBuilder, self: Any, output_size: Sequence[int]) -> Any:
        """To one element it is a mean; else windows side by side, if all of them have the same size."""
        _require_float(self)
        rank, shape, counts = self.type.rank, self.type.shape[-spatial:], _sizes(output_size, spatial)
        if all(count == 1 for count in counts):
            return b.emit("mean", self, axes=tuple(range(rank - spatial, rank)), keepdims=True)
        if any(count < 1 or size % count for size, count in zip(shape, counts, strict=True)):
            raise UnsupportedOpError(
                f"adaptive pooling of {list(shape)} to {list(counts)} needs windows of different sizes",
                hint="pool to sizes that divide those of the input",
            )
        kernel = tuple(size // count for size, count in zip(shape, counts, strict=True))
        return _pool(b, self, "average", kernel, kernel, (0,))

    return convert


for _spatial in (1, 2):
    lowers(f"aten.max_pool{_spatial}d")(_max_pool(_spatial, with_indices=False))
    lowers(f"aten.max_pool{_spatial}d_with_indices")(_max_pool(_spatial, with_indices=True))
    lowers(f"aten.adaptive_avg_pool{_spatial}d", f"aten._adaptive_avg_pool{_spatial}d")(_adaptive(_spatial))
