"""Segments for the tests of the Qualcomm backend: one op each, or a small model's whole program."""

from __future__ import annotations

from typing import Any

import numpy as np

from forgec.ir.op import Sample, get
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from forgec.ir.recipes import evaluate
from forgec.ir.types import TensorType

__all__ = ["Case", "single", "together"]


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


def together(cases: list[Case]) -> Case:
    """One program with the instructions of all cases, which share nothing."""
    params: list[Register] = []
    body: list[Instr] = []
    results: list[Register] = []
    inputs: list[np.ndarray] = []
    tensors: dict[str, np.ndarray] = {}
    constants: dict[str, Constant] = {}
    count = 0
    for number, case in enumerate(cases):
        main = case.program.main
        renamed: dict[Any, Any] = {}
        for r in (*main.params, *(r for instr in main.body for r in instr.results)):
            renamed[r] = Register(count, r.type)
            count += 1
        for name, constant in case.program.constants.items():
            key = f"p{number}{name}"
            renamed[ConstRef(name, constant.type)] = ConstRef(key, constant.type)
            constants[key] = Constant(key, constant.type, Leaf(key, constant.type))
            tensors[key] = case.tensors[name]
        params += [renamed[r] for r in main.params]
        inputs += case.inputs
        for instr in main.body:
            operands = tuple(renamed.get(x, x) for x in instr.operands)
            outputs = tuple(renamed[r] for r in instr.results)
            body.append(Instr(instr.op, operands, outputs, dict(instr.attrs)))
        results += [renamed[r] for r in main.results]
    names = tuple(f"x{i}" for i in range(len(params)))
    outs = tuple(f"y{i}" for i in range(len(results)))
    main = Function("main", tuple(params), names, body, tuple(results), outs)
    return Case(Program("main", {"main": main}, constants), inputs, tensors)
