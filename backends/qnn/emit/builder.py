"""The ONNX graph under construction: names of values, initializers, and the shapes that a register has.

HTP is fastest on rank-2 matrix products, so a register may exist in two *forms*: in its own shape, and as
rows ``[n, d]`` with all leading axes in one. A reshape is emitted when somebody asks for the form that is
not there, and once. A chain of products, norms and point-wise ops therefore stays in rows.

Every node is named ``r12.softmax``: the register that its instruction writes, then what it does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from forgec.errors import BackendError, InternalError
from forgec.ir.ops.compressed import dequantise
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Program, Register
from forgec.ir.types import DType, TensorType

from ...base import Constants
from ..edge import Port, to_float
from .weights import WeightFile

__all__ = ["Builder", "Shape", "rows_of"]

Shape = tuple[int, ...]


def rows_of(shape: Shape) -> Shape:
    """The shape with all axes but the last in one."""
    return (math.prod(shape[:-1]), shape[-1]) if shape else (1, 1)


class Builder:
    """Nodes and initializers of one segment. ``floats`` is the element type that stands for all floats.

    Constants in ``as_inputs`` have no value: each form in which one is read, its axes permuted or not, is an
    input of its own in ``bound``.
    """

    def __init__(
        self,
        program: Program,
        constants: Constants,
        weights: WeightFile,
        floats: DType = DType.F16,
        as_inputs: Collection[str] = (),
    ) -> None:
        self.bound: dict[tuple[str, Shape], Port] = {}
        self._as_inputs = frozenset(as_inputs)
        self.program = program
        self.floats = floats
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.producers = {r.id: instr for instr in program.main.body for r in instr.results}
        self.reads = Counter(x.id for instr in program.main.body for x in instr.registers())
        self._constants = constants
        self._weights = weights
        self._forms: dict[int, dict[Shape, str]] = {}
        self._slices: dict[int, list[tuple[Shape, str]]] = {}
        self._folded: dict[int, np.ndarray] = {}
        self._cache: dict[Any, str] = {}
        self._prefix = ""
        self._steps: dict[str, int] = {}

    def dtype(self, dtype: DType) -> DType:
        """The element type that stands for an IR type on the device: one float type, integers as i32."""
        if dtype.is_float:
            return self.floats
        return DType.BOOL if dtype is DType.BOOL else DType.I32

    def onnx_type(self, dtype: DType) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.dtype(dtype).numpy))

    def begin(self, instr: Instr) -> None:
        """Nodes from here on belong to ``instr``."""
        self._prefix = str(instr.results[0])
        self._steps = {}

    def node(self, op: str, *inputs: str, outputs: int = 1, step: str = "", **attrs: Any) -> Any:
        """Append a node; the name of its output, or the names if there are several."""
        step = step or op.lower()
        count = self._steps[step] = self._steps.get(step, 0) + 1
        name = f"{self._prefix}.{step}" + (f"{count}" if count > 1 else "")
        names = [name] if outputs == 1 else [f"{name}:{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attrs))
        return names[0] if outputs == 1 else names

    def once(self, key: Any, make: Any) -> str:
        """The value made for ``key`` before, or by ``make()`` now: for what instructions share."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def initializer(self, array: np.ndarray, name: str = "") -> str:
        """A constant input; floats come to the graph's float type, wide integers to i32."""
        dtype = DType.of(array)
        if dtype.is_float:
            array = to_float(array, self.floats.numpy)
        else:
            array = array.astype(self.dtype(dtype).numpy, copy=False)
        return self._add(array, name or f"k{len(self.initializers)}")

    def _add(self, array: np.ndarray, name: str) -> str:
        self.initializers[name] = self._weights.tensor(name, array)
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An i64 vector as ONNX wants for shapes, axes and bounds."""
        key = ("ints", tuple(values))
        return self.once(key, lambda: self._add(np.array(values, np.int64), f"k{len(self.initializers)}"))

    def int64(self, array: np.ndarray) -> str:
        """An i64 constant, for the operators that take no narrower index."""
        return self._add(array.astype(np.int64), f"k{len(self.initializers)}")

    def raw(self, array: np.ndarray) -> str:
        """A constant of bytes, as they are."""
        return self._add(array, f"k{len(self.initializers)}")

    def scalar(self, value: float | int | bool, dtype: DType) -> str:
        """A rank-0 constant of the device's type for ``dtype``."""
        dtype = self.dtype(dtype)
        key = ("scalar", repr(value), dtype)
        return self.once(
            key, lambda: self.initializer(np.asarray(value, np.float32 if dtype.is_float else dtype.numpy))
        )

    def static(self, x: Operand) -> np.ndarray | None:
        """The value of a constant operand, None for anything else."""
        if not isinstance(x, ConstRef) or self.is_input(x):
            return None
        return self._constants(self.program.constants[x.name])

    def fold(self, register: Register, array: np.ndarray) -> None:
        """``array`` is the register's value, whatever the inputs are."""
        array = np.ascontiguousarray(array).reshape(register.type.shape)
        self._folded[register.id] = array
        self.define(register, self.initializer(array))

    def single(self, x: Operand) -> Any:
        """The number that all elements of an operand are; None if they differ or are not known."""
        array = self._folded.get(x.id) if isinstance(x, Register) else self.static(x)
        if array is None or not array.size or not (array == array.flat[0]).all():
            return None
        return array.flat[0].item()

    def of_a_slice(self, x: Operand) -> bool:
        """Whether an operand is a part of a value, or has been made of one element by element."""
        waiting = [x]
        while waiting:
            x = waiting.pop()
            made = self.producers.get(x.id) if isinstance(x, Register) else None
            if made is None:
                continue
            if made.op == "slice":
                return True
            waiting += [y for y in made.registers() if y.type.numel == x.type.numel]  # type: ignore[union-attr]
        return False

    def is_input(self, x: Operand) -> bool:
        """True for a constant whose value is given when the model runs."""
        return isinstance(x, ConstRef) and x.name in self._as_inputs

    def weight(self, x: ConstRef, perm: Shape = ()) -> str:
        """A constant that is an input, with its axes permuted by whoever gives it; codes come as bytes from 0
        on."""
        if (x.name, perm) not in self.bound:
            shape = tuple(x.type.shape[axis] for axis in perm) if perm else x.type.shape
            dtype = x.type.dtype
            kind = TensorType(DType.U8 if dtype is DType.I8 else self.dtype(dtype), shape)
            self.bound[x.name, perm] = Port(-1, f"w{len(self.bound)}", kind)
        return self.bound[x.name, perm].name

    def decompressed(self, codes: Operand, scales: Operand, group: int) -> str:
        """The weight that constant codes and scales stand for."""
        assert isinstance(codes, ConstRef)

        def make() -> str:
            values, factors = self.static(codes), self.static(scales)
            if values is None or (factors is None and scales is not None):
                raise BackendError("a compressed weight cannot be an input", hint="compile with fold=off")
            return self.initializer(dequantise(values, factors, group, DType.F32.numpy), codes.name)

        return self.once((codes.name, "decompressed"), make)

    def value(self, x: Operand, shape: Shape | None = None, like: DType | None = None) -> str:
        """The name of an operand in its own shape or another one; a literal takes the type ``like``."""
        if isinstance(x, Literal) and like is not None:
            return self.scalar(x.value, like)
        if isinstance(x, ConstRef):
            return self._constant(x, x.type.shape if shape is None else shape)
        if not isinstance(x, Register):
            raise InternalError(f"operand {x} of a segment is neither register nor constant")
        shape = x.type.shape if shape is None else shape
        forms = self._forms[x.id]
        if shape not in forms:
            forms[shape] = self.reshape(next(iter(forms.values())), shape)
        return forms[shape]

    def _constant(self, x: ConstRef, shape: Shape) -> str:
        def make() -> str:
            if self.is_input(x):
                own = self.weight(x)
                return own if shape == x.type.shape else self.reshape(own, shape)
            array = self._constants(self.program.constants[x.name])
            return self.initializer(array.reshape(shape), x.name if shape == x.type.shape else "")

        return self.once((x.name, shape), make)

    def rows(self, x: Operand) -> str:
        """An operand as rows [n, d]."""
        assert isinstance(x, Register | ConstRef)
        return self.value(x, rows_of(x.type.shape))

    def has(self, x: Register, shape: Shape) -> bool:
        return shape in self._forms[x.id]

    def form(self, x: Register) -> tuple[Shape, str]:
        """The form in which a register was made."""
        return next(iter(self._forms[x.id].items()))

    def define(self, register: Register, name: str, shape: Shape | None = None) -> None:
        """``name`` is the register's value, in its own shape or the given one."""
        self._forms[register.id] = {register.type.shape if shape is None else shape: name}

    def define_slices(self, register: Register, slices: Sequence[tuple[Shape, str]]) -> None:
        """The register leaves the segment as these rows, side by side on the last axis; nothing reads it."""
        self._slices[register.id] = list(slices)

    def only_result(self, register: Register) -> bool:
        """True if a register is a result of the segment, once, and no instruction reads it."""
        return self.reads[register.id] == 0 and self.program.main.results.count(register) == 1

    def output(self, register: Register) -> list[tuple[Shape, str]]:
        """The forms in which a result leaves: one, or slices of its last axis."""
        return self._slices.get(register.id) or [self.form(register)]

    def alias(self, register: Register, other: Register) -> None:
        """``register`` has the elements of ``other`` in the same order."""
        self._forms[register.id] = self._forms[other.id]

    def reshape(self, name: str, shape: Shape) -> str:
        return self.node("Reshape", name, self.ints(shape))

    def transpose(self, name: str, shape: Shape, perm: Sequence[int]) -> str:
        """``name`` of ``shape`` with its axes permuted; a reshape where only axes of size 1 move."""
        moved = [axis for axis in perm if shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(name, tuple(shape[axis] for axis in perm))
        return self.node("Transpose", name, perm=list(perm))

    def transposed(self, x: Operand, perm: Sequence[int]) -> str:
        """An operand with its axes permuted, in one transpose where it is a transposed view itself."""
        assert isinstance(x, Register | ConstRef)
        if isinstance(x, ConstRef):
            array = self.static(x)
            if array is None:
                return self.weight(x, tuple(perm))
            return self.once((x.name, "perm", tuple(perm)), lambda: self.initializer(array.transpose(perm)))
        made = self.producers.get(x.id)
        if made is not None and made.op == "transpose" and isinstance(made.operands[0], Register):
            inner = made.attrs["perm"]
            assert isinstance(inner, tuple)
            return self.transposed(made.operands[0], [inner[axis] for axis in perm])
        if list(perm) == list(range(len(perm))):
            return self.value(x)
        return self.once(
            (x.id, "perm", tuple(perm)), lambda: self.transpose(self.value(x), x.type.shape, perm)
        )

    def renamed(self, old: str, new: str) -> None:
        """Follow a value that got another name."""
        for forms in self._forms.values():
            for shape, name in forms.items():
                if name == old:
                    forms[shape] = new
        for slices in self._slices.values():
            slices[:] = [(shape, new if name == old else name) for shape, name in slices]

    def cast(self, name: str, dtype: DType) -> str:
        return self.node("Cast", name, to=self.onnx_type(dtype))

    def info(self, name: str, type_: TensorType, shape: Shape) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(type_.dtype.numpy)
        return helper.make_tensor_value_info(name, dtype, list(shape))
