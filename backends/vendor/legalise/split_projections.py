"""One matrix product per part instead of slices of a wide one.

Before: ``y = linear x, c5, c6; q = slice y {stop=64}; k = slice y {start=64, stop=128}``. After:
``q = linear x, c5[:64], c6[:64]; k = linear x, c5[64:128], c6[64:128]``. HTP copies what it slices on the
last axis, and separate products are as fast as one.

Does not fire when the product has another reader than slices of the last axis, a residual, or weights
computed in the segment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forgec.ir.program import ConstRef, Instr, Operand, Program

from ..attributes import integer
from .builder import Builder, Rule
from .users import readers

__all__ = ["split_projections", "splits"]


def split_projections(segment: Program) -> list[Rule]:
    """The rule for one segment."""
    users = readers(segment)
    wide = {instr.results[0].id for instr in segment.main.body if splits(instr, users)}
    rewritten: dict[int, Instr] = {}

    def note(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op == "linear" and instr.results[0].id in wide:
            rewritten[instr.results[0].id] = instr
        return None

    def split(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        source = instr.operands[0] if instr.op == "slice" else None
        whole = rewritten.get(getattr(source, "id", -1))
        if whole is None:
            return None
        x, weight, bias, _ = whole.operands
        assert isinstance(weight, ConstRef)
        start, stop = (integer(instr, key) for key in ("start", "stop"))
        part = build.constant("slice", weight, axis=0, start=start, stop=stop)
        shift = None
        if isinstance(bias, ConstRef):
            shift = build.constant("slice", bias, axis=0, start=start, stop=stop)
        made = Instr("linear", (x, part, shift, None), instr.results, dict(whole.attrs), whole.source)
        return build.add(made)

    return [note, split]


def splits(instr: Instr, users: Mapping[int, list[Instr | None]]) -> bool:
    """True for a product that is only read by slices of its last axis without a step."""
    if instr.op != "linear" or instr.operands[3] is not None or not isinstance(instr.operands[1], ConstRef):
        return False
    result = instr.results[0]
    last = result.type.rank - 1
    return result.id in users and all(
        user is not None
        and user.op == "slice"
        and integer(user, "axis") % (last + 1) == last
        and integer(user, "step") == 1
        for user in users[result.id]
    )
