"""Builds one IR function: emits instructions, derives result types, keeps constant expressions as recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash

from ...errors import InternalError
from ...tensors import as_numpy
from ..layout import Layout, view_layout
from ..op import get
from ..program import (
    Apply,
    AttrValue,
    ConstParam,
    ConstRef,
    Instr,
    Leaf,
    Literal,
    Operand,
    Recipe,
    Register,
    Source,
    StateRef,
)
from ..types import DType, TensorType

__all__ = ["Const", "Constants", "FunctionBuilder", "Value"]

EXPAND_LIMIT = 1 << 16
"""Bytes; a constant is stored expanded only up to this size."""


@dataclass(frozen=True)
class Const:
    """A value known when the artifact is written."""

    recipe: Recipe

    @property
    def type(self) -> TensorType:
        return self.recipe.type


Value = Register | Const | Literal | StateRef | None


class Constants:
    """The program's constant table while it is built: recipes by structure, and literal tensors by
    content."""

    def __init__(self) -> None:
        self.recipes: dict[Recipe, ConstRef] = {}
        self.literals: dict[str, np.ndarray] = {}
        self._by_content: dict[tuple[str, bytes], str] = {}

    def ref(self, recipe: Recipe) -> ConstRef:
        """The constant with this recipe; equal recipes are one constant."""
        found = self.recipes.get(recipe)
        if found is None:
            found = self.recipes[recipe] = ConstRef(f"c{len(self.recipes)}", recipe.type)
        return found

    def literal(self, array: np.ndarray) -> Leaf:
        """A tensor that lowering or folding computed; equal ones are one."""
        type_ = TensorType.of(array)
        key = (str(type_), array.tobytes())
        name = self._by_content.get(key)
        if name is None:
            name = f"literal.{xxhash.xxh3_128_hexdigest(key[0].encode() + key[1])}"
            self._by_content[key] = name
            self.literals[name] = array
        return Leaf(name, type_)


class FunctionBuilder:
    """Values come in as registers, constants or literals; :meth:`emit` gives the result of an op.

    An op on constants alone becomes a recipe. In a function called several times, a recipe that reads an
    instance's own tensors becomes a constant parameter.
    """

    def __init__(self, constants: Constants, instance_names: frozenset[str] = frozenset()) -> None:
        self.constants = constants
        self.body: list[Instr] = []
        self.source: Source | None = None
        self.result_type: TensorType | tuple[TensorType, ...] | None = None
        """Type of the FX node being lowered."""
        self.used: frozenset[Any] = frozenset()
        """Which results of that node anything reads, by number, where it has several."""
        self.const_params: dict[Recipe, ConstParam] = {}
        self.made: dict[tuple[Any, ...], Any] = {}
        """What converters made and other nodes may use too, by what it is and of which values."""
        self._instance_names = instance_names
        self._layouts: dict[Register, Layout] = {}
        self._count = 0

    def register(self, type_: TensorType) -> Register:
        """A new register."""
        register = Register(self._count, type_)
        self._count += 1
        self._layouts[register] = Layout.contiguous(register)
        return register

    def emit(self, name: str, *operands: Value, **attrs: AttrValue) -> Any:
        """Result of an op: a value, or a tuple of them if the op has several results."""
        record = get(name)
        attrs = {
            k: v for k, v in attrs.items() if record.attrs[k] != v or type(record.attrs[k]) is not type(v)
        }
        types = [_type(x) for x in operands]
        results = record.result_types(types, attrs)
        constant = all(isinstance(x, Const | Literal | None) for x in operands)
        enlarges = name == "expand" and results[0].nbytes > max(EXPAND_LIMIT, _nbytes(types[0]))
        if constant and record.pure and len(results) == 1 and not enlarges:
            args = tuple(x.recipe if isinstance(x, Const) else x for x in operands)
            return Const(Apply(name, args, tuple(sorted(attrs.items())), results[0]))  # type: ignore[arg-type]
        instr = Instr(
            name,
            tuple(self.operand(x) for x in operands),
            tuple(self.register(t) for t in results),
            attrs,
            self.source,
        )
        if record.view and not self._place_view(instr):
            copied = self.emit("copy", operands[0])
            return self.emit(name, copied, **attrs)
        self.body.append(instr)
        return instr.results[0] if len(results) == 1 else instr.results

    def operand(self, value: Value) -> Operand:
        """How an instruction refers to a value."""
        if not isinstance(value, Const):
            return value
        recipe = value.recipe
        if not self._reads_instance(recipe):
            return self.constants.ref(recipe)
        param = self.const_params.get(recipe)
        if param is None:
            param = self.const_params[recipe] = ConstParam(len(self.const_params), recipe.type)
        return param

    def call(
        self, callee: str, operands: Sequence[Operand], types: Sequence[TensorType]
    ) -> tuple[Register, ...]:
        results = tuple(self.register(t) for t in types)
        self.body.append(Instr("call", tuple(operands), results, {"callee": callee}, self.source))
        return results

    def tensor(self, tensor: torch.Tensor) -> Const:
        """A constant with the values of a small tensor."""
        return Const(self.constants.literal(np.asarray(as_numpy(tensor), order="C")))

    def cast(self, value: Value, dtype: DType) -> Any:
        """The value in an element type; itself if it has it already."""
        if isinstance(value, Register | Const) and value.type.dtype is not dtype:
            return self.emit("cast", value, dtype=dtype.value)
        return value

    def reshape(self, value: Value, shape: Sequence[int]) -> Any:
        """The value in a shape; itself if it has it already."""
        if isinstance(value, Register | Const) and value.type.shape == tuple(shape):
            return value
        return self.emit("reshape", value, shape=tuple(shape))

    def contiguous(self, register: Register) -> Register:
        """The register, or a copy of it if it is a strided view: what may cross a function's border."""
        return register if self._layouts[register].is_contiguous else self.emit("copy", register)

    def _place_view(self, instr: Instr) -> bool:
        operand = instr.operands[0]
        if isinstance(operand, Register):
            base = self._layouts[operand]
        elif isinstance(operand, ConstRef | ConstParam | StateRef):
            base = Layout.contiguous(operand)
        else:
            raise InternalError(f"{instr.op} of a literal")
        layout = view_layout(instr, base)
        if layout is None:
            self._count -= 1
            del self._layouts[instr.results[0]]
            return False
        self._layouts[instr.results[0]] = layout
        return True

    def _reads_instance(self, recipe: Recipe) -> bool:
        if isinstance(recipe, Leaf):
            return recipe.name in self._instance_names
        return any(isinstance(a, Leaf | Apply) and self._reads_instance(a) for a in recipe.args)


def _type(value: Value) -> TensorType | None:
    return None if value is None or isinstance(value, Literal) else value.type


def _nbytes(type_: TensorType | None) -> int:
    return 0 if type_ is None else type_.nbytes
