"""Rewriting of a flat segment by rules that look at one instruction each.

A rule gets an instruction, its operands already rewritten, and a builder; it answers with what stands in for
the instruction's results, or None if it does not apply. What a rule builds is offered to all rules again, so
rules may be written in terms of each other's input; a rule that matches what it builds itself never ends,
which is an internal error after a bounded number of steps. Linear in the number of instructions built.

A rewritten segment is for emission only: it is never planned, so a reshape may stand on any layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from forgec.errors import InternalError
from forgec.ir import ops  # noqa: F401  (registers the records)
from forgec.ir.op import get
from forgec.ir.program import (
    Apply,
    AttrValue,
    Constant,
    ConstRef,
    Instr,
    Leaf,
    Literal,
    Operand,
    Program,
    Recipe,
    Register,
    Source,
    StateRef,
)
from forgec.ir.recipes import evaluate
from forgec.ir.types import TensorType

from ...base import Constants

__all__ = ["Builder", "Legal", "Rule", "legalise", "type_of"]

Rule = Callable[["Builder", Instr], "Sequence[Operand] | None"]
"""``rule(builder, instr)``: operands in place of the results, or None to leave the instruction."""

_DEPTH = 40


@dataclass(frozen=True)
class Legal:
    """A rewritten segment. ``derived`` are constants as recipes over ``original`` ones, by name, and over
    ``tensors``."""

    program: Program
    original: dict[str, Constant]
    derived: dict[str, Constant]
    tensors: dict[str, np.ndarray]

    def then(self, rules: Iterable[Rule]) -> Legal:
        """This segment rewritten by further rules, which see what the first made as if it were written so."""
        after = legalise(self.program, rules)
        derived, tensors = {**self.derived, **after.derived}, {**self.tensors, **after.tensors}
        return Legal(after.program, self.original, derived, tensors)

    def values(self, constants: Constants) -> Constants:
        """The constants of the rewritten segment, given those of the original one."""

        def by_name(name: str) -> np.ndarray:
            if name in self.tensors:
                return self.tensors[name]
            if name in self.original:
                return constants(self.original[name])
            return evaluate(self.derived[name].recipe, by_name)

        return lambda constant: by_name(constant.name)

    def recipe(self, name: str) -> Recipe | None:
        """A constant of the rewritten segment over the original ones; None if it has a value of its own."""
        if name in self.tensors:
            return None
        if name in self.original:
            return Leaf(name, self.original[name].type)
        return self._over_originals(self.derived[name].recipe)

    def _over_originals(self, recipe: Recipe) -> Recipe | None:
        if isinstance(recipe, Leaf):
            return self.recipe(recipe.name)
        args = tuple(self._over_originals(x) if isinstance(x, Leaf | Apply) else x for x in recipe.args)
        return None if None in args and None not in recipe.args else replace(recipe, args=args)


def type_of(operand: Operand) -> TensorType | None:
    """Type of an operand; None for literals and what is left out."""
    return None if operand is None or isinstance(operand, Literal) else operand.type


class Builder:
    """Appends instructions to a segment in the making; new ones take the source of the one rewritten."""

    def __init__(self, segment: Program, rules: Sequence[Rule]) -> None:
        self.constants = dict(segment.constants)
        self.tensors: dict[str, np.ndarray] = {}
        self._made: dict[object, Operand] = {}
        self.body: list[Instr] = []
        self._rules = rules
        main = segment.main
        used = [*main.params, *(r for instr in main.body for r in instr.results)]
        self._next = max((r.id for r in used), default=-1) + 1
        self._source: Source | None = None
        self._device: str | None = None
        self._depth = 0

    def op(self, name: str, *operands: Operand, **attrs: AttrValue) -> Register:
        """Append an instruction with one result and give what stands for it."""
        (result,) = self.ops(name, *operands, **attrs)
        if not isinstance(result, Register):
            raise InternalError(f"{name} built while legalising gives {result}, no register")
        return result

    def ops(self, name: str, *operands: Operand, **attrs: AttrValue) -> Sequence[Operand]:
        """Append an instruction and give what stands for its results."""
        types = get(name).result_types([type_of(x) for x in operands], attrs)
        results = tuple(self._fresh(t) for t in types)
        return self.add(Instr(name, operands, results, dict(attrs), self._source, self._device))

    def constant(self, name: str, of: ConstRef, **attrs: AttrValue) -> ConstRef:
        """A new constant: an op applied to a constant of the program."""
        (kind,) = get(name).result_types([of.type], attrs)
        label = ",".join(f"{key}={value}" for key, value in attrs.items())
        key = f"{of.name}.{name}({label})"
        recipe = Apply(name, (Leaf(of.name, of.type),), tuple(attrs.items()), kind)
        self.constants[key] = Constant(key, kind, recipe)
        return ConstRef(key, kind)

    def tensor(self, name: str, value: np.ndarray) -> ConstRef:
        """A new constant with a value of its own; equal names must mean equal values."""
        kind = TensorType.of(value)
        self.tensors[name] = value
        self.constants[name] = Constant(name, kind, Leaf(name, kind))
        return ConstRef(name, kind)

    def once(self, key: object, make: Callable[[], Operand]) -> Operand:
        """What ``make`` built the first time that this key was asked for: one mask for all layers."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def add(self, instr: Instr) -> Sequence[Operand]:
        """Offer an instruction to the rules; append it if none wants it."""
        self._depth += 1
        if self._depth > _DEPTH:
            raise InternalError(f"the legalisation rules never come to an end on {instr.op}")
        outer = self._source, self._device
        self._source, self._device = instr.source, instr.device
        try:
            for rule in self._rules:
                found = rule(self, instr)
                if found is not None:
                    return found
            self.body.append(instr)
            return instr.results
        finally:
            self._source, self._device = outer
            self._depth -= 1

    def _fresh(self, kind: TensorType) -> Register:
        self._next += 1
        return Register(self._next - 1, kind)


def legalise(segment: Program, rules: Iterable[Rule]) -> Legal:
    """The segment with every instruction rewritten by the first rule that applies, again and again.

    Parameters and the order and types of the results stay; results may be other registers, or parameters.
    """
    main = segment.main
    builder = Builder(segment, list(rules))
    env: dict[Operand, Operand] = {}
    for instr in main.body:
        operands = tuple(env.get(x, x) if isinstance(x, Register) else x for x in instr.operands)
        env.update(zip(instr.results, builder.add(replace(instr, operands=operands)), strict=True))
    results = []
    for register in main.results:
        found = env.get(register, register)
        if isinstance(found, ConstRef | StateRef):
            found = builder.op("copy", found)
        if not isinstance(found, Register) or found.type != register.type:
            raise InternalError(f"legalising gave {found} for the result {register}: {register.type}")
        results.append(found)
    body = _live(builder.body, results)
    used = {x.name for instr in body for x in instr.operands if isinstance(x, ConstRef)}
    program = replace(
        segment,
        functions={segment.entry: replace(main, body=body, results=tuple(results))},
        constants={name: c for name, c in builder.constants.items() if name in used},
    )
    return Legal(program, segment.constants, builder.constants, builder.tensors)


def _live(body: Sequence[Instr], results: Iterable[Register]) -> list[Instr]:
    """The instructions that results or effects need."""
    needed = set(results)
    kept = []
    for instr in reversed(body):
        if not get(instr.op).pure or needed.intersection(instr.results):
            needed.update(instr.registers())
            kept.append(instr)
    return kept[::-1]
