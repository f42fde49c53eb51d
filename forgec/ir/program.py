"""The program: functions of typed instructions over virtual registers, constants with recipes, states.

Invariant: a register is defined once, before its uses, in the function that owns it (single static
assignment). Constants and states belong to the program; a function called several times takes what differs
between its calls as constant parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import xxhash

from .types import TensorType

__all__ = [
    "Apply",
    "AttrValue",
    "ConstParam",
    "ConstRef",
    "Constant",
    "Function",
    "Instr",
    "Leaf",
    "Literal",
    "Operand",
    "Program",
    "Recipe",
    "Register",
    "Source",
    "StateRef",
    "leaves",
]

AttrValue = int | float | bool | str | tuple[int, ...] | None


@dataclass(frozen=True)
class Source:
    """Where in the user's model an instruction comes from."""

    aten: str
    """Operator of the trace, for example ``aten.linear``."""
    file: str | None = None
    line: int | None = None
    module: str | None = None
    """Qualified name of the module that ran it, for example ``model.layers.0.mlp``."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else None
        return ", ".join(part for part in (self.aten, place, self.module) if part)


@dataclass(frozen=True)
class Register:
    """A virtual register: written once, by a parameter or an instruction."""

    id: int
    type: TensorType

    def __hash__(self) -> int:
        return self.id  # types would be most of the time that planning takes

    def __str__(self) -> str:
        return f"r{self.id}"


@dataclass(frozen=True)
class ConstRef:
    """Use of a program constant."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ConstParam:
    """Use of a function's constant parameter; each call binds it to a program constant."""

    index: int
    type: TensorType

    def __str__(self) -> str:
        return f"k{self.index}"


@dataclass(frozen=True)
class StateRef:
    """Use of a state: a tensor that lives from one run to the next."""

    name: str
    type: TensorType

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Literal:
    """A scalar written into the instruction; it takes the element type of the operand beside it."""

    value: int | float | bool

    def __eq__(self, other: object) -> bool:
        # repr() keeps nan equal to itself, 1 apart from 1.0 and 0.0 apart from -0.0.
        return isinstance(other, Literal) and repr(self.value) == repr(other.value)

    def __hash__(self) -> int:
        return hash(repr(self.value))


Operand = Register | ConstRef | ConstParam | StateRef | Literal | None
"""What an instruction reads; ``None`` is an optional operand left out."""


@dataclass(frozen=True)
class Leaf:
    """A recipe that takes one source tensor as it is."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Apply:
    """A recipe that applies an IR op to other recipes; evaluated when the artifact is written."""

    op: str
    args: tuple[Leaf | Apply | Literal | None, ...]
    attrs: tuple[tuple[str, AttrValue], ...]
    type: TensorType


Recipe = Leaf | Apply


def leaves(recipe: Recipe) -> Iterator[Leaf]:
    """The source tensors that a recipe reads, in order, with repetitions."""
    if isinstance(recipe, Leaf):
        yield recipe
        return
    for arg in recipe.args:
        if isinstance(arg, Leaf | Apply):
            yield from leaves(arg)


@dataclass(frozen=True)
class Constant:
    """A read-only tensor of the program and how to compute it from source tensors."""

    name: str
    type: TensorType
    recipe: Recipe

    @cached_property
    def key(self) -> str:
        """Name of the evaluated tensor in the artifact: the source's own where it is used as it is, else from
        the recipe, so that equal recipes of several programs are one tensor."""
        if isinstance(self.recipe, Leaf):
            return self.recipe.name
        return f"%{xxhash.xxh3_64_hexdigest(repr(self.recipe).encode())}"


@dataclass
class Instr:
    """One operation. ``device`` and ``offsets`` (bytes, one per result) are filled in by the plan."""

    op: str
    operands: tuple[Operand, ...]
    results: tuple[Register, ...]
    attrs: dict[str, AttrValue] = field(default_factory=dict)
    source: Source | None = None
    device: str | None = None
    offsets: tuple[int | None, ...] = ()

    def registers(self) -> Iterator[Register]:
        """The registers it reads, with repetitions."""
        for operand in self.operands:
            if isinstance(operand, Register):
                yield operand


@dataclass
class Function:
    """Parameters, constant parameters, straight-line body, results."""

    name: str
    params: tuple[Register, ...]
    param_names: tuple[str, ...]
    body: list[Instr]
    results: tuple[Register, ...]
    result_names: tuple[str, ...]
    const_params: tuple[ConstParam, ...] = ()


@dataclass
class Program:
    """``functions[entry]`` is what a run executes; the others are reached by ``call``."""

    entry: str
    functions: dict[str, Function]
    constants: dict[str, Constant] = field(default_factory=dict)
    states: dict[str, TensorType] = field(default_factory=dict)

    @property
    def main(self) -> Function:
        return self.functions[self.entry]

    def calls(self) -> dict[str, int]:
        """How often a run executes each function."""
        counts = dict.fromkeys(self.functions, 0)
        counts[self.entry] = 1
        for name in self.topological():
            for instr in self.functions[name].body:
                if instr.op == "call":
                    counts[str(instr.attrs["callee"])] += counts[name]
        return counts

    def topological(self) -> list[str]:
        """Function names, callers before callees."""
        order: list[str] = []

        def visit(name: str) -> None:
            if name in order:
                return
            for instr in self.functions[name].body:
                if instr.op == "call":
                    visit(str(instr.attrs["callee"]))
            order.append(name)

        visit(self.entry)
        for name in self.functions:
            visit(name)
        return order[::-1]

    def map_instrs(self, change: Callable[[Instr], Instr]) -> Program:
        """A copy whose instructions went through ``change``."""
        functions = {
            name: replace(function, body=[change(instr) for instr in function.body])
            for name, function in self.functions.items()
        }
        return replace(self, functions=functions)
