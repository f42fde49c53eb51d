"""Products whose weight does not fit into a chip's memory as products of pieces that do.

Before: ``g = linear x, w1; u = linear x, w2; h = gated g, u; y = linear h, w3, b, r``. After: for every piece
of the columns ``gated(linear x, w1[:n], linear x, w2[:n])``, put side by side; ``linear h, w3[:n], b[:n]``
for every piece, put side by side, and ``r`` added. A weight that does not fit is fetched at half the rate on
Hexagon, and the gate goes on while the next piece is fetched.

Does not fire for weights computed in the segment or as small as ``limit`` bytes, and leaves a product alone
that only the segment's reader reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.program import ConstRef, Instr, Operand, Program, Register

from .builder import Builder, Rule, type_of
from .outputs import outputs
from .users import readers

__all__ = ["split_wide_products"]

_ALIGN = 64
"""Columns of a tile."""


def split_wide_products(
    segment: Program, limit: int, itemsize: int = 2, most: int | None = None
) -> list[Rule]:
    """The rules for one segment; weights count ``itemsize`` bytes a number. Pieces have up to ``limit``
    bytes, and more where there would be more than ``most`` of them."""
    users = readers(segment)
    made: dict[int, Instr] = {}
    done: set[str] = set()

    def wide(instr: Instr | None) -> bool:
        if instr is None or instr.op != "linear" or not isinstance(instr.operands[2], ConstRef | None):
            return False
        weight = instr.operands[1]
        if not isinstance(weight, ConstRef) or weight.name in done:
            return False
        return weight.type.shape[0] > _ALIGN and weight.type.numel * itemsize > limit

    def steps(instr: Instr | None) -> list[tuple[int, int]]:
        return _steps(instr, limit, itemsize, most)

    def gate(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "gated":
            return None
        sides = [made.get(getattr(x, "id", -1)) for x in instr.operands]
        if not all(_plain(side) and wide(side) for side in sides):
            return None
        if any(len(users.get(getattr(x, "id", -1), ())) != 1 for x in instr.operands):
            return None
        pieces = []
        for start, stop in steps(sides[0]):
            gate, up = (_piece(build, side, start, stop, done) for side in sides if side is not None)
            pieces.append(build.op("gated", gate, up, **instr.attrs))
        return (build.op("concat", *pieces, axis=instr.results[0].type.rank - 1),)

    def product(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        result = instr.results[0].id if instr.results else -1
        read = users.get(result, [])
        if not wide(instr) or (read and all(user is None for user in read)):
            return None
        if _plain(instr) and [user.op if user else "" for user in read] == ["gated"]:
            made[result] = instr
            return None
        pieces = [_piece(build, instr, *step, done) for step in steps(instr)]
        y = build.op("concat", *pieces, axis=instr.results[0].type.rank - 1)
        residual = instr.operands[3]
        return (y if residual is None else build.op("add", y, residual),)

    return [gate, product]


def _plain(instr: Instr | None) -> bool:
    return instr is not None and not instr.attrs.get("act") and instr.operands[3] is None


def _steps(instr: Instr | None, limit: int, itemsize: int, pieces: int | None) -> list[tuple[int, int]]:
    """Bounds of pieces of the outputs, as even as whole tiles allow."""
    assert instr is not None
    kind = type_of(instr.operands[1])
    assert kind is not None
    outputs, inputs = kind.shape
    most = max(_ALIGN, limit // (inputs * itemsize) // _ALIGN * _ALIGN)
    if pieces is not None:
        most = max(most, -(-outputs // (pieces * _ALIGN)) * _ALIGN)
    tiles = -(-outputs // -(-outputs // most) // _ALIGN)
    step = tiles * _ALIGN
    return [(start, min(start + step, outputs)) for start in range(0, outputs, step)]


def _piece(build: Builder, instr: Instr, start: int, stop: int, done: set[str]) -> Register:
    """The product with a piece of the weight, whose name is noted in ``done``."""
    weight, bias = outputs(build, instr, start, stop)
    done.add(weight.name)
    return build.op("linear", instr.operands[0], weight, bias, None, **instr.attrs)
