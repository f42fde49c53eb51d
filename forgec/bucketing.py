"""Compile a model for several sizes of some dimensions, as programs that share their weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from .capture.own_code import own_code
from .capture.structure import parameter_names
from .check import Rounding, checking_together
from .compile import Progress, planned, resolve
from .errors import FidelityError, OptionError
from .executable import Buckets, Dim, Executable, Programs
from .executable.buckets import FILE, DynamicShapes, bucket_name, to_bytes, varying_axes
from .executable.constants import Kept
from .options import Options
from .plan.plan import HOST
from .report.metrics import max_abs
from .tensors import as_numpy

__all__ = ["compile_buckets"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keywords."""


def compile_buckets(
    model: Any,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: DynamicShapes,
    target: str = HOST,
    options: Options | Mapping[str, Any] | None = None,
    name: str | None = None,
    origin: str = "",
    progress: Progress | None = None,
    **named_options: Any,
) -> Buckets:
    """Compile a model once for every combination of sizes that ``dynamic_shapes`` gives.

    ``dynamic_shapes`` maps an input's name to the dimensions of its axes, for example
    ``{"input_ids": {1: tokens}, "attention_mask": {1: tokens}}`` with ``tokens = Dim("tokens", 64, 128)``.
    All else is as for ``forgec.compile``; the example inputs may have any size. An output's axis that has a
    dimension's size in every program is cut back to the size of the call.

    Raises what ``forgec.compile`` raises, ``OptionError`` for an input or axis that does not exist, and
    ``FidelityError`` if the result on a padded input is not that of eager PyTorch on the input itself.
    """
    chosen = Options.of(options, **named_options)
    module, args, kwargs, name, origin = resolve(model, args, kwargs, name, origin)
    if not isinstance(module, nn.Module):
        raise OptionError(f"a {type(module).__name__} has fixed sizes", hint="give the nn.Module")
    given = dict(zip(parameter_names(module, len(args)), args, strict=False)) | dict(kwargs or {})
    dims = _dims(dynamic_shapes, given)
    programs: dict[tuple[tuple[str, int], ...], Executable] = {}
    kept = Kept(several=True)
    # The largest first: it is the program that a reader of a single one runs.
    for sizes in itertools.product(*(dim.sizes[::-1] for dim in dims.values())):
        chosen_sizes = dict(zip(dims, sizes, strict=True))
        resized_args, resized_kwargs = _resized(args, kwargs or {}, given, dynamic_shapes, chosen_sizes)
        programs[tuple(chosen_sizes.items())] = planned(
            module,
            resized_args,
            resized_kwargs,
            target=target,
            chosen=chosen,
            name=name,
            origin=origin,
            kept=kept,
            progress=progress,
        ).finished()
    entries = {bucket_name(dict(sizes)): executable for sizes, executable in programs.items()}
    main = next(iter(entries.values()))
    inputs = {name: {axis: dim.name for axis, dim in axes.items()} for name, axes in dynamic_shapes.items()}
    sizes_of = {name: dim.sizes for name, dim in dims.items()}
    main.add_extra({FILE: to_bytes(sizes_of, inputs, varying_axes(programs))})
    buckets = Buckets(Programs(entries))
    if chosen.check:
        largest = {name: dim.sizes[-1] for name, dim in dims.items()}
        short = {name: _short(size) for name, size in largest.items()}
        rounding = Rounding.of(buckets.programs.values(), (x.dtype for x in module.parameters()))
        with checking_together(buckets.programs):
            call = _resized(args, kwargs or {}, given, dynamic_shapes, short)
            expected = _eager(module, call)
            if rounding.compresses:
                padded = _resized(args, kwargs or {}, given, dynamic_shapes, largest, _padded)
                exact = Rounding(frozenset(), rounding.low)
                _same(_cut(_eager(module, padded), expected), expected, exact)
            _same(pytree.tree_leaves(buckets(*call[0], **call[1])), expected, rounding)
    return buckets


def _dims(shapes: DynamicShapes, given: Mapping[str, Any]) -> dict[str, Dim]:
    """Dimensions by name."""
    dims: dict[str, Dim] = {}
    for name, axes in shapes.items():
        value = given.get(name)
        if not isinstance(value, torch.Tensor):
            raise OptionError(
                f"dynamic_shapes names {name!r}, which is no tensor among the inputs",
                hint=f"one of: {', '.join(k for k, v in given.items() if isinstance(v, torch.Tensor))}",
            )
        for axis, dim in axes.items():
            if not 0 <= axis < value.ndim or not value.shape[axis]:
                raise OptionError(
                    f"dynamic_shapes names axis {axis} of {name!r}, of shape {list(value.shape)}"
                )
            if dims.setdefault(dim.name, dim) != dim:
                raise OptionError(f"dimension {dim.name!r} has two sets of sizes")
    if not dims:
        raise OptionError("dynamic_shapes names no dimension", hint="forgec.compile compiles for one size")
    return dims


def _fit(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """Its elements repeated or cut, for sizes by axis."""
    for axis, size in sizes.items():
        tensor = tensor.index_select(axis, torch.arange(size) % tensor.shape[axis])
    return tensor


def _short(size: int) -> int:
    """A size that needs padding to be this one."""
    return max(1, size - 1)


def _padded(tensor: torch.Tensor, sizes: Mapping[int, int]) -> torch.Tensor:
    """Short ones of these sizes, with zeros behind them."""
    short = _fit(tensor, {axis: _short(size) for axis, size in sizes.items()})
    padded = tensor.new_zeros([sizes.get(axis, size) for axis, size in enumerate(tensor.shape)])
    padded[tuple(map(slice, short.shape))] = short
    return padded


def _resized(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    given: Mapping[str, Any],
    shapes: DynamicShapes,
    sizes: Mapping[str, int],
    fit: Callable[[torch.Tensor, Mapping[int, int]], torch.Tensor] = _fit,
) -> Call:
    """The example inputs in other sizes."""
    changed = {
        id(given[name]): fit(given[name], {axis: sizes[dim.name] for axis, dim in axes.items()})
        for name, axes in shapes.items()
    }
    swap = lambda value: changed.get(id(value), value)  # noqa: E731
    return tuple(map(swap, args)), {key: swap(value) for key, value in kwargs.items()}


def _eager(module: nn.Module, call: Call) -> list[np.ndarray]:
    """What a call of the module returns, flat."""
    args, kwargs = call
    with own_code():
        return [
            as_numpy(x) for x in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(x, torch.Tensor)
        ]


def _cut(results: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The beginning of results on padded inputs."""
    return [x[tuple(map(slice, y.shape))] for x, y in zip(results, like, strict=True)]


def _same(found: Sequence[np.ndarray], expected: Sequence[np.ndarray], rounding: Rounding) -> None:
    """Results on inputs that need padding are those of eager without any, or ``FidelityError``."""
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            raise FidelityError(
                f"a padded input gives an output {list(ours.shape)}, eager PyTorch {list(theirs.shape)}",
                hint="compile this size alone: the output does not follow the dimension",
            )
        rounding.require(
            "a result on a padded input differs from eager PyTorch's on the input itself",
            ours,
            theirs,
            max_abs(theirs, ours),
            hint="the model reads what is behind its input: give it an attention mask among the inputs, of "
            "ones as long as the input",
        )
