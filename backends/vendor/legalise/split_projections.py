"""One matrix product per part instead of slices of a wide one.

Before: ``y = linear x, c5, c6; q = slice y {stop=64}; k = slice y {start=64, stop=128}``. After:
``q = linear x, c5[:64], c6[:64]; k = linear x, c5[64:128], c6[64:128]``, and so on compressed weights. HTP
copies what it slices on the last axis, and separate products are as fast as one.

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

_OUTPUTS = {"linear": (None, 0, 0, None), "linear_q": (None, 0, 1, 0, None)}
"""By op and operand: the axis with an entry for each output."""


def split_projections(segment: Program) -> list[Rule]:
    """The rule for one segment."""
    users = readers(segment)
    wide = {instr.results[0].id for instr in segment.main.body if splits(instr, users)}
    rewritten: dict[int, Instr] = {}

    def note(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op in _OUTPUTS and instr.results[0].id in wide:
            rewritten[instr.results[0].id] = instr
        return None

    def split(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        source = instr.operands[0] if instr.op == "slice" else None
        whole = rewritten.get(getattr(source, "id", -1))
        if whole is None:
            return None
        start, stop = (integer(instr, key) for key in ("start", "stop"))
        operands = tuple(
            build.constant("slice", x, axis=axis, start=start, stop=stop)
            if axis is not None and isinstance(x, ConstRef)
            else x
            for x, axis in zip(whole.operands, _OUTPUTS[whole.op], strict=True)
        )
        return build.add(Instr(whole.op, operands, instr.results, dict(whole.attrs), whole.source))

    return [note, split]


def splits(instr: Instr, users: Mapping[int, list[Instr | None]]) -> bool:
    """True for a product that is only read by slices of its last axis without a step."""
    if instr.op not in _OUTPUTS or instr.operands[-1] is not None:
        return False
    weights = [x for x, axis in zip(instr.operands, _OUTPUTS[instr.op], strict=True) if axis is not None]
    if not all(x is None or isinstance(x, ConstRef) for x in weights):
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
