"""Compressed weights: the ops that make them, which stand in constant recipes, and the ops that read them.

A weight [out, in] is stored as codes and scales: w[n, k] is about ``codes[n, k] * scales[k // group, n]``,
with one group, the whole row, if ``group`` is 0; the last group may be shorter. Codes are i8 in [-128, 127],
i4 in [-8, 7], or floats of 16 bits, bf16 or f16, which need no scales. Symmetric: there are no zero points.
What a weight with zero points has beside that is a product of its own (``ir.offsets``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..op import Sample, op
from ..types import HALVES, DType, TensorType, pack_i4, unpack_i4
from .elementwise import activate
from .linear import by_expert, expert_type, product_type
from .rules import require, require_float, tensor

__all__ = ["MAX_DYNAMIC_DEPTH", "by_group", "dequantise", "groups_of", "quantise_rule", "scales_rule"]

Array = np.ndarray
Types = Sequence[TensorType | None]

MAX_DYNAMIC_DEPTH = 1 << 16
"""Length of a row up to which sums of products of two bytes fit 32 bits."""

_ROWS = 1 << 20
"""Elements that a recipe works on at a time: its temporaries fit the cache."""
_TINY = np.float32(2.0**-100)


def groups_of(depth: int, group: int) -> int:
    """How many groups a row has."""
    return 1 if group == 0 else -(-depth // group)


def by_group(x: Array, depth: int, group: int) -> Array:
    """Scales [groups, n] as one for each element [n, depth]."""
    columns = np.ascontiguousarray(x.T)
    return columns if group == 0 or group >= depth else np.repeat(columns, group, axis=1)[:, :depth]


def codes_of(weight: Array) -> Array:
    """Codes as numbers: i4 one per element, as int8."""
    return unpack_i4(weight) if weight.dtype == DType.I4.numpy else weight


def dequantise(weight: Array, scales: Array | None, group: int, dtype: np.dtype) -> Array:
    """The weight that codes and scales stand for."""
    codes = codes_of(weight).astype(dtype)
    return codes if scales is None else codes * by_group(scales.astype(dtype), codes.shape[1], group)


# --- making them -------------------------------------------------------------------------------------------


def scales_rule(weight: TensorType | None, *, bits: int, group: int) -> TensorType:
    """Type of the scales of a weight."""
    w = require_float(weight, "weight")
    require(
        w.rank == 2 and bits in (4, 8) and group >= 0, f"no {bits}-bit scales for {w} in groups of {group}"
    )
    return TensorType(DType.F32, (groups_of(w.shape[1], group), w.shape[0]))


@op(
    "scales",
    "weight",
    rule=scales_rule,
    attrs={"bits": 8, "group": 0},
    samples=lambda rng: [
        Sample((rng.standard_normal((5, 8)).astype(np.float32),), {}),
        Sample((rng.standard_normal((5, 9)).astype(np.float32),), {"bits": 4, "group": 4}),
    ],
)
def scales(weight: Array, *, bits: int, group: int) -> Array:
    """Scales [groups, out] for codes of a weight: the largest magnitude becomes 127, or -8 for 4 bits.

    A group of zeros has the scale 0; one with NaN or an infinity a scale that is not finite.
    """
    n, depth = weight.shape
    count = groups_of(depth, group)
    if not weight.size:
        return np.zeros((count, n), np.float32)
    starts = np.arange(count) * group
    ends = np.empty((2, n, count), np.float32)
    step = max(1, _ROWS // depth)
    for row in range(0, n, step):
        part = slice(row, row + step)
        np.minimum.reduceat(weight[part], starts, axis=1, out=ends[0, part])
        np.maximum.reduceat(weight[part], starts, axis=1, out=ends[1, part])
    low, high = ends.swapaxes(1, 2)
    if bits == 8:
        return np.maximum(np.abs(low), np.abs(high)) / np.float32(127)
    return np.where(np.abs(low) >= np.abs(high), low, high) / np.float32(-8)


def quantise_rule(
    weight: TensorType | None,
    scales: TensorType | None,
    offsets: TensorType | None = None,
    *,
    bits: int,
    group: int,
) -> TensorType:
    """Type of the codes of a weight."""
    w, s = require_float(weight, "weight"), require_float(scales, "scales")
    for what, given in (("scales", s), ("offsets", offsets or s)):
        require(
            given.shape == scales_rule(w, bits=bits, group=group).shape,
            f"{what} {given} do not fit {w} in groups of {group}",
        )
    require(bits == 8 or w.shape[1] % 2 == 0, f"rows of i4 have an even length, not {w.shape[1]}")
    return TensorType(DType.I8 if bits == 8 else DType.I4, w.shape)


@op(
    "quantise",
    "weight scales offsets?",
    rule=quantise_rule,
    attrs={"bits": 8, "group": 0},
    takes_i4=True,
    samples=lambda rng: [
        Sample((_x(rng, 5, 8), np.abs(_x(rng, 1, 5))), {}),
        Sample((_x(rng, 5, 9), np.abs(_x(rng, 3, 5)) / 9), {"group": 4}),
        Sample((_x(rng, 5, 9), np.abs(_x(rng, 3, 5)) / 9, _x(rng, 3, 5)), {"group": 4}),
    ],
)
def quantise(weight: Array, scales: Array, offsets: Array | None = None, *, bits: int, group: int) -> Array:
    """Codes of a weight: (weight - offsets) * (1 / scales), to the nearest, ties to even, in their range.

    Where that is NaN, as in a group of zeros, the code is 0. Offsets [groups, out] are 0 if left out. By
    scales of the op ``scales`` that have an inverse no code is -128.
    """
    n, depth = weight.shape
    low, high = (-128, 127) if bits == 8 else (-8, 7)
    result = DType.I8 if bits == 8 else DType.I4
    codes = np.empty(TensorType(result, (n, depth)).array_shape, result.numpy)
    if not weight.size:
        return codes
    whole = group == 0 or depth % group == 0
    inner = (depth // group, group) if group and whole else (depth,)

    def spread(x: Array) -> Array:
        return x.T[..., None] if group and whole else by_group(x, depth, group)

    step = max(1, _ROWS // depth)
    for row in range(0, n, step):
        part = slice(row, row + step)
        inverse = np.reciprocal(scales[:, part])
        regular = bool(np.isfinite(inverse).all() and inverse.all())
        quotient = weight[part].reshape(-1, *inner)
        if offsets is not None:
            quotient = quotient - spread(offsets[:, part])
        quotient = quotient * spread(inverse)
        np.rint(quotient, out=quotient)
        np.clip(quotient, low, high, out=quotient)
        if not regular:
            np.nan_to_num(quotient, copy=False)
        rounded = quotient.reshape(-1, depth).astype(np.int8)
        codes[part] = rounded if bits == 8 else pack_i4(rounded)
    return codes


def _narrow_rule(weight: TensorType | None, *, dtype: str) -> TensorType:
    w = require_float(weight, "weight")
    require(dtype in [half.value for half in HALVES], f"dtype {dtype} is not of 16 bits")
    return replace(w, dtype=DType(dtype))


@op(
    "narrow",
    "weight",
    rule=_narrow_rule,
    attrs={"dtype": "bf16"},
    samples=lambda rng: [
        Sample((_x(rng, 5, 9).astype(half.numpy).astype(np.float32),), {"dtype": half.value})
        for half in HALVES
    ],
)
def narrow(weight: Array, *, dtype: str) -> Array:
    """A weight in a float type of 16 bits that holds all of its numbers; others lose digits."""
    if dtype == DType.F16.value:
        return weight.astype(np.float16)
    upper = np.ascontiguousarray(weight, np.float32).view(np.uint16)[..., 1::2]
    return np.ascontiguousarray(upper).view(DType.BF16.numpy).reshape(weight.shape)


# --- reading them ------------------------------------------------------------------------------------------


def _check_codes(weight: TensorType | None, scales: TensorType | None, group: int) -> TensorType:
    w = tensor(weight, "weight")
    known = w.dtype in HALVES or w.dtype in (DType.I8, DType.I4)
    require(w.rank == 2 and known, f"codes are i8, i4, bf16 or f16, not {w}")
    require(group == 0 or (group >= 8 and group % 8 == 0), f"a group is a multiple of 8, not {group}")
    if w.dtype in HALVES:
        require(scales is None and group == 0, f"{w.dtype.value} has no scales and no groups")
    else:
        s = require_float(scales, "scales")
        wanted = (groups_of(w.shape[1], group), w.shape[0])
        require(s.shape == wanted, f"scales {s} of {w} must have the shape {list(wanted)}")
    return w


def _linear_q_rule(
    x: TensorType | None,
    weight: TensorType | None,
    scales: TensorType | None,
    bias: TensorType | None,
    residual: TensorType | None,
    *,
    act: str,
    group: int,
    dynamic: bool,
) -> TensorType:
    a, w = require_float(x, "x"), _check_codes(weight, scales, group)
    result = product_type(a, w, bias, residual, act)
    if dynamic:
        whole = w.dtype is DType.I4 or (w.dtype is DType.I8 and group == 0)
        require(whole, f"dynamic activations go with i4 groups and i8 rows, not {w} in groups of {group}")
        depth = group or w.shape[1]
        require(depth <= MAX_DYNAMIC_DEPTH, f"{depth} products are too many for sums of 32 bits")
    return result


def _linear_q_flops(types: Types, results: Sequence[TensorType], attrs: Mapping[str, Any]) -> float:
    return 2.0 * results[0].numel * tensor(types[1]).shape[1]


def _x(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _codes(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-128, 128, shape, np.int8)


@op(
    "linear_q",
    "x weight scales? bias? residual?",
    rule=_linear_q_rule,
    attrs={"act": "", "group": 0, "dynamic": False},
    inplace=(4,),
    flops=_linear_q_flops,
    takes_i4=True,
    samples=lambda rng: [
        Sample((_x(rng, 2, 3, 8), _codes(rng, 5, 8), _x(rng, 1, 5) / 99, None, None), {}),
        Sample(
            (_x(rng, 3, 19), _codes(rng, 5, 19), _x(rng, 3, 5) / 99, _x(rng, 5), None),
            {"act": "gelu", "group": 8},
        ),
        Sample((_x(rng, 3, 8), _codes(rng, 5, 8), _x(rng, 1, 5) / 99, _x(rng, 5), _x(rng, 3, 5)), {}),
        Sample(
            (_x(rng, 3, 8), _codes(rng, 5, 8), _x(rng, 1, 5) / 99, None, _x(rng, 3, 5)), {"dynamic": True}
        ),
        Sample((_x(rng, 2, 3, 32), _codes(rng, 5, 32), _x(rng, 1, 5) / 99, None, None), {}),
        Sample(
            (_x(rng, 3, 48), _codes(rng, 5, 48), _x(rng, 2, 5) / 99, _x(rng, 5), _x(rng, 3, 5)),
            {"group": 32},
        ),
        *(
            Sample((_x(rng, 3, 19), _x(rng, 5, 19).astype(half.numpy), None, _x(rng, 5), None), {})
            for half in HALVES
        ),
    ],
)
def linear_q(
    x: Array,
    weight: Array,
    scales: Array | None,
    bias: Array | None,
    residual: Array | None,
    *,
    act: str,
    group: int,
    dynamic: bool,
) -> Array:
    """linear on a compressed weight: act(x @ (codes * scales).T + bias) + residual.

    With ``dynamic`` each row of x, or its part in each group, is quantised to i8 first, symmetrically by its
    largest magnitude m, with q = round(x * (127 / m)): the product is exact in integers and times
    (m / 127) * scales, and groups are added in their order. What is not finite gives NaN, a row or part with
    m below 2**-100 counts as zero.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    if dynamic:
        assert scales is not None
        y = _dynamic_product(rows, codes_of(weight), scales, group)
    else:
        y = rows @ dequantise(weight, scales, group, x.dtype).T
    if bias is not None:
        y = y + bias
    y = activate(y, act).reshape(*x.shape[:-1], weight.shape[0])
    return y if residual is None else y + residual


