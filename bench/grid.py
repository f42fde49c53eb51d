"""The kernels to time for a calibration: every op of the IR that computes, over a grid of shapes.

Sizes are those of transformers: 1, 16 and 128 tokens, widths from a test model's to a 2-billion-parameter
model's, and one size so small that only the cost of a call is left. Point-wise ops, which are most, are found
in the op table itself: a new one is in the grid as soon as it has a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import OPS, IRTypeError, Op
from forgec.ir.program import AttrValue, Literal
from forgec.ir.types import DType, TensorType
from forgec.plan.cost import family

__all__ = ["UNTIMED", "Case", "Index", "Weight", "cases"]


@dataclass(frozen=True)
class Weight:
    """A constant: in a program every layer reads another one, so it comes from memory, not from a cache."""

    type: TensorType


@dataclass(frozen=True)
class Index:
    """Integers from 0 to below ``high``."""

    type: TensorType
    high: int


Attrs = Mapping[str, AttrValue]
Operand = TensorType | Weight | Index | Literal | None


@dataclass(frozen=True)
class Case:
    """One kernel to time; a bare type is an intermediate result."""

    op: str
    operands: tuple[Operand, ...]
    attrs: Attrs = field(default_factory=dict)

    def __str__(self) -> str:
        attrs = "".join(f" {name}={value}" for name, value in self.attrs.items())
        return f"{self.op}({', '.join(str(getattr(x, 'type', x)) for x in self.operands)}){attrs}"


UNTIMED = frozenset(
    {
        *("call", "read_state", "write_state", "write_rows", "update_rows", "cache_mask"),
        *("aten", "quantise", "narrow", "scales", "fitted_codes", "fitted_scales"),
    }
)
"""Ops without a kernel of their own, those of states, which cost what a copy does, those done for caches once
a run, and those of constants."""

_SHAPES = (
    (1, 8, 16),
    (1, 16, 64),
    (1, 1, 2048),
    (1, 16, 768),
    (1, 128, 256),
    (1, 12, 64, 64),
    (1, 128, 768),
    (1, 12, 128, 128),
    (1, 128, 3072),
    (1, 128, 8192),
)
_ROWS = ((8, 16), (128, 64), (1, 2048), (16, 768), (128, 768), (128, 2048), (1536, 128), (512, 1024))
_TOKENS = (1, 16, 128)
_WIDTHS = ((64, 64), (256, 1024), (768, 768), (768, 3072), (3072, 768), (2048, 2048), (2048, 8192))
_CONVOLUTIONS = ((16, 32, 96), (80, 384, 512), (384, 384, 512), (80, 384, 3000), (384, 384, 1500))
_BY_HAND = frozenset({"rope", "cast", "where", "gated", "clamp", "pow"})


def cases() -> Iterator[Case]:
    """All cases; each op has at least ``forgec.plan.cost.OP_SAMPLES``."""
    yield from _elementwise()
    yield from _matrix()
    yield from _compressed()
    yield from _experts()
    yield from _convolution()
    yield from _pooling()
    yield from _attention()
    yield from _normalisation()
    yield from _reduction()
    yield from _movement()


def f32(*shape: int) -> TensorType:
    return TensorType(DType.F32, shape)


def i64(*shape: int) -> TensorType:
    return TensorType(DType.I64, shape)


def boolean(*shape: int) -> TensorType:
    return TensorType(DType.BOOL, shape)


def _elementwise() -> Iterator[Case]:
    for record in OPS.values():
        if record.view or record.name in _BY_HAND | UNTIMED:
            continue
        if family(record.name) in ("pointwise", "transcendental"):
            yield from _plain_elementwise(record)
    for shape in _SHAPES:
        x = f32(*shape)
        for low, high in ((i64(*shape), "f32"), (x, "f16"), (boolean(*shape), "f32")):
            yield Case("cast", (low,), {"dtype": high})
        yield Case("where", (boolean(*shape), x, x))
        yield Case("where", (boolean(*shape), x, Literal(-1e9)))
        yield Case("gated", (x, x), {"act": "silu"})
        yield Case("gated", (x, x), {"act": "gelu_tanh"})
        yield Case("clamp", (x,), {"low": 0.0, "high": 6.0})
        yield Case("pow", (x, Literal(3.0)))  # what models raise to: not to a tensor
    for tokens, heads, size in product(_TOKENS, (4, 16, 32), (64, 128)):
        table = f32(1, 1, tokens, size)
        yield Case("rope", (f32(1, heads, tokens, size), table, table))


def _plain_elementwise(record: Op) -> Iterator[Case]:
    dtype = next(d for d in (DType.F32, DType.BOOL, DType.I64) if _takes(record, d))
    for shape in _SHAPES:
        x = TensorType(dtype, shape)
        if len(record.operands) == 1:
            yield Case(record.name, (x,))
            continue
        yield Case(record.name, (x, x))
        if dtype is DType.F32:
            yield Case(record.name, (x, Literal(1.5)))
            yield Case(record.name, (x, Weight(TensorType(dtype, shape[-1:]))))


def _takes(record: Op, dtype: DType) -> bool:
    try:
        record.result_types([TensorType(dtype, (2,))] * len(record.operands), {})
    except IRTypeError:
        return False
    return True


def _matrix() -> Iterator[Case]:
    for tokens, (inner, outer) in product(_TOKENS, _WIDTHS):
        x, weight, bias = f32(1, tokens, inner), Weight(f32(outer, inner)), Weight(f32(outer))
        yield Case("linear", (x, weight, None, None))
        yield Case("linear", (x, weight, bias, f32(1, tokens, outer)))
        for act in ("gelu", "gelu_tanh", "silu", "relu"):
            yield Case("linear", (x, weight, bias, None), {"act": act})
    for tokens, heads, size in product(_TOKENS, (4, 12, 32), (32, 64)):
        yield Case("matmul", (f32(1, heads, tokens, size), f32(1, heads, size, tokens)))
        yield Case("matmul", (f32(1, heads, tokens, tokens), f32(1, heads, tokens, size)))


def _compressed() -> Iterator[Case]:
    for tokens, (inner, outer) in product(_TOKENS, _WIDTHS):
        x, bias, scales = f32(1, tokens, inner), Weight(f32(outer)), Weight(f32(1, outer))
        grouped = Weight(f32(-(-inner // 128), outer))
        eight, four, half = (Weight(TensorType(d, (outer, inner))) for d in (DType.I8, DType.I4, DType.BF16))
        yield Case("linear_q", (x, eight, scales, bias, None))
        yield Case("linear_q", (x, eight, scales, bias, None), {"dynamic": True})
        yield Case("linear_q", (x, four, grouped, bias, None), {"group": 128})
        yield Case("linear_q", (x, four, grouped, bias, None), {"group": 128, "dynamic": True})
        yield Case("linear_q", (x, half, None, bias, None))


def _experts() -> Iterator[Case]:
    for rows, experts, (inner, outer) in product((1, 4, 64), (8, 32), ((64, 128), (512, 1024))):
        x, ids, several = f32(rows, inner), Index(i64(rows), experts), {"experts": experts}
        yield Case("expert_linear", (x, Weight(f32(experts * outer, inner)), ids), several)
        eight, four = (Weight(TensorType(d, (experts * outer, inner))) for d in (DType.I8, DType.I4))
        scales, grouped = Weight(f32(1, experts * outer)), Weight(f32(-(-inner // 64), experts * outer))
        yield Case("expert_linear_q", (x, eight, ids, scales), several)
        yield Case("expert_linear_q", (x, four, ids, grouped), {**several, "group": 64 if inner > 64 else 0})


def _convolution() -> Iterator[Case]:
    for channels, tokens in product((64, 256, 2048), (16, 128)):
        depthwise: Attrs = {"padding": (2,), "groups": channels}
        yield Case("conv", (f32(1, channels, tokens), Weight(f32(channels, 1, 3)), None), depthwise)
    for inner, outer, length in _CONVOLUTIONS:
        weight, bias = Weight(f32(outer, inner, 3)), Weight(f32(outer))
        yield Case("conv", (f32(1, inner, length), weight, bias), {"padding": (1,)})
    for image, patch, outer in ((32, 8, 32), (64, 8, 192), (224, 16, 192), (224, 16, 768)):
        weight, bias = Weight(f32(outer, 3, patch, patch)), Weight(f32(outer))
        square: Attrs = {"stride": (patch, patch), "padding": (0, 0), "dilation": (1, 1)}
        yield Case("conv", (f32(1, 3, image, image), weight, bias), square)


def _pooling() -> Iterator[Case]:
    for kind, (channels, size) in product(("max", "average"), ((16, 16), (64, 112), (256, 28), (512, 14))):
        for kernel, padding in ((2, 0), (3, 1)):
            square: Attrs = {
                **{"kind": kind, "kernel": (kernel, kernel), "stride": (2, 2)},
                **{"padding": (padding, padding), "dilation": (1, 1)},
            }
            yield Case("pool", (f32(1, channels, size, size),), square)
    for kind, (channels, length) in product(("max", "average"), ((80, 512), (384, 1500))):
        yield Case("pool", (f32(1, channels, length),), {"kind": kind, "kernel": (2,), "stride": (2,)})


def _attention() -> Iterator[Case]:
    for tokens, (heads, groups), size in product((16, 64, 128, 256), ((4, 4), (12, 12), (32, 8)), (64, 128)):
        q, k = f32(1, heads, tokens, size), f32(1, groups, tokens, size)
        scale: Attrs = {"scale": size**-0.5, "seq_major": True}
        yield Case("attention", (q, k, k, None), scale)
        yield Case("attention", (q, k, k, None), {**scale, "causal": True})
        yield Case("attention", (q, k, k, boolean(1, 1, tokens, tokens)), scale)
    for tokens, heads in product((16, 128, 512), (4, 32)):
        past = f32(1, heads, tokens, 64)
        yield Case("attention", (f32(1, heads, 1, 64), past, past, None), {"scale": 0.125, "seq_major": True})


def _normalisation() -> Iterator[Case]:
    for rows, width in _ROWS:
        x, weight = f32(1, rows, width), Weight(f32(width))
        yield Case("softmax", (x,))
        yield Case("log_softmax", (x,))
        yield Case("layer_norm", (x, weight, weight))
        yield Case("add_layer_norm", (x, x, weight, weight))
        yield Case("rms_norm", (x, weight))
        yield Case("add_rms_norm", (x, x, weight))


def _reduction() -> Iterator[Case]:
    for rows, width in _ROWS:
        x = f32(rows, width)
        for name in ("sum", "mean", "max", "min", "prod"):
            yield Case(name, (x,), {"axes": (-1,), "keepdims": True})
        for name in ("any", "all"):
            yield Case(name, (boolean(rows, width),), {"axes": (-1,)})
        yield Case("cumsum", (i64(rows, width),), {"axis": 1})
        yield Case("argmax", (x,))
        yield Case("top_k", (x,), {"k": min(4, width)})


def _movement() -> Iterator[Case]:
    for rows, width in _ROWS:
        x, ids = f32(rows, width), Index(i64(rows), 4096)
        half: Attrs = {"before": (0, width // 2), "after": (0, 0), "value": 0.0}
        yield Case("copy", (x,))
        yield Case("concat", (x, x), {"axis": 1})
        yield Case("pad", (x,), half)
        yield Case("flip", (x,), {"axes": (1,)})
        yield Case("embedding", (Weight(f32(4096, width)), ids))
        table = Weight(TensorType(DType.I8, (4096, width)))
        yield Case("embedding_q", (table, ids, Weight(f32(1, 4096))))
        yield Case("gather", (x, Index(i64(rows), rows)), {"axis": 0})
        yield Case("take_along", (x, Index(i64(rows, width), width)), {"axis": 1})
        yield Case("scatter", (x, x, Index(i64(rows), rows)))
