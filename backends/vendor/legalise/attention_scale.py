"""Attention's scale multiplied into the weights that make the queries.

Before: ``q = linear x, c1, c2; y = attention q, k, v {scale=0.125}``. After: ``q = linear x, c1*0.125,
c2*0.125; y = attention q, k, v``. Saves a pass over the queries; views and rotary embedding may stand
between, because they are linear.

Does not fire when something on the way has another reader, or the queries come from no product with constant
weights and no norm with a constant weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from forgec.ir.op import get
from forgec.ir.program import Apply, Constant, ConstRef, Instr, Leaf, Literal, Operand, Program, Register

from ..attributes import number, text
from .builder import Builder, Rule
from .split_projections import splits
from .users import readers

__all__ = ["fold_attention_scale"]

_SCALED = {"linear": (1, 2), "linear_q": (2, 3), "rms_norm": (1,), "layer_norm": (1, 2)}
"""By op: the operands that a factor on its result goes to."""


def fold_attention_scale(segment: Program) -> list[Rule]:
    """The rule for one segment."""
    factors, folded = _plan(segment)

    def scale(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        factor = factors.get(instr.results[0].id) if instr.results else None
        if factor is None or instr.op not in _SCALED:
            return None
        operands = list(instr.operands)
        for index in _SCALED[instr.op]:
            constant = operands[index]
            if isinstance(constant, ConstRef):
                operands[index] = _times(build, constant, factor)
        return build.ops(instr.op, *operands, **instr.attrs)

    def unscaled(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op != "attention" or instr.results[0].id not in folded:
            return None
        return build.ops("attention", *instr.operands, **{**instr.attrs, "scale": 1.0})

    return [scale, unscaled]


def _times(build: Builder, of: ConstRef, factor: float) -> ConstRef:
    key = f"{of.name}*{factor!r}"
    recipe = Apply("mul", (Leaf(of.name, of.type), Literal(factor)), (), of.type)
    build.constants[key] = Constant(key, of.type, recipe)
    return ConstRef(key, of.type)


def _plan(segment: Program) -> tuple[dict[int, float], set[int]]:
    """Factors by the register to scale, and the attentions whose scale is done with."""
    made = {r.id: instr for instr in segment.main.body for r in instr.results}
    users = readers(segment)
    factors: dict[int, float] = {}
    folded: set[int] = set()
    for instr in segment.main.body:
        scale = number(instr, "scale") if instr.op == "attention" else 1.0
        if scale == 1.0:
            continue
        source = _source(instr.operands[0], made, users)
        if source is not None:
            factors[source] = scale
            folded.add(instr.results[0].id)
    return factors, folded


def _source(x: Operand, made: Mapping[int, Instr], users: Mapping[int, list[Instr | None]]) -> int | None:
    """The register that a factor on ``x`` may go to instead."""
    while isinstance(x, Register) and x.id in made and len(users[x.id]) == 1:
        instr = made[x.id]
        if instr.op == "slice" and _part_of_product(instr, made, users):
            return x.id
        if instr.op in _SCALED:
            return x.id if _constant(instr) else None
        if not get(instr.op).view and instr.op not in ("copy", "rope"):
            return None
        x = instr.operands[0]
    return None


def _part_of_product(
    instr: Instr, made: Mapping[int, Instr], users: Mapping[int, list[Instr | None]]
) -> bool:
    """True for a slice that the rule before this one turns into a product of its own."""
    source = instr.operands[0]
    if not isinstance(source, Register) or source.id not in made:
        return False
    return splits(made[source.id], users) and _constant(made[source.id])


def _constant(instr: Instr) -> bool:
    """True if all that a factor would go to is constant, and nothing bends or adds to the result after."""
    if instr.op in ("linear", "linear_q") and (text(instr, "act") or instr.operands[-1] is not None):
        return False
    operands = [instr.operands[i] for i in _SCALED[instr.op]]
    return isinstance(operands[0], ConstRef) and all(x is None or isinstance(x, ConstRef) for x in operands)
