"""Execution of a planned program: everything is bound to memory once, then a run is one loop.

Binding gives every register a numpy view at its final address, in the arena of the device that its storage is
on, and asks each segment's backend for its steps; view ops need none, they only give their register another
view of the same bytes. A run copies the inputs into place, calls the steps in order, and copies the results
out, so outputs never alias the arena; a large result is written where its caller gets it (:mod:`.results`).
Nothing is looked up or allocated per run but the outputs.

Constants are bound by reference. A view of a constant or state is that of its array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from forgec.backends.base import Backend, Step
from forgec.backends.packing import split_name, stored_name

from ..errors import InternalError, PlanError, TargetError
from ..ir.op import Op, get
from ..ir.program import Constant, ConstRef, Instr, Literal, Operand, Program, Register, StateRef
from ..plan.liveness import analyse
from ..plan.plan import ALIGNMENT, Plan
from .constants import Constants
from .pages import allocate, allocate_array
from .results import LEAST, Turns

__all__ = ["BoundProgram"]


class BoundProgram:
    """A planned program with arenas of its own, ready to run. Not safe for two runs at the same time.

    ``states`` has a writable array for each state, ``code`` each segment's compiled code. One that is to run
    a ``single`` time computes and keeps no more than that run needs. ``given`` are arrays of the caller, of
    their types and contiguous, that inputs and outputs have in place of the arena. Raises :class:`PlanError`
    if the plan places a register outside its arena, :class:`TargetError` if a device is not available here.
    """

    def __init__(
        self,
        plan: Plan,
        segments: Sequence[Program],
        code: Callable[[int], bytes],
        constants: Constants,
        states: Mapping[str, np.ndarray],
        backend: Callable[[str], Backend],
        threads: int | None = None,
        single: bool = False,
        given: Mapping[Register, np.ndarray] | None = None,
    ) -> None:
        self._single = single
        main = plan.program.main
        apart = {} if single else _apart(plan, 0 if given else LEAST)
        if given:
            results = {r: given[main.results[number]] for number, r in apart.items()}
            own = {**given, **{r: array.reshape(r.type.shape) for r, array in results.items()}}
        else:
            own = {r: allocate_array(r.type.shape, r.type.dtype.numpy) for r in apart.values()}
        memory = _Memory(plan, constants, states, threads, single, own)
        self._inputs = [memory.array(r) for r in main.params]
        self._outputs = [memory.array(r) for r in main.results]
        steps: list[Step] = []
        for index, (segment, program) in enumerate(zip(plan.segments, segments, strict=True)):
            if all(get(instr.op).view for instr in program.main.body):
                continue
            device = backend(segment.device)
            missing = device.runnable()
            if missing is not None:
                raise TargetError(f"the program needs the device {segment.device!r}: {missing}")
            compiled = code(index)
            with np.errstate(all="ignore"):
                steps += device.load(program, compiled, memory)
        movable = all(hasattr(step, "moved") for step in steps)
        free = movable and not given
        self._turns = Turns(steps, {number: self._outputs[number] for number in apart} if free else {})

    def run(
        self, inputs: Sequence[np.ndarray], call: Callable[[Step], Any] = lambda step: step()
    ) -> list[np.ndarray]:
        """Outputs, new contiguous arrays, for inputs of exactly the program's types; ``call`` does a step."""
        for place, value in zip(self._inputs, inputs, strict=True):
            np.copyto(place, value)
        turn = self._turns.take()
        _run(turn.steps, call)
        outputs = []
        for number, view in enumerate(self._outputs):
            result = turn.result(number)
            if result is None:  # after a single run nobody writes to the arena again
                result = np.array(view, order="C", copy=not self._single or None)
            outputs.append(result)
        return outputs

    def run_in_place(self, outputs: Sequence[np.ndarray]) -> None:
        """Run on what the given inputs hold; outputs that have another place are copied to ``outputs``."""
        _run(self._turns.take().steps, lambda step: step())
        for place, view in zip(outputs, self._outputs, strict=True):
            if not np.may_share_memory(place, view):
                np.copyto(place, view)


def _run(steps: Sequence[Step], call: Callable[[Step], Any]) -> None:
    with np.errstate(all="ignore"):
        for step in steps:
            call(step)


def _apart(plan: Plan, least: int) -> dict[int, Register]:
    """The registers whose storage is one result and no part of another, by number of the result.

    Only of results of ``least`` bytes or more.
    """
    main = plan.program.main
    large = [number for number, r in enumerate(main.results) if r.type.nbytes >= least]
    if not large:
        return {}
    live = analyse(plan.program, plan.host)
    of = [live.of.get(r.id) for r in main.results]
    found = {
        number: live.storages[storage].register
        for number, storage in enumerate(of)
        if storage is not None and number in large and of.count(storage) == 1
    }
    return {n: r for n, r in found.items() if main.results[n].id in live.whole and r not in main.params}