def _expert_linear_q_rule(
    x: TensorType | None,
    weight: TensorType | None,
    ids: TensorType | None,
    scales: TensorType | None,
    *,
    experts: int,
    group: int,
) -> TensorType:
    return expert_type(x, _check_codes(weight, scales, group), ids, experts)


@op(
    "expert_linear_q",
    "x weight ids scales?",
    rule=_expert_linear_q_rule,
    attrs={"experts": 1, "group": 0},
    flops=lambda types, results, attrs: 2.0 * results[0].numel * tensor(types[1]).shape[1],
    takes_i4=True,
    samples=lambda rng: [
        Sample(
            (_x(rng, 6, 8), _codes(rng, 96, 8), rng.integers(-3, 3, 6), _x(rng, 1, 96) / 99), {"experts": 3}
        ),
        Sample(
            (_x(rng, 9, 48), _codes(rng, 64, 48), rng.integers(0, 2, 9), _x(rng, 2, 64) / 99),
            {"experts": 2, "group": 32},
        ),
        *(
            Sample(
                (_x(rng, 5, 19), _x(rng, 64, 19).astype(half.numpy), np.array([1, 0, 1, 1, 1]), None),
                {"experts": 2},
            )
            for half in HALVES
        ),
    ],
)
def expert_linear_q(
    x: Array, weight: Array, ids: Array, scales: Array | None, *, experts: int, group: int
) -> Array:
    """expert_linear on a compressed weight: x[r] @ (codes * scales)[ids[r]].T."""
    return by_expert(x, dequantise(weight, scales, group, x.dtype), ids, experts)


