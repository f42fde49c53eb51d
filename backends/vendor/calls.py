"""How folded code is run: the calls of a segment in order, each a compiled part on registers and weights.

As bytes it is a line of JSON, and the weights as the constants of an IR program, whose recipes are over the
constants of the segment. Safe on bytes from anywhere: what they name is looked up before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from forgec.errors import ArtifactError, ForgecError
from forgec.ir.parser import parse
from forgec.ir.printer import to_text
from forgec.ir.program import Apply, Constant, ConstRef, Function, Leaf, Literal, Program, Recipe, leaves
from forgec.ir.recipes import evaluate

from ..base import Memory
from .legalise import Legal
from .parts import Call, Division

__all__ = ["BoundCall", "bind", "bound_inputs", "from_bytes", "to_bytes", "weights_of"]


@dataclass(frozen=True)
class BoundCall:
    """A part's number, the registers that it reads and writes, and its further inputs."""

    part: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[Recipe, ...]


def bound_inputs(legal: Legal, bound: Sequence[str]) -> dict[str, Recipe]:
    """The constants of a legalised part that depend on bound ones, over those: they become inputs."""
    names = set(bound)
    found = {}
    for name in legal.program.constants:
        recipe = legal.recipe(name)
        if recipe is not None and names.intersection(leaf.name for leaf in leaves(recipe)):
            found[name] = recipe
    return found


def bind(division: Division, inputs: Sequence[Sequence[Recipe]]) -> list[list[BoundCall]]:
    """The calls of every segment; ``inputs`` are every part's further inputs, over its bound constants."""
    return [[_bound(call, division, inputs[call.part]) for call in calls] for calls in division.calls]


def _bound(call: Call, division: Division, inputs: Sequence[Recipe]) -> BoundCall:
    given = dict(zip(division.parts[call.part].bound, call.constants, strict=True))
    weights = tuple(_substituted(recipe, given) for recipe in inputs)
    return BoundCall(call.part, call.inputs, call.outputs, weights)


def _substituted(recipe: Recipe, given: dict[str, ConstRef]) -> Recipe:
    if isinstance(recipe, Leaf):
        return Leaf(given[recipe.name].name, recipe.type)
    args: list[Leaf | Apply | Literal | None] = [
        _substituted(x, given) if isinstance(x, Leaf | Apply) else x for x in recipe.args
    ]
    return Apply(recipe.op, tuple(args), recipe.attrs, recipe.type)


def to_bytes(calls: Sequence[BoundCall]) -> bytes:
    names: dict[Recipe, str] = {}
    for call in calls:
        for recipe in call.weights:
            names.setdefault(recipe, f"c{len(names)}")
    constants = {name: Constant(name, recipe.type, recipe) for recipe, name in names.items()}
    data = [[c.part, list(c.inputs), list(c.outputs), [names[r] for r in c.weights]] for c in calls]
    main = Function("weights", (), (), [], (), ())
    text = to_text(Program("weights", {"weights": main}, constants))
    return f"{json.dumps(data)}\n{text}".encode()


def from_bytes(data: bytes, parts: int) -> list[BoundCall]:
    """The calls; :class:`ArtifactError` unless they are well formed and of ``parts`` parts."""
    try:
        head, _, text = data.decode().partition("\n")
        recipes = {name: constant.recipe for name, constant in parse(text).constants.items()}
        calls = [
            BoundCall(
                int(part), _numbers(inputs), _numbers(outputs), tuple(recipes[name] for name in weights)
            )
            for part, inputs, outputs, weights in json.loads(head)
        ]
    except (ForgecError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"the calls of folded code are damaged: {error}") from error
    if any(not 0 <= call.part < parts for call in calls):
        raise ArtifactError(f"the calls of folded code name parts that are not among its {parts}")
    return calls


def _numbers(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def weights_of(call: BoundCall, segment: Program, memory: Memory) -> list[np.ndarray]:
    """Values of a call's further inputs; :class:`ArtifactError` if a constant is not the segment's."""
    once: Callable[[ConstRef], np.ndarray] = getattr(memory, "once", memory)

    def tensor(name: str) -> np.ndarray:
        if name not in segment.constants:
            raise ArtifactError(f"folded code reads the constant {name!r}, which its segment does not have")
        return once(ConstRef(name, segment.constants[name].type))

    return [evaluate(recipe, tensor) for recipe in call.weights]
