"""A wide hidden layer between two products in parts, so that what works on one part waits for no other.

Before: ``h = linear x, c1, c2 {act="gelu"}; y = linear h, c3, c4, r``. After, in two parts: ``h0 = linear x,
c1[:n], c2[:n] {act="gelu"}; y0 = linear h0, c3[:, :n], c4, r; h1 = linear x, c1[n:], c2[n:] {act="gelu"}; y =
linear h1, c3[:, n:], _, y0``. Exact but for the order of the sum. Gated layers have two first products.

Does not fire when something between has another reader or is not point-wise, or weights are computed in the
segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Operand, Program, Register

from .builder import Builder, Rule
from .users import readers

__all__ = ["split_feed_forward"]

_POINTWISE = {"gelu", "gelu_tanh", "silu", "relu", "gated", "mul", "tanh", "sigmoid"}

Parts = Callable[[Instr, Instr], int]
"""``parts(first, last)``: in how many parts a layer between two products goes; 1 leaves it."""


@dataclass(frozen=True)
class _Layer:
    """What goes in parts: the products that begin it, all before the last product, by register."""

    inner: Mapping[int, Instr]
    parts: int


def split_feed_forward(segment: Program, parts: Parts) -> list[Rule]:
    """The rule for one segment."""
    made = {r.id: instr for instr in segment.main.body for r in instr.results}
    users = readers(segment)
    layers: dict[int, _Layer] = {}
    for last in segment.main.body:
        if last.op != "linear" or not isinstance(last.operands[1], ConstRef):
            continue
        inner: dict[int, Instr] = {}
        if not _collect(last.operands[0], made, users, inner):
            continue
        first = next(i for i in inner.values() if i.op == "linear")
        count = parts(first, last)
        if count > 1 and len(inner) > 1 or count > 1 and first.attrs.get("act"):
            layers[last.results[0].id] = _Layer(inner, count)
    inside = {r for layer in layers.values() for r in layer.inner}
    seen: dict[int, Instr] = {}

    def note(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.results and instr.results[0].id in inside and instr.results[0].id not in seen:
            seen[instr.results[0].id] = instr
        return None

    def split(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        layer = layers.get(instr.results[0].id) if instr.results else None
        if layer is None or instr.op != "linear":
            return None
        hidden, weight, bias, residual = instr.operands
        assert isinstance(weight, ConstRef) and isinstance(hidden, Register)
        width = weight.type.shape[1]
        bounds = [width * i // layer.parts // 16 * 16 for i in range(layer.parts)] + [width]
        total: Operand = residual
        for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            part = _part(build, hidden.id, seen, start, stop)
            columns = build.constant("slice", weight, axis=1, start=start, stop=stop)
            attrs = dict(instr.attrs)
            last = stop == width
            total = build.op("linear", part, columns, None if number else bias, total, **{**attrs, "act": attrs.get("act","") if last else ""})
        return (total,)

    return [note, split]


def _collect(
    x: Operand,
    made: Mapping[int, Instr],
    users: Mapping[int, list[Instr | None]],
    inner: dict[int, Instr],
) -> bool:
    """Whether a part of ``x`` on its last axis can be had by itself; what makes it goes to ``inner``."""
    if not isinstance(x, Register) or x.id not in made or len(users[x.id]) != 1:
        return False
    instr = made[x.id]
    inner[x.id] = instr
    if instr.op == "linear":
        return instr.operands[3] is None and all(
            y is None or isinstance(y, ConstRef) for y in instr.operands[1:3]
        )
    if instr.op not in _POINTWISE:
        return False
    return all(_collect(y, made, users, inner) for y in instr.operands)


def _part(build: Builder, register: int, seen: Mapping[int, Instr], start: int, stop: int) -> Operand:
    instr = seen[register]
    if instr.op == "linear":
        x, weight, bias, _ = instr.operands
        assert isinstance(weight, ConstRef)
        rows = build.constant("slice", weight, axis=0, start=start, stop=stop)
        shift = None
        if isinstance(bias, ConstRef):
            shift = build.constant("slice", bias, axis=0, start=start, stop=stop)
        return build.op("linear", x, rows, shift, None, **instr.attrs)
    parts = [_part(build, y.id, seen, start, stop) for y in instr.operands if isinstance(y, Register)]
    return build.op(instr.op, *parts, **instr.attrs)
