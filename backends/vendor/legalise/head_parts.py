"""Attention over many rows, a few heads at a time.

Before: ``y = attention q[1,6,1500,64], k, v``. After, with parts of at most 2^21 scores: six times
``attention q[:,i:i+1], k[:,i:i+1], v[:,i:i+1]`` and a ``concat``. The scores of a part fit the chip.

Does not fire when all scores are that few, for one head, or where only the first of the keys count.
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
        if count < 2 or filled is not None:
            return None
        ratio = heads // groups
        parts = []
        for start, stop in pairwise(groups * i // count for i in range(count + 1)):
            of_queries = start * ratio, stop * ratio
            here = (
                _heads(build, q, *of_queries),
                _heads(build, k, start, stop),
                _heads(build, v, start, stop),
            )
            parts.append(build.op("attention", *here, _heads(build, mask, *of_queries), None, **instr.attrs))
        seq_major = {**get("attention").attrs, **instr.attrs}["seq_major"]
        return (build.op("concat", *parts, axis=2 if seq_major else 1),)

    return rule


def _heads(build: Builder, x: Operand, start: int, stop: int) -> Operand:
    """Some heads of a value whose third axis from behind they are; itself if all share it."""
    kind = type_of(x)
    if kind is None or kind.rank < 3 or kind.shape[-3] == 1:
        return x
    axis = kind.rank - 3
    if isinstance(x, ConstRef):
        return build.constant("slice", x, axis=axis, start=start, stop=stop)
    return build.op("slice", x, axis=axis, start=start, stop=stop, step=1)
