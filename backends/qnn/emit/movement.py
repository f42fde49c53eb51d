"""Ops that move or re-index elements, and look-ups."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from forgec.ir.program import ConstRef, Instr, Operand, Register
from forgec.ir.types import DType

from ...vendor.attributes import flag, integer, integers, number
from .builder import Builder, rows_of
from .registry import emits

__all__: list[str] = []


@emits("reshape", "copy")
def same_elements(b: Builder, instr: Instr) -> None:
    """Nothing yet: who reads the result asks for the shape that it wants."""
    x, result = instr.operands[0], instr.results[0]
    if isinstance(x, Register):
        b.alias(result, x)
    else:
        b.define(result, b.value(x, result.type.shape))


@emits("transpose")
def transpose(b: Builder, instr: Instr) -> None:
    b.define(instr.results[0], b.transposed(instr.operands[0], integers(instr, "perm")))


@emits("slice")
def slice_(b: Builder, instr: Instr) -> None:
    """Of rows where the slice is of the last axis of rows."""
    (x,), result = instr.operands, instr.results[0]
    assert isinstance(x, Register | ConstRef)
    axis = integer(instr, "axis") % x.type.rank
    rows = rows_of(x.type.shape)
    start, stop, step = (integer(instr, key) for key in ("start", "stop", "step"))
    on_rows = isinstance(x, Register) and axis == x.type.rank - 1 and b.has(x, rows)
    name = b.rows(x) if on_rows else b.value(x)
    bounds = [b.ints([value]) for value in (start, stop, 1 if on_rows else axis, step)]
    b.define(result, b.node("Slice", name, *bounds), rows_of(result.type.shape) if on_rows else None)


@emits("expand")
def expand(b: Builder, instr: Instr) -> None:
    x, shape = instr.operands[0], instr.results[0].type.shape
    b.define(instr.results[0], b.node("Expand", b.value(x), b.ints(shape)))


@emits("concat")
def concat(b: Builder, instr: Instr) -> None:
    result, axis = instr.results[0], integer(instr, "axis") % instr.results[0].type.rank
    name = b.node("Concat", *(b.value(x) for x in instr.operands), axis=axis)
    if any(map(b.of_a_slice, instr.operands)):
        shape = [1] * result.type.rank
        shape[axis] = result.type.shape[axis]
        padding, fill = np.zeros(shape, bool), np.zeros(shape)
        start = 0
        for x in instr.operands:
            assert isinstance(x, Register | ConstRef)
            place = (slice(None),) * axis + (slice(start, start := start + x.type.shape[axis]),)
            value = b.single(x)
            if value is not None:
                padding[place], fill[place] = True, value
        name = _written_again(b, name, result.type.dtype, padding, fill)
    b.define(result, name)


@emits("pad")
def pad(b: Builder, instr: Instr) -> None:
    x, result = instr.operands[0], instr.results[0]
    value = number(instr, "value")
    before, after = integers(instr, "before"), integers(instr, "after")
    name = b.node("Pad", b.value(x), b.ints((*before, *after)), b.scalar(value, result.type.dtype))
    if b.of_a_slice(x):
        widths = list(zip(before, after, strict=True))
        sizes = [n if any(width) else 1 for n, width in zip(result.type.shape, widths, strict=True)]
        padding = np.ones(sizes, bool)
        inside = (slice(low, n - high) for n, (low, high) in zip(sizes, widths, strict=True))
        padding[tuple(inside)] = False
        name = _written_again(b, name, result.type.dtype, padding, np.where(padding, value, 0))
    b.define(result, name)


def _written_again(b: Builder, name: str, dtype: DType, padding: np.ndarray, fill: np.ndarray) -> str:
    """A value with ``fill`` where ``padding`` is.

    HTP leaves out what cuts a value and pads it to where it was, or puts one number beside it: what had been
    cut off stays there, be it that something is done element by element in between.
    """
    if not padding.any():
        return name
    zero, plus = ("And", "Or") if dtype is DType.BOOL else ("Mul", "Add")
    kind = DType.F32.numpy if dtype.is_float else dtype.numpy
    name = b.node(zero, name, b.initializer((~padding).astype(kind)), step="inside")
    return b.node(plus, name, b.initializer(fill.astype(kind)), step="outside") if fill.any() else name


@emits("flip")
def flip(b: Builder, instr: Instr) -> None:
    name = b.value(instr.operands[0])
    lowest = np.iinfo(np.int64).min
    for axis in integers(instr, "axes"):
        name = b.node(
            "Slice", name, b.ints([-1]), b.ints([lowest]), b.ints([axis]), b.ints([-1]), step="flip"
        )
    b.define(instr.results[0], name if integers(instr, "axes") else b.node("Identity", name))


@emits("embedding")
def embedding(b: Builder, instr: Instr) -> None:
    table, ids = instr.operands
    _look_up(b, instr, b.value(table), ids)


@emits("embedding_q")
def embedding_q(b: Builder, instr: Instr) -> None:
    table, ids, scales = instr.operands
    _look_up(b, instr, b.decompressed(table, scales, integer(instr, "group")), ids)


def _look_up(b: Builder, instr: Instr, table: str, ids: Operand) -> None:
    assert isinstance(ids, Register | ConstRef)
    flat = b.value(ids, (ids.type.numel,))
    b.define(instr.results[0], b.node("Gather", table, flat, axis=0), rows_of(instr.results[0].type.shape))


@emits("gather")
def gather(b: Builder, instr: Instr) -> None:
    """The axis comes first: with one behind others and computed indices HTP silently mixes up rows."""
    x, index, *more = instr.operands
    assert isinstance(x, Register | ConstRef)
    axis = integer(instr, "axis") % x.type.rank
    in_front = math.prod(x.type.shape[:axis]) == 1 or isinstance(index, ConstRef)
    if not more and in_front:
        b.define(instr.results[0], b.node("Gather", b.value(x), b.value(index), axis=axis))
        return
    count = len(instr.operands) - 1
    perm = (*range(axis, axis + count), *range(axis), *range(axis + count, x.type.rank))
    source = b.transposed(x, perm)
    if more:
        looked = b.node("GatherND", source, _tuples(b, instr, instr.operands[1:]))
    else:
        looked = b.node("Gather", source, b.value(index), axis=0)
    rank = instr.results[0].type.rank
    indexed = rank - (x.type.rank - count)
    back = (*range(indexed, indexed + axis), *range(indexed), *range(indexed + axis, rank))
    shape = tuple(instr.results[0].type.shape[back.index(i)] for i in range(rank))
    b.define(instr.results[0], b.transpose(looked, shape, back) if axis else looked)


def _tuples(b: Builder, instr: Instr, indices: tuple) -> str:
    """Index tensors, broadcast together, as the last axis of one; these two operators insist on i64."""
    shape = np.broadcast_shapes(*(x.type.shape for x in indices))
    arrays = [b.static(x) for x in indices]
    known = [array for array in arrays if array is not None]
    if len(known) == len(arrays):
        return b.int64(np.stack(np.broadcast_arrays(*known), axis=-1))
    columns = []
    for x in indices:
        name = b.value(x, (1,) * (len(shape) - x.type.rank) + x.type.shape)
        if x.type.numel != int(np.prod(shape)):
            name = b.node("Expand", name, b.ints(shape))
        columns.append(b.reshape(name, (*shape, 1)))
    name = columns[0]
    if len(columns) > 1:
        name = b.node("Concat", *columns, axis=len(shape), step="tuples")
    return b.node("Cast", name, to=TensorProto.INT64)


@emits("scatter")
def scatter(b: Builder, instr: Instr) -> None:
    x, updates, *indices = instr.operands
    assert isinstance(x, Register | ConstRef) and isinstance(updates, Register | ConstRef)
    tuples = _tuples(b, instr, tuple(indices))
    shape = np.broadcast_shapes(*(i.type.shape for i in indices))  # type: ignore[union-attr]
    target = (*shape, *x.type.shape[len(indices) :])
    name = b.value(updates)
    if updates.type.shape != target:
        name = b.node("Expand", name, b.ints(target))
    mode = "add" if flag(instr, "accumulate") else "none"
    b.define(instr.results[0], b.node("ScatterND", b.value(x), tuples, name, reduction=mode))


@emits("take_along")
def take_along(b: Builder, instr: Instr) -> None:
    x, index = instr.operands
    b.define(
        instr.results[0], b.node("GatherElements", b.value(x), b.value(index), axis=integer(instr, "axis"))
    )


_REDUCTIONS = {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "any": "ReduceMax",
    "all": "ReduceMin",
}


@emits(*_REDUCTIONS)
def reduction(b: Builder, instr: Instr) -> None:
    x = instr.operands[0]
    name, truth = b.value(x), instr.op in ("any", "all")
    if truth:
        name = b.cast(name, DType.F32)
    axes, keep = integers(instr, "axes"), int(flag(instr, "keepdims"))
    name = b.node(_REDUCTIONS[instr.op], name, b.ints(axes), keepdims=keep, noop_with_empty_axes=1)
    if truth:
        name = b.node("Greater", name, b.scalar(0.5, DType.F32))
    b.define(instr.results[0], name)


@emits("cumsum")
def cumsum(b: Builder, instr: Instr) -> None:
    axis = b.once(
        ("axis", integer(instr, "axis")), lambda: b.initializer(np.array(integer(instr, "axis"), np.int32))
    )
    b.define(instr.results[0], b.node("CumSum", b.value(instr.operands[0]), axis))


@emits("argmax")
def argmax(b: Builder, instr: Instr) -> None:
    keep = int(flag(instr, "keepdims"))
    name = b.node("ArgMax", b.value(instr.operands[0]), axis=integer(instr, "axis"), keepdims=keep)
    b.define(instr.results[0], b.cast(name, DType.I32))


@emits("top_k")
def top_k(b: Builder, instr: Instr) -> None:
    k = b.ints([integer(instr, "k")])
    values, places = b.node("TopK", b.value(instr.operands[0]), k, outputs=2)
    b.define(instr.results[0], values)
    b.define(instr.results[1], b.cast(places, DType.I32))
