"""Compressed weights: ``linear`` and ``embedding`` on parameters become ``linear_q`` and ``embedding_q``.

*Before* ``r2 = linear r1, c0`` with ``c0 = "head"``.
*After* ``r2 = linear_q r1, c1, c2`` with ``c1 = quantise("head", scales("head"))``, ``c2 = scales("head")``.
*Does not fire* on weights that are no f32 matrices or that lowering computed, and in the format fp32.

A weight that several parameters make up, such as a fused projection, takes the most exact of their formats.
A table that an embedding reads is never i4: it takes 8 bits for all its uses, so that a tied head shares its
bytes; so does a weight whose rows have an odd length. Instead of int4 that is int8, and instead of w4a8 it is
w8a8, whose products round activations to 8 bits too. A function whose calls bind weights of different formats
becomes several functions. Linear in the instructions of all calls.

Attention may round the factors of its products to bf16 where the format without a pattern rounds activations
to 8 bits, which costs more.

With a calibration, codes and scales of 4 bits are the ``fitted_`` ones if the inputs of the weight were seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ..weights import EIGHT_BIT_ACTIVATIONS, FOUR_BITS, Format, WeightSpec
from .calibrate import Calibration, gram_leaf
from .op import get
from .ops.compressed import MAX_DYNAMIC_DEPTH
from .program import (
    Apply,
    Constant,
    ConstParam,
    ConstRef,
    Function,
    Instr,
    Leaf,
    Operand,
    Program,
    Recipe,
    leaves,
)
from .types import DType, TensorType

__all__ = ["compress"]

_WEIGHT = {"linear": 1, "embedding": 0}
"""Which operand of an op is a weight that can be compressed."""

_COMPUTED = "literal."
"""Prefix of source tensors that are no parameters."""


def compress(program: Program, spec: WeightSpec, calibration: Calibration | None = None) -> Program:
    """The program with weights in the formats of ``spec``; itself if all are fp32.

    Raises :class:`OptionError` for a pattern that matches no weight.
    """
    if not spec.compresses:
        return program
    uses = _uses(program)
    spec.check(leaf.name for name in uses for leaf in leaves(program.constants[name].recipe))
    formats = {name: _format(spec, program.constants[name], "embedding" in ops) for name, ops in uses.items()}
    formats = {name: f for name, f in formats.items() if f.name != "fp32"}
    if not formats:
        return program
    return _Rewrite(program, formats, calibration, spec.default.name in EIGHT_BIT_ACTIVATIONS).run()


def _uses(program: Program) -> dict[str, set[str]]:
    """For each constant that can be compressed, the ops that read it as a weight."""
    uses: dict[str, set[str]] = {}

    def visit(function: Function, bound: Sequence[ConstRef]) -> None:
        for instr in function.body:
            if instr.op == "call":
                callee = program.functions[str(instr.attrs["callee"])]
                given = instr.operands[len(callee.params) :]
                visit(callee, [c for c in (_bound(x, bound) for x in given) if c is not None])
            elif instr.op in _WEIGHT and instr.results[0].type.dtype is DType.F32:
                weight = _bound(instr.operands[_WEIGHT[instr.op]], bound)
                if weight is not None and _is_parameter(program.constants[weight.name]):
                    uses.setdefault(weight.name, set()).add(instr.op)

    visit(program.main, ())
    return uses


def _bound(x: Operand, bound: Sequence[ConstRef]) -> ConstRef | None:
    """The program's constant that an operand is, under the constants that a call binds."""
    if isinstance(x, ConstParam):
        return bound[x.index]
    return x if isinstance(x, ConstRef) else None


def _is_parameter(constant: Constant) -> bool:
    t = constant.type
    named = all(not leaf.name.startswith(_COMPUTED) for leaf in leaves(constant.recipe))
    return named and t.rank == 2 and t.dtype is DType.F32 and t.numel > 0


def _format(spec: WeightSpec, constant: Constant, is_table: bool) -> Format:
    chosen = spec.of(leaf.name for leaf in leaves(constant.recipe))
    depth = constant.type.shape[1]
    if chosen.name in FOUR_BITS and (is_table or depth % 2):
        chosen = Format("w8a8" if chosen.name == "w4a8" else "int8")
    if chosen.name == "w8a8" and depth > MAX_DYNAMIC_DEPTH:
        return Format("int8")
    return replace(chosen, group=0) if chosen.group >= depth else chosen


@dataclass
class _Made:
    """A rewritten function, and which constants it takes: parameter of the old function, and which part."""

    function: Function
    wanted: list[tuple[int, str]]


