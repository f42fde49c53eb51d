"""The table of emitters, and what an emitter is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as opset

from forgec.ir.op import get
from forgec.ir.program import Instr, Literal, Operand
from forgec.ir.types import DType, TensorType

from ..types import Precision

__all__ = ["EMITTERS", "Context", "Emitter", "Node", "emitter"]

Node = Any
"""A node, or one output of a node; OpenVINO's functions take both."""

Emitter = Callable[["Context"], "Node | Sequence[Node]"]

EMITTERS: dict[str, Emitter] = {}


def emitter(*names: str) -> Callable[[Emitter], Emitter]:
    """Register a function that emits these ops; it gives one node per result."""

    def register(function: Emitter) -> Emitter:
        EMITTERS.update(dict.fromkeys(names, function))
        return function

    return register


class Context:
    """One instruction on its way into a model. ``o`` is the operation set; it notes what is made."""

    def __init__(
        self, instr: Instr, precision: Precision, node: Callable[[Operand], Node], made: list[Any]
    ) -> None:
        self.instr = instr
        self.precision = precision
        self.attrs: dict[str, Any] = {**get(instr.op).attrs, **instr.attrs}
        self.o = _Recorder(made)
        self._node = node

    @property
    def result(self) -> TensorType:
        """Type of the first result."""
        return self.instr.results[0].type

    def type(self, index: int) -> TensorType:
        """Type of a tensor operand."""
        operand = self.instr.operands[index]
        if operand is None or isinstance(operand, Literal):
            raise TypeError(f"operand {index} of {self.instr.op} is no tensor")
        return operand.type

    def given(self, index: int) -> bool:
        """Whether an optional operand is there."""
        return self.instr.operands[index] is not None

    def __getitem__(self, index: int) -> Node:
        """The node of an operand; a literal takes the element type of the tensors beside it."""
        operand = self.instr.operands[index]
        return self.scalar(operand.value) if isinstance(operand, Literal) else self._node(operand)

    def scalar(self, value: float, dtype: DType | None = None) -> Node:
        """A constant of rank 0, of the type of the last tensor operand unless said."""
        beside = [x.type.dtype for x in self.instr.operands if x is not None and not isinstance(x, Literal)]
        return self.o.constant(self.precision.array(value, dtype or beside[-1]))

    def ints(self, *values: int) -> Node:
        """A constant vector of 64-bit integers, as shapes and axes are."""
        return self.o.constant(np.array(values, np.int64))

    def index(self, value: int) -> Node:
        """A constant 64-bit integer of rank 0, as an axis is."""
        return self.o.constant(np.array(value, np.int64))

    def axis(self, index: int = 0) -> int:
        """The attribute ``axis``, not negative, in the rank of an operand."""
        return int(self.attrs["axis"]) % self.type(index).rank

    def ov_type(self, dtype: DType) -> ov.Type:
        return self.precision.openvino(dtype)


class _Recorder:
    """OpenVINO's operation set, noting every node that it makes."""

    def __init__(self, made: list[Any]) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Callable[..., Node]:
        function = getattr(opset, name)

        def make(*args: Any, **kwargs: Any) -> Node:
            node = function(*args, **kwargs)
            self._made.append(node)
            return node

        return make
