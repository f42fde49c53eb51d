"""An op's samples as programs: what backends are tested with, and what a vendor's compiler is asked with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from . import ops  # noqa: F401  (registers the records)
from .op import OPS, Op, Sample
from .program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from .recipes import evaluate
from .types import DType, TensorType

__all__ = ["Case", "case_of", "sampled_instructions"]


@dataclass(frozen=True)
class Case:
    """A program, arrays for its parameters in order, and the source tensors of its constants by name."""

    program: Program
    inputs: list[np.ndarray]
    tensors: dict[str, np.ndarray]

    @property
    def instr(self) -> Instr:
        """The only instruction."""
        (instr,) = self.program.main.body
        return instr

    def constants(self, constant: Constant) -> np.ndarray:
        """The array of a constant."""
        return evaluate(constant.recipe, self.tensors.__getitem__)


def case_of(op: Op, sample: Sample, constant: Collection[int] = ()) -> Case:
    """A program of one instruction; operands at the indices in ``constant`` are constants."""
    operands: list[Operand] = []
    params: list[Register] = []
    inputs: list[np.ndarray] = []
    tensors: dict[str, np.ndarray] = {}
    constants: dict[str, Constant] = {}
    for i, x in enumerate(sample.operands):
        if not isinstance(x, np.ndarray):
            operands.append(None if x is None else Literal(x))
            continue
        array, kind = np.array(x, order="C"), TensorType.of(x)
        if i in constant:
            name = f"c{len(constants)}"
            tensors[name] = array
            constants[name] = Constant(name, kind, Leaf(name, kind))
            operands.append(ConstRef(name, kind))
        else:
            params.append(Register(len(params), kind))
            inputs.append(array)
            operands.append(params[-1])
    types = [x.type if isinstance(x, Register | ConstRef) else None for x in operands]
    kinds = op.result_types(types, sample.attrs)
    results = tuple(Register(len(params) + i, kind) for i, kind in enumerate(kinds))
    names = tuple(f"x{i}" for i in range(len(params)))
    outputs = tuple(f"y{i}" for i in range(len(results)))
    body = [Instr(op.name, tuple(operands), results, dict(sample.attrs))]
    main = Function("main", tuple(params), names, body, results, outputs)
    return Case(Program("main", {"main": main}, constants), inputs, tensors)


def sampled_instructions(seed: int) -> Iterator[Instr]:
    """Every op's samples, with computed operands and with all but the first constant; products with codes of
    8 bits also with codes of 4."""
    for op in OPS.values():
        for sample in op.samples(np.random.default_rng(seed)) if op.samples else ():
            for constant in ((), range(1, len(sample.operands))):
                yield case_of(op, sample, constant).instr
            if op.name == "linear_q" and not sample.attrs.get("dynamic"):
                yield from _with_i4(case_of(op, sample, range(1, len(sample.operands))).instr)


def _with_i4(instr: Instr) -> Iterator[Instr]:
    x, codes, *rest = instr.operands
    if isinstance(codes, ConstRef) and codes.type.shape[1] % 2 == 0:
        four = ConstRef(codes.name, TensorType(DType.I4, codes.type.shape))
        yield replace(instr, operands=(x, four, *rest))
