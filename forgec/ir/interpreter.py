"""Reference interpreter: what a program means, by the ops' reference evaluations, one instruction at a time.

It runs the structured program: a call runs its callee, and nothing is inlined, planned or updated in place,
so that it shares no decision with what it is compared to. Constants are evaluated when they are first used
and kept; a register is let go after its last use. Time and memory are those of plain numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, InternalError
from . import ops  # noqa: F401  (registers the records)
from .op import get
from .printer import format_instr
from .program import ConstParam, ConstRef, Function, Instr, Literal, Operand, Program, Register, StateRef
from .recipes import evaluate
from .types import DType, TensorType

__all__ = ["Interpreter", "Observer"]

Observer = Callable[[str, Instr, tuple[np.ndarray, ...]], None]
"""``observe(path, instruction, results)`` after each instruction.

The path ``block#3/r5`` is register r5 in the fourth call of ``block`` from the entry. An instruction with
several results is named by its first, one without results by its first operand.
"""


class Interpreter:
    """Runs a verified program; its states live from one run to the next. Not for several threads at once.

    ``tensors`` maps the name of a source tensor, which constant recipes read, to its array. ``initial`` has
    the values that states begin with; those it does not name begin at zero.
    """

    def __init__(
        self,
        program: Program,
        tensors: Callable[[str], np.ndarray],
        initial: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.program = program
        self._tensors = tensors
        self._initial = dict(initial or {})
        self._constants: dict[str, np.ndarray] = {}
        self._states: dict[str, np.ndarray] = {}
        self._dying = {name: _last_uses(function) for name, function in program.functions.items()}
        self.reset()

    def reset(self) -> None:
        """Give all states the values that they have before the first run."""
        self._states = {name: np.zeros(t.shape, t.dtype.numpy) for name, t in self.program.states.items()}
        for name, value in self._initial.items():
            self._states[name][...] = value

    def run(self, inputs: Sequence[np.ndarray], *, observe: Observer | None = None) -> list[np.ndarray]:
        """The results of the entry, as arrays that are the caller's to keep.

        ``inputs`` are one array per parameter, of exactly its shape and element type; otherwise, and for an
        index outside its table, :class:`InputError`.
        """
        main = self.program.main
        self._check_inputs(main, inputs)
        results = self._run(main, inputs, [], "", observe)
        return [np.array(result) for result in results]

    def _check_inputs(self, main: Function, inputs: Sequence[np.ndarray]) -> None:
        expected = [f"{name} {r.type}" for name, r in zip(main.param_names, main.params, strict=True)]
        if len(inputs) != len(expected):
            raise InputError(
                f"the program takes {len(expected)} inputs, not {len(inputs)}",
                hint=f"pass {', '.join(expected)}",
            )
        for text, register, array in zip(expected, main.params, inputs, strict=True):
            if not isinstance(array, np.ndarray):
                raise InputError(f"input {text} is a {type(array).__name__}, not a numpy array")
            wanted = register.type
            if array.shape != wanted.shape or array.dtype != wanted.dtype.numpy:
                raise InputError(
                    f"input {text} got {array.dtype} {list(array.shape)}",
                    hint=f"pass a numpy array of {wanted.dtype.numpy} with shape {list(wanted.shape)}",
                )

    def _run(
        self,
        function: Function,
        arguments: Sequence[np.ndarray],
        constants: Sequence[np.ndarray],
        prefix: str,
        observe: Observer | None,
    ) -> list[np.ndarray]:
        registers = {r.id: array for r, array in zip(function.params, arguments, strict=True)}
        calls: dict[str, int] = {}
        for instr, dying in zip(function.body, self._dying[function.name], strict=True):
            operands = [self._value(x, registers, constants) for x in instr.operands]
            results: Sequence[np.ndarray]
            if instr.op == "call":
                callee = self.program.functions[str(instr.attrs["callee"])]
                number = calls[callee.name] = calls.get(callee.name, -1) + 1
                count = len(callee.params)
                inner = f"{prefix}{callee.name}#{number}/"
                results = self._run(callee, operands[:count], operands[count:], inner, observe)
            else:
                results = _evaluate(instr, operands, prefix)
            registers.update((r.id, array) for r, array in zip(instr.results, results, strict=True))
            if observe is not None:
                observe(_path(prefix, instr), instr, tuple(results))
            for id_ in dying:
                del registers[id_]
        return [registers[r.id] for r in function.results]

    def _value(self, x: Operand, registers: Mapping[int, np.ndarray], constants: Sequence[np.ndarray]) -> Any:
        match x:
            case Register():
                return registers[x.id]
            case ConstRef():
                return self._constant(x.name)
            case ConstParam():
                return constants[x.index]
            case StateRef():
                return self._states[x.name]
            case Literal():
                return x.value
        return None

    def _constant(self, name: str) -> np.ndarray:
        array = self._constants.get(name)
        if array is None:
            array = self._constants[name] = evaluate(self.program.constants[name].recipe, self._tensors)
        return array


def _evaluate(instr: Instr, operands: Sequence[Any], prefix: str) -> tuple[np.ndarray, ...]:
    try:
        results = get(instr.op).evaluate(operands, instr.attrs)
    except IndexError as error:
        raise InputError(f"{instr.op}: {error}", f"{_path(prefix, instr)}: {format_instr(instr)}") from error
    for register, array in zip(instr.results, results, strict=True):
        if array.shape != register.type.shape or array.dtype != register.type.dtype.numpy:
            found = TensorType(DType.of(array), array.shape)
            raise InternalError(f"{instr.op} gave {found}, not {register.type}", format_instr(instr))
    return results


def _path(prefix: str, instr: Instr) -> str:
    return f"{prefix}{instr.results[0] if instr.results else instr.operands[0]}"


def _last_uses(function: Function) -> list[list[int]]:
    """For each instruction, the registers that nothing needs after it."""
    needed = {r.id for r in function.results}
    dying: list[list[int]] = []
    for instr in reversed(function.body):
        touched = {r.id for r in (*instr.registers(), *instr.results)}
        dying.append(sorted(touched - needed))
        needed |= touched
    return dying[::-1]
