"""The wide values between two products of a feed-forward layer, made in parts that stay on the chip.

Before: ``h = linear x, c1, c2 {act="gelu"}; y = linear h, c3``. After, in two parts: ``h0 = linear x,
c1[:n], c2[:n] {act="gelu"}; h1 = linear x, c1[n:], c2[n:] {act="gelu"}; y = linear (concat h0, h1), c3``.
Gated layers have two first products. What is point-wise then works on a part while the weights of the next
one come.

Does not fire when something in between has another reader or is not point-wise, when weights are computed in
the segment, or when the values are small or narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from forgec.ir.program import ConstRef, Instr, Operand, Program, Register

from .builder import Builder, Rule, type_of
from .outputs import outputs
from .users import readers

__all__ = ["part_hidden"]

_POINTWISE = {"gated", "mul", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"}
_MULTIPLE = 16
"""Parts begin at multiples of this many channels."""

_LEAST = 960
"""Channels of a part; with fewer, what a product has to do is too small to hide anything behind it."""


def part_hidden(segment: Program, elements: int, least: int = _LEAST) -> list[Rule]:
    """The rule for one segment; what first products give is parted where it has more than so many
    elements in all, into as many parts as it takes, each of at least ``least`` channels."""
    made = {r.id: instr for instr in segment.main.body for r in instr.results}
    users = readers(segment)
    parts: dict[int, int] = {}
    inside: set[int] = set()
    for last in segment.main.body:
        if last.op != "linear" or not isinstance(last.operands[0], Register):
            continue
        hidden = last.operands[0]
        chain = _chain(hidden, made, users)
        if not chain or (len(chain) == 1 and not made[hidden.id].attrs.get("act")):
            continue
        wide = sum(made[r].results[0].type.numel for r in chain if made[r].op == "linear")
        count = min(math.ceil(wide / elements), hidden.type.shape[-1] // least)
        if count > 1:
            parts[hidden.id] = count
            inside.update(chain)
    seen: dict[int, Instr] = {}

    def part(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if not instr.results or instr.results[0].id not in inside:
            return None
        result = instr.results[0]
        seen[result.id] = instr
        if result.id not in parts:
            return None
        width = result.type.shape[-1]
        groups = width // _MULTIPLE
        bounds = [groups * i // parts[result.id] * _MULTIPLE for i in range(parts[result.id])] + [width]
        made_parts = [_part(build, result, seen, *bound) for bound in pairwise(bounds)]
        return (build.op("concat", *made_parts, axis=result.type.rank - 1),)

    return [part]


def _chain(x: Operand, made: Mapping[int, Instr], users: Mapping[int, list[Instr | None]]) -> list[int]:
    """The registers of what makes ``x`` from products on, ``x`` first; empty if a part of it cannot be made
    by itself."""
    if not isinstance(x, Register) or x.id not in made or len(users[x.id]) != 1:
        return []
    instr = made[x.id]
    if instr.op == "linear":
        weight, bias, residual = instr.operands[1:]
        fixed = isinstance(weight, ConstRef) and isinstance(bias, ConstRef | None)
        return [x.id] if fixed and residual is None else []
    if instr.op not in _POINTWISE or any(type_of(y) != x.type for y in instr.operands):
        return []
    before = [_chain(y, made, users) for y in instr.operands]
    return [x.id, *(r for chain in before for r in chain)] if all(before) else []


def _part(build: Builder, x: Register, seen: Mapping[int, Instr], start: int, stop: int) -> Operand:
    """The channels from ``start`` to ``stop`` of a register."""
    instr = seen[x.id]
    if instr.op == "linear":
        return build.op("linear", instr.operands[0], *outputs(build, instr, start, stop), None, **instr.attrs)
    parts = [_part(build, y, seen, start, stop) for y in instr.operands if isinstance(y, Register)]
    return build.op(instr.op, *parts, **instr.attrs)
