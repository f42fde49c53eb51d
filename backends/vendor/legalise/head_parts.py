"""Attention over many rows, a few heads at a time.

Before: ``y = attention q[1,6,1500,64], k, v``. After, with parts of at most 2^21 scores: six times
``attention q[:,i:i+1], k[:,i:i+1], v[:,i:i+1]`` and a ``concat``. The scores of a part fit the chip.

Does not fire when all scores are that few, for one head, with a mask for every head that is no constant, or
where only the first of the keys count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Operand

from .builder import Builder, Rule, type_of

__all__ = ["part_heads"]


def part_heads(scores: int) -> Rule:
    """A rule for attention; a part has at most so many ``scores``, or one key head."""

    def rule(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "attention":
            return None
        q, k, v, mask, filled = instr.operands
        query, key = type_of(q), type_of(k)
        assert query is not None and key is not None
        heads, groups = query.shape[1], key.shape[1]
        wanted = math.ceil(query.shape[0] * heads * query.shape[2] * key.shape[2] / scores)
        count = min(wanted, groups)
        if count < 2 or filled is not None or (_by_head(mask) and not isinstance(mask, ConstRef)):
            return None
        ratio = heads // groups
        parts = []
        for start, stop in pairwise(groups * i // count for i in range(count + 1)):
            of_queries = start * ratio, stop * ratio
            bounds = (of_queries, (start, stop), (start, stop))
            some = [_heads(build, x, *bound) for x, bound in zip((q, k, v), bounds, strict=True)]
            masked = _heads(build, mask, *of_queries) if _by_head(mask) else mask
            parts.append(build.op("attention", *some, masked, None, **instr.attrs))
        seq_major = {**get("attention").attrs, **instr.attrs}["seq_major"]
        return (build.op("concat", *parts, axis=2 if seq_major else 1),)

    return rule


def _by_head(mask: Operand) -> bool:
    kind = type_of(mask)
    return kind is not None and kind.rank > 2 and kind.shape[-3] > 1


def _heads(build: Builder, x: Operand, start: int, stop: int) -> Operand:
    """Some heads of a value whose third axis from the end they are."""
    kind = type_of(x)
    assert kind is not None
    if isinstance(x, ConstRef):
        return build.constant("slice", x, axis=kind.rank - 3, start=start, stop=stop)
    return build.op("slice", x, axis=kind.rank - 3, start=start, stop=stop, step=1)
