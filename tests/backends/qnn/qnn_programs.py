"""Segments for the tests of the Qualcomm backend: one op each, or a small model's whole program."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from forgec.ir.op import Sample, get
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Program, Register
from forgec.ir.samples import Case, case_of

__all__ = ["Case", "single", "together"]


def single(op: str, sample: Sample, constant: Collection[int] = ()) -> Case:
    """A program of one instruction; operands at the indices in ``constant`` are constants."""
    return case_of(get(op), sample, constant)


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
