"""Segments for the tests of the Qualcomm backend: one op each, or a small model's whole program."""

from __future__ import annotations

from typing import Any

import numpy as np

from forgec.ir.op import Sample, get
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from forgec.ir.recipes import evaluate
from forgec.ir.types import TensorType

__all__ = ["Case", "single"]


class Case:
    """A program with inputs and the source tensors of its constants."""

    def __init__(self, program: Program, inputs: list[np.ndarray], tensors: dict[str, np.ndarray]) -> None:
        self.program = program
        self.inputs = inputs
        self.tensors = tensors

    def constants(self, constant: Constant) -> np.ndarray:
        return evaluate(constant.recipe, self.tensors.__getitem__)


def single(op: str, sample: Sample, constant: frozenset[int] = frozenset()) -> Case:
    """A program of one instruction; operands at the indices in ``constant`` are constants."""
    params: list[Register] = []
    operands: list[Operand] = []
    inputs: list[np.ndarray] = []
    tensors: dict[str, np.ndarray] = {}
    constants: dict[str, Constant] = {}
    for i, x in enumerate(sample.operands):
        if isinstance(x, np.ndarray):
            array, type_ = np.array(x, order="C"), TensorType.of(x)
            if i in constant:
                name = f"c{len(constants)}"
                tensors[name] = array
                constants[name] = Constant(name, type_, Leaf(name, type_))
                operands.append(ConstRef(name, type_))
            else:
                params.append(Register(len(params), type_))
                inputs.append(array)
                operands.append(params[-1])
        else:
            operands.append(None if x is None else Literal(x))
    types: list[Any] = [getattr(x, "type", None) for x in operands]
    results = get(op).result_types(types, dict(sample.attrs))
    registers = tuple(Register(len(params) + i, t) for i, t in enumerate(results))
    instr = Instr(op, tuple(operands), registers, dict(sample.attrs))
    main = Function(
        "main",
        tuple(params),
        tuple(f"x{i}" for i in range(len(params))),
        [instr],
        registers,
        tuple(f"y{i}" for i in range(len(registers))),
    )
    return Case(Program("main", {"main": main}, constants), inputs, tensors)