def _dynamic_product(rows: Array, codes: Array, scales: Array, group: int) -> Array:
    y = np.zeros((len(rows), len(codes)), rows.dtype)
    for index, scale in enumerate(scales):
        part = slice(index * group, (index + 1) * group) if group else slice(None)
        quantised, row_scales = quantise_rows(rows[:, part])
        exact = quantised.astype(np.float64) @ codes[:, part].T.astype(np.float64)
        y += exact.astype(rows.dtype) * (row_scales[:, None] * scale)
    return y


def quantise_rows(rows: Array) -> tuple[Array, Array]:
    """Codes in [-127, 127], as floats, and the scale of each row; for rows that are not finite 0 and NaN."""
    largest = np.abs(rows).max(axis=1, initial=0)
    finite = np.isfinite(rows).all(axis=1)
    some = finite & (largest >= _TINY)
    limit = rows.dtype.type(127)
    factor = np.where(some, limit / largest, 0).astype(rows.dtype)
    codes = np.rint(np.where(some[:, None], rows, 0) * factor[:, None])
    return codes, np.where(finite, np.where(some, largest / limit, 0), np.nan).astype(rows.dtype)


def _embedding_q_rule(
    table: TensorType | None, ids: TensorType | None, scales: TensorType | None, *, group: int
) -> TensorType:
    t, index = _check_codes(table, scales, group), tensor(ids, "ids")
    require(index.dtype in (DType.I64, DType.I32), f"an index must be i64 or i32, not {index}")
    return TensorType(DType.F32, (*index.shape, t.shape[1]))


@op(
    "embedding_q",
    "table ids scales?",
    rule=_embedding_q_rule,
    attrs={"group": 0},
    takes_i4=True,
    samples=lambda rng: [
        Sample((_codes(rng, 9, 4), rng.integers(0, 9, (2, 3)), _x(rng, 1, 9)), {}),
        Sample((_codes(rng, 9, 12), np.array(8), _x(rng, 2, 9)), {"group": 8}),
        *(Sample((_x(rng, 9, 5).astype(half.numpy), np.array([8, 0]), None), {}) for half in HALVES),
    ],
)
def embedding_q(table: Array, ids: Array, scales: Array | None, *, group: int) -> Array:
    """Rows of a compressed table by id, as f32; an id out of range is an error (IndexError)."""
    if ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        raise IndexError(
            f"id {ids.min() if ids.min() < 0 else ids.max()} is outside a table of {table.shape[0]} rows"
        )
    flat = ids.reshape(-1)
    picked = None if scales is None else scales[:, flat]
    rows = dequantise(table[flat], picked, group, np.dtype(np.float32))
    return rows.reshape(*ids.shape, rows.shape[1])
