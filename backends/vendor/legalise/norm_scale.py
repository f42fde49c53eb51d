"""A layer norm's scale and shift in the weights of the products that read it.

Before: ``y = layer_norm x, c1, c2; z = linear y, c3, c4``. After: ``y = layer_norm x; z = linear y, c3*c1,
c4+c3@c2``, computed once, when constants are written. Saves a pass over the rows for each of the two.

Does not fire when something else than the input of a plain product reads the norm, when scale, shift or
weights are computed in the segment, or for no more than ``elements`` numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from forgec.ir.op import get
from forgec.ir.program import (
    Apply,
    AttrValue,
    Constant,
    ConstRef,
    Instr,
    Leaf,
    Operand,
    Program,
    Recipe,
    Register,
)

from .builder import Builder, Rule
from .users import readers

__all__ = ["fold_norm_scale"]

_NORMS = ("layer_norm", "add_layer_norm")


def fold_norm_scale(segment: Program, elements: int = 0) -> list[Rule]:
    """The rule for one segment; norms over at most so many ``elements`` keep their scale and shift."""
    users = readers(segment)
    bare: set[int] = set()
    scaled: dict[int, tuple[ConstRef, ConstRef | None]] = {}
    for instr in segment.main.body:
        if instr.op not in _NORMS:
            continue
        y = instr.results[-1]
        scale, shift = instr.operands[-2:]
        if y.type.numel <= elements or not isinstance(scale, ConstRef):
            continue
        if isinstance(shift, ConstRef | None) and all(_reads(user, y) for user in users.get(y.id, [None])):
            bare.add(y.id)
            scaled.update((u.results[0].id, (scale, shift)) for u in users[y.id] if u is not None)

    def fold(build: Builder, instr: Instr) -> Sequence[Operand] | None:
        if instr.op in _NORMS and instr.results[-1].id in bare:
            return build.ops(instr.op, *instr.operands[:-2], None, None, **instr.attrs)
        if instr.op != "linear" or instr.results[0].id not in scaled:
            return None
        x, weight, bias, residual = instr.operands
        assert isinstance(weight, ConstRef) and isinstance(bias, ConstRef | None)
        scale, shift = scaled[instr.results[0].id]
        if shift is not None:
            bias = _shifted(build, weight, bias, shift)
        weight = _named(build, f"{weight.name}*{scale.name}", _apply("mul", _leaf(weight), _leaf(scale)))
        return build.ops("linear", x, weight, bias, residual, **instr.attrs)

    return [fold]


def _reads(user: Instr | None, y: Register) -> bool:
    """True for a product of ``y`` with constants."""
    if user is None or user.op != "linear" or user.operands.count(y) > 1 or user.operands[0] != y:
        return False
    weight, bias = user.operands[1:3]
    return isinstance(weight, ConstRef) and isinstance(bias, ConstRef | None)


def _shifted(build: Builder, weight: ConstRef, bias: ConstRef | None, shift: ConstRef) -> ConstRef:
    """The bias with what the product makes of the shift."""
    outputs, inputs = weight.type.shape
    row = _apply("reshape", _leaf(shift), shape=(1, inputs))
    made = _apply("linear", row, _leaf(weight), None if bias is None else _leaf(bias), None)
    name = f"{weight.name}@{shift.name}+{bias.name if bias is not None else 0}"
    return _named(build, name, _apply("reshape", made, shape=(outputs,)))


def _leaf(of: ConstRef) -> Leaf:
    return Leaf(of.name, of.type)


def _apply(op: str, *args: Recipe | None, **attrs: AttrValue) -> Apply:
    (kind,) = get(op).result_types([None if arg is None else arg.type for arg in args], attrs)
    return Apply(op, args, tuple(attrs.items()), kind)


def _named(build: Builder, name: str, recipe: Apply) -> ConstRef:
    build.constants[name] = Constant(name, recipe.type, recipe)
    return ConstRef(name, recipe.type)