@dataclass
class _Rewrite:
    """One way through a program; ``formats`` by constant; ``rounds`` if attention may round."""

    program: Program
    formats: dict[str, Format]
    calibration: Calibration | None
    rounds: bool
    made: dict[tuple[str, tuple[Format | None, ...]], _Made] = field(default_factory=dict)
    constants: dict[Recipe, ConstRef] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)

    def run(self) -> Program:
        main = self.function(self.program.entry, ()).function
        functions = {main.name: main, **{name: f for name, f in self.functions.items() if name != main.name}}
        table = {ref.name: Constant(ref.name, ref.type, recipe) for recipe, ref in self.constants.items()}
        return replace(self.program, functions=functions, constants=table)

    def function(self, name: str, bound: tuple[ConstRef, ...]) -> _Made:
        key = name, tuple(self.formats.get(c.name) for c in bound)
        if key not in self.made:
            old = self.program.functions[name]
            body = _Body(self, bound)
            instrs = [body.instr(instr) for instr in old.body]
            variants = sum(made_name == name for made_name, _ in self.made)
            new_name = name if variants == 0 else f"{name}.{variants}"
            new = replace(old, name=new_name, body=instrs, const_params=tuple(body.params.values()))
            self.functions[new_name] = new
            self.made[key] = _Made(new, list(body.params))
        return self.made[key]

    def part(self, constant: ConstRef, part: str) -> ConstRef:
        """A constant as it is, its codes or its scales."""
        source = self.program.constants[constant.name]
        recipe = source.recipe
        if part:
            format_, depth = self.formats[constant.name], source.type.shape[1]
            seen = self.calibration is not None and self.calibration.knows(source.key, depth)
            gram = gram_leaf(source.key, depth) if seen and format_.name in FOUR_BITS else None
            recipe = _recipe(recipe, format_, part, gram)
        found = self.constants.get(recipe)
        if found is None:
            found = self.constants[recipe] = ConstRef(f"c{len(self.constants)}", recipe.type)
        return found


def _recipe(weight: Recipe, format_: Format, part: str, gram: Leaf | None) -> Recipe:
    if format_.name == "bf16":
        return _apply("cast", [weight], dtype="bf16")
    bits = 4 if format_.name in FOUR_BITS else 8
    names, known = ("scales", "quantise"), []
    if gram is not None:
        names, known = ("fitted_scales", "fitted_codes"), [gram]
    scales = _apply(names[0], [weight, *known], bits=bits, group=format_.group)
    if part == "scales":
        return scales
    return _apply(names[1], [weight, scales, *known], bits=bits, group=format_.group)


def _apply(op: str, args: Sequence[Recipe], **attrs: int | str) -> Apply:
    kept = tuple(sorted((key, value) for key, value in attrs.items() if get(op).attrs[key] != value))
    return Apply(op, tuple(args), kept, _result(op, tuple(a.type for a in args), kept))


@lru_cache(maxsize=1024)
def _result(op: str, types: tuple[TensorType, ...], attrs: tuple[tuple[str, int | str], ...]) -> TensorType:
    """Type of a recipe's result: layers have the same again and again."""
    (result,) = get(op).result_types(types, dict(attrs))
    return result


class _Body:
    """The instructions of one function, under the constants of its first call of that kind."""

    def __init__(self, rewrite: _Rewrite, bound: tuple[ConstRef, ...]) -> None:
        self.rewrite = rewrite
        self.bound = bound
        self.params: dict[tuple[int, str], ConstParam] = {}

    def instr(self, instr: Instr) -> Instr:
        if instr.op == "call":
            return self.call(instr)
        weight = self.format(instr)
        if weight is None:
            attrs = dict(instr.attrs)
            if self.rewrite.rounds and instr.op == "attention":
                attrs["bf16"] = True
            return replace(instr, operands=tuple(self.operand(x) for x in instr.operands), attrs=attrs)
        place = _WEIGHT[instr.op]
        codes = self.operand(instr.operands[place], "codes")
        scales = None if weight.name == "bf16" else self.operand(instr.operands[place], "scales")
        rest = [self.operand(x) for i, x in enumerate(instr.operands) if i != place]
        attrs = dict(instr.attrs)
        if weight.group:
            attrs["group"] = weight.group
        if instr.op == "embedding":
            return replace(instr, op="embedding_q", operands=(codes, rest[0], scales), attrs=attrs)
        if weight.name in EIGHT_BIT_ACTIVATIONS:
            attrs["dynamic"] = True
        return replace(instr, op="linear_q", operands=(rest[0], codes, scales, *rest[1:]), attrs=attrs)

    def format(self, instr: Instr) -> Format | None:
        """The format of an instruction's weight, or None if it is read as it is."""
        if instr.op not in _WEIGHT or instr.results[0].type.dtype is not DType.F32:
            return None
        weight = _bound(instr.operands[_WEIGHT[instr.op]], self.bound)
        return None if weight is None else self.rewrite.formats.get(weight.name)

    def operand(self, x: Operand, part: str = "") -> Operand:
        if isinstance(x, ConstRef):
            return self.rewrite.part(x, part)
        if not isinstance(x, ConstParam):
            return x
        found = self.params.get((x.index, part))
        if found is None:
            t = self.rewrite.part(self.bound[x.index], part).type
            found = self.params[x.index, part] = ConstParam(len(self.params), t)
        return found

    def call(self, instr: Instr) -> Instr:
        callee = self.rewrite.program.functions[str(instr.attrs["callee"])]
        first = len(callee.params)
        bound = tuple(self.constants(instr.operands[first:]))
        made = self.rewrite.function(callee.name, bound)
        constants = [self.operand(instr.operands[first + index], part) for index, part in made.wanted]
        return replace(
            instr,
            operands=(*instr.operands[:first], *constants),
            attrs={**instr.attrs, "callee": made.function.name},
        )

    def constants(self, operands: Sequence[Operand]) -> Iterator[ConstRef]:
        for x in operands:
            constant = _bound(x, self.bound)
            assert constant is not None, "a call binds constants"
            yield constant
