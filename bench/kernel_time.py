"""Time of one kernel as a program would see it.

The backend is asked to compile and load a segment with the same instruction several times over, so that what
it costs to start a segment is spread. Intermediate results stay where they are from one repetition to the
next, as in a program whose arena fits a cache; every repetition has constants of its own, as many as make
them come from memory, as the weights of successive layers do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import numpy as np
from forgec.backends.base import Backend, No

from forgec.ir.op import get
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Program, Register
from forgec.ir.program import Operand as IrOperand
from forgec.ir.types import DType, TensorType

from .grid import Case, Index, Weight

__all__ = ["Bench", "build", "time_case"]

_COLD_BYTES = 96 << 20
"""Constants that all repetitions read together, at least, if that takes no more than ``_COPIES`` of them."""

_COPIES = 32
_BUDGET_S = 0.05
_LEAST_RUNS = 3
_MOST_RUNS = 200
_POSITIVE = frozenset({"log", "sqrt", "rsqrt"})

Clock = Callable[[], float]


class Bench:
    """A case as a loaded segment: ``run`` does all repetitions, ``instr`` is one of them."""

    def __init__(self, instr: Instr, copies: int, run: Callable[[], None]) -> None:
        self.instr, self.copies, self.run = instr, copies, run


def time_case(
    case: Case, backend: Backend, rng: np.random.Generator, clock: Clock = perf_counter
) -> tuple[Instr, float] | None:
    """The instruction and its lowest latency in microseconds; None if the backend does not run it.

    The lowest of several runs, since whatever else the machine does can only add to it.
    """
    bench = build(case, backend, rng)
    if bench is None:
        return None
    bench.run()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or (sum(times) < _BUDGET_S and len(times) < _MOST_RUNS):
        start = clock()
        bench.run()
        times.append(clock() - start)
    return bench.instr, min(times) / bench.copies * 1e6


def build(case: Case, backend: Backend, rng: np.random.Generator) -> Bench | None:
    """Load a case; None if the backend does not run it."""
    constant_bytes = sum(x.type.nbytes for x in case.operands if isinstance(x, Weight))
    copies = min(_COPIES, max(4, math.ceil(_COLD_BYTES / constant_bytes))) if constant_bytes else 8
    program, arrays = _program(case, copies, rng)
    body = program.main.body
    if isinstance(backend.supports(body[0]), No):
        return None
    results = [np.empty(r.type.shape, r.type.dtype.numpy) for r in body[0].results]
    numbers = {r.id: results[k] for instr in body for k, r in enumerate(instr.results)}

    def memory(operand: Any) -> Any:
        if isinstance(operand, Register):
            return numbers.get(operand.id, arrays.get(str(operand)))
        if isinstance(operand, ConstRef):
            return arrays[operand.name]
        return operand.value if isinstance(operand, Literal) else None

    with np.errstate(all="ignore"):
        steps = backend.load(
            program, backend.compile(program, lambda constant: arrays[constant.name]), memory
        )

    def run() -> None:
        with np.errstate(all="ignore"):
            for step in steps:
                step()

    return Bench(body[0], copies, run)


def _program(case: Case, copies: int, rng: np.random.Generator) -> tuple[Program, Mapping[str, np.ndarray]]:
    """``copies`` times the instruction on the same registers, with constants of its own."""
    arrays: dict[str, np.ndarray] = {}
    constants: dict[str, Constant] = {}
    params: list[Register] = []
    shared: list[IrOperand | Weight] = []
    for operand in case.operands:
        if isinstance(operand, TensorType | Index):
            register = Register(len(params), operand if isinstance(operand, TensorType) else operand.type)
            params.append(register)
            arrays[str(register)] = _values(case.op, operand, rng)
            shared.append(register)
        else:
            shared.append(operand)
    record = get(case.op)
    types = [getattr(x, "type", None) for x in shared]
    results = record.result_types(types, case.attrs)
    body = []
    next_id = len(params)
    for _ in range(copies):
        operands: list[IrOperand] = []
        for item in shared:
            if not isinstance(item, Weight):
                operands.append(item)
                continue
            name = f"c{len(constants)}"
            constants[name] = Constant(name, item.type, Leaf(name, item.type))
            arrays[name] = _values(case.op, item.type, rng)
            arrays[name].flags.writeable = False
            operands.append(ConstRef(name, item.type))
        outputs = tuple(Register(next_id + k, t) for k, t in enumerate(results))
        next_id += len(outputs)
        body.append(Instr(case.op, tuple(operands), outputs, dict(case.attrs), device="cpu"))
    last = body[-1].results
    main = Function(
        "main", tuple(params), tuple(map(str, params)), body, last, tuple(f"out{i}" for i in range(len(last)))
    )
    return Program("main", {"main": main}, constants), arrays


def _values(op: str, operand: TensorType | Index, rng: np.random.Generator) -> np.ndarray:
    """Values as a program has them: floats standard normal, or positive where the op wants that, half of the
    booleans true, integers that divide."""
    if isinstance(operand, Index):
        return rng.integers(0, operand.high, operand.type.shape, operand.type.dtype.numpy)
    if operand.dtype is DType.BOOL:
        return rng.random(operand.shape) < 0.5
    if operand.dtype.is_float:
        values = rng.standard_normal(operand.shape, np.float32)
        return (np.abs(values) + 0.1 if op in _POSITIVE else values).astype(operand.dtype.numpy)
    if operand.dtype is DType.I4:
        return rng.integers(0, 256, operand.array_shape, np.uint8).view(operand.dtype.numpy)
    return rng.integers(1, 3, operand.shape).astype(operand.dtype.numpy)
