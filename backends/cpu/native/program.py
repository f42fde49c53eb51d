"""A planned flat program as one native call.

Every register gets its final address when the program is made: an offset in the arena, or for a view the
strided part of its operand's memory. A run copies the inputs into place, runs the bound instructions and
copies the outputs out.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np

from forgec.errors import PlanError, UnsupportedOpError
from forgec.ir.op import get
from forgec.ir.program import ConstRef, Instr, Literal, Operand, Program, Register, StateRef

from ...base import Span
from .binding import NativeStep, pack, packed_operands
from .machine import Team, allocate

__all__ = ["NativeProgram"]


class NativeProgram:
    """A flat program bound to an arena of its own.

    ``offsets`` gives the arena offset in bytes of every register with storage of its own, ``constants`` the
    evaluated constants by name, ``states`` a writable array for every state (zeros if left out). ``packed``
    maps names of constants to packed weights; missing ones are packed and added. Raises
    :class:`UnsupportedOpError` with all instructions that have no native kernel, :class:`PlanError` for a
    register outside the arena. One run at a time; :meth:`clone` for more.
    """

    def __init__(
        self,
        flat: Program,
        offsets: Mapping[Register, int],
        arena_bytes: int,
        constants: Mapping[str, np.ndarray],
        threads: int | None = None,
        *,
        states: Mapping[str, np.ndarray] | None = None,
        packed: MutableMapping[str, np.ndarray] | None = None,
    ) -> None:
        self._flat = flat
        self._offsets = offsets
        self._constants = constants
        self._packed: MutableMapping[str, np.ndarray] = {} if packed is None else packed
        self._team = Team(threads)
        self._states = {name: np.zeros(t.shape, t.dtype.numpy) for name, t in flat.states.items()}
        self._states.update(states or {})
        self._arena = allocate(arena_bytes)
        self._registers: dict[Register, np.ndarray] = {}
        self._step = NativeStep(self._team)
        self._bind()

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The results, in new contiguous arrays or in ``outputs``.

        Inputs must have exactly the program's types. Raises :class:`InputError` if an index is out of range.
        """
        main = self._flat.main
        for register, value in zip(main.params, inputs, strict=True):
            np.copyto(self._registers[register], value, casting="no")
        self._step()
        results = [self._registers[r] for r in main.results]
        if outputs is None:
            return [np.array(view, order="C", copy=True) for view in results]
        for place, view in zip(outputs, results, strict=True):
            np.copyto(place, view, casting="no")
        return list(outputs)

    def clone(self) -> NativeProgram:
        """The same program with an arena, states and threads of its own; the weights are shared."""
        return NativeProgram(
            self._flat,
            self._offsets,
            self._arena.nbytes,
            self._constants,
            self._team.threads,
            packed=self._packed,
        )

    def trace(self, inputs: Sequence[np.ndarray]) -> list[Span]:
        """Run once; what every thread did when, in execution order."""
        for register, value in zip(self._flat.main.params, inputs, strict=True):
            np.copyto(self._registers[register], value, casting="no")
        return self._step.trace()

    @property
    def scratch_bytes(self) -> int:
        """Working memory of the kernels, beside the arena."""
        return self._step.scratch_bytes

    def _bind(self) -> None:
        refused: list[str] = []
        for register in self._flat.main.params:
            self._registers[register] = self._place(register)
        for instr in self._flat.main.body:
            inputs = [self._operand(x) for x in instr.operands]
            record = get(instr.op)
            if record.view:
                (self._registers[instr.results[0]],) = record.evaluate(inputs, instr.attrs)
                continue
            outputs = [self._place(r) for r in instr.results]
            self._registers.update(zip(instr.results, outputs, strict=True))
            reason = self._step.add(instr, inputs, outputs, self._packed_operands(instr))
            if reason is not None:
                refused.append(f"{instr.op}: {reason}" + (f" ({instr.source})" if instr.source else ""))
        if refused:
            raise UnsupportedOpError("\n".join(refused), hint="run these on the numpy kernels")
        self._step.finish()

    def _place(self, register: Register) -> np.ndarray:
        offset, t = self._offsets.get(register), register.type
        if (
            offset is None
            or offset < 0
            or offset + t.nbytes > self._arena.nbytes
            or offset % t.dtype.itemsize
        ):
            raise PlanError(f"{register} of {t} has no place at {offset} in {self._arena.nbytes} bytes")
        return self._arena[offset : offset + t.nbytes].view(t.dtype.numpy).reshape(t.shape)

    def _operand(self, operand: Operand) -> np.ndarray | int | float | bool | None:
        if isinstance(operand, Register):
            return self._registers[operand]
        if isinstance(operand, ConstRef):
            return self._constants[operand.name]
        if isinstance(operand, StateRef):
            return self._states[operand.name]
        return operand.value if isinstance(operand, Literal) else None

    def _packed_operands(self, instr: Instr) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for i in packed_operands(instr):
            operand = instr.operands[i]
            assert isinstance(operand, ConstRef)
            if operand.name not in self._packed:
                self._packed[operand.name] = pack(instr, i, self._constants[operand.name])
            found[i] = self._packed[operand.name]
        return found