class _Memory:
    """What each operand of the program is; callable as backends want it."""

    def __init__(
        self,
        plan: Plan,
        constants: Constants,
        states: Mapping[str, np.ndarray],
        threads: int | None,
        single: bool,
        own: Mapping[Register, np.ndarray],
    ) -> None:
        self._constants = constants
        self.threads = threads
        self.single = single
        self._states = states
        self.derived = _ByKey(constants.derived, plan.program.constants)
        self._program = plan.program
        self._registers: dict[int, np.ndarray] = {}
        arenas = _arenas(plan)
        main = plan.program.main
        for r in main.params:
            self._registers[r.id] = own[r] if r in own else _place(r, plan, arenas, plan.host)
        for instr in main.body:
            record = get(instr.op)
            if record.view:
                self._registers[instr.results[0].id] = self._view(instr, record)
            else:
                for r in instr.results:
                    device = instr.device or plan.host
                    self._registers[r.id] = own[r] if r in own else _place(r, plan, arenas, device)

    def array(self, register: Register) -> np.ndarray:
        return self._registers[register.id]

    def __call__(self, operand: Operand) -> Any:
        if isinstance(operand, Register):
            return self._registers[operand.id]
        if isinstance(operand, ConstRef):
            return self.once(operand) if self.single else self._constants.get(self._constant(operand))
        if isinstance(operand, StateRef):
            return self._states[operand.name]
        if isinstance(operand, Literal):
            return operand.value
        if operand is None:
            return None
        raise InternalError(f"{operand} is no operand of a flat program")

    def once(self, operand: ConstRef) -> np.ndarray:
        """A constant for this one use."""
        return self._constants.once(self._constant(operand))

    def at_hand(self, operand: ConstRef) -> bool:
        """Whether the array of a constant is there as it is, in the model or the file."""
        return self._constants.at_hand(self._constant(operand))

    def _constant(self, operand: ConstRef) -> Constant:
        return self._program.constants[operand.name]

    def _view(self, instr: Instr, record: Op) -> np.ndarray:
        """The view's array: numpy's own view of its operand, which follows the rules of ``ir.layout``."""
        source = self(instr.operands[0])
        (result,) = record.evaluate([source], instr.attrs)
        if (
            result.size
            and not np.may_share_memory(result, source)
            and not isinstance(instr.operands[0], ConstRef)
        ):
            raise PlanError(f"{instr.op} of {instr.operands[0]} needs a copy, its strides allow no view")
        return result


class _ByKey(MutableMapping[str, np.ndarray]):
    """What was computed from constants, by :func:`stored_name` of the names that they have in one program;
    stored by those of their keys, which programs of one file share."""

    def __init__(self, arrays: dict[str, np.ndarray], constants: Mapping[str, Constant]) -> None:
        self._arrays = arrays
        self._constants = constants

    def __getitem__(self, stored: str) -> np.ndarray:
        return self._arrays[self._key(stored)]

    def __setitem__(self, stored: str, array: np.ndarray) -> None:
        self._arrays[self._key(stored)] = array

    def __delitem__(self, stored: str) -> None:
        del self._arrays[self._key(stored)]

    def __iter__(self) -> Iterator[str]:
        names = {constant.key: name for name, constant in self._constants.items()}
        found = (split_name(stored) for stored in self._arrays)
        return (stored_name(names[key], layout) for key, layout in found if key in names)

    def _key(self, stored: str) -> str:
        name, layout = split_name(stored)
        return stored_name(self._constants[name].key, layout)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _arenas(plan: Plan) -> dict[str, np.ndarray]:
    """Memory of each device's arena, which must not be larger than all its registers together."""
    needed = dict.fromkeys(plan.arenas, 0)
    main = plan.program.main
    devices = [plan.host, *(instr.device or plan.host for instr in main.body)]
    groups = [main.params, *(instr.results for instr in main.body)]
    for device, registers in zip(devices, groups, strict=True):
        if device in needed:
            needed[device] += sum(r.type.nbytes + ALIGNMENT for r in registers)
    for device, arena in plan.arenas.items():
        if not 0 <= arena.nbytes <= needed[device]:
            raise PlanError(f"the arena of {device} has {arena.nbytes} bytes, its registers {needed[device]}")
    return {device: allocate(arena.nbytes) for device, arena in plan.arenas.items()}


def _place(register: Register, plan: Plan, arenas: Mapping[str, np.ndarray], device: str) -> np.ndarray:
    """The register's array in its device's arena."""
    offset, arena = plan.offsets.get(register), arenas.get(device)
    t = register.type
    if offset is None or arena is None:
        raise PlanError(f"{register} of {t} has no place in an arena of {device}")
    if offset < 0 or offset + t.nbytes > arena.nbytes or offset % t.dtype.itemsize:
        raise PlanError(
            f"{register} of {t} does not fit at {offset:#x} of the {arena.nbytes} bytes of {device}"
        )
    return arena[offset : offset + t.nbytes].view(t.dtype.numpy).reshape(t.shape)
