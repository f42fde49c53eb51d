"""Runs programs with the ops' reference evaluations, flat ones on fresh arrays, planned ones in arenas."""

from __future__ import annotations

import numpy as np

from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Program, Register, StateRef
from forgec.plan.plan import Plan

__all__ = ["random_tensors", "run_flat", "run_plan"]

Tensors = dict[str, np.ndarray]


def random_tensors(program: Program, seed: int) -> tuple[list[np.ndarray], Tensors, Tensors]:
    """Inputs, constants and initial states, all f32."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    inputs = [draw(r.type.shape) for r in program.main.params]
    constants = {name: draw(c.type.shape) for name, c in program.constants.items()}
    return inputs, constants, {name: draw(t.shape) for name, t in program.states.items()}


def run_flat(
    program: Program, inputs: list[np.ndarray], constants: Tensors, states: Tensors
) -> list[np.ndarray]:
    """Results; the states change."""
    values = {r.id: x for r, x in zip(program.main.params, inputs, strict=True)}
    for instr in program.main.body:
        results = _evaluate(instr, values, constants, states)
        if not get(instr.op).view:
            results = tuple(np.array(x) for x in results)  # an evaluation may hand its operand through
        values.update((r.id, x) for r, x in zip(instr.results, results, strict=True))
    return [values[r.id].copy() for r in program.main.results]


def run_plan(plan: Plan, inputs: list[np.ndarray], constants: Tensors, states: Tensors) -> list[np.ndarray]:
    """Results; every register lives where the plan says, arenas start full of NaN."""
    arenas = {device: np.full(arena.nbytes, 255, np.uint8) for device, arena in plan.arenas.items()}

    def place(r: Register, device: str) -> np.ndarray:
        start = plan.offsets[r]
        return arenas[device][start : start + r.type.nbytes].view(r.type.dtype.numpy).reshape(r.type.shape)

    main = plan.program.main
    values = {r.id: place(r, plan.host) for r in main.params}
    for r, x in zip(main.params, inputs, strict=True):
        values[r.id][...] = x
    for instr in main.body:
        results = _evaluate(instr, values, constants, states)
        if get(instr.op).view:
            source = _tensor(instr.operands[0], values, constants, states)
            assert np.shares_memory(results[0], source) or not results[0].size
            values[instr.results[0].id] = results[0]
            continue
        assert instr.device is not None
        results = tuple(np.array(x) for x in results)
        for r, x in zip(instr.results, results, strict=True):
            values[r.id] = place(r, instr.device)
            values[r.id][...] = x
    return [values[r.id].copy() for r in main.results]


def _tensor(x: Operand, values: dict[int, np.ndarray], constants: Tensors, states: Tensors) -> np.ndarray:
    if isinstance(x, Register):
        return values[x.id]
    assert isinstance(x, ConstRef | StateRef)
    return constants[x.name] if isinstance(x, ConstRef) else states[x.name]


def _evaluate(
    instr: Instr, values: dict[int, np.ndarray], constants: Tensors, states: Tensors
) -> tuple[np.ndarray, ...]:
    operands = [
        x.value if isinstance(x, Literal) else None if x is None else _tensor(x, values, constants, states)
        for x in instr.operands
    ]
    with np.errstate(all="ignore"):
        return get(instr.op).evaluate(operands, instr.attrs)
