"""Kernels of the CPU backend: :func:`bind` turns an instruction and its arrays into a callable.

Every op has one: the fast ones are in the modules of this folder, the others run the op's reference
evaluation and copy the result into place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from forgec.errors import InputError
from forgec.ir import ops  # registers the records
from forgec.ir.op import Op, get, literal_array
from forgec.ir.program import Instr
from forgec.ir.types import DType

from . import attention, compressed, elementwise, matrix, movement, normalisation, pooling  # fill the table
from .registry import KERNELS, Call, Scratch, Step

__all__ = ["KERNELS", "Scratch", "Step", "bind"]


def bind(
    instr: Instr, inputs: Sequence[Any], outputs: Sequence[np.ndarray], scratch: Scratch | None = None
) -> Step:
    """A step that runs ``instr`` from and to these arrays, as often as it is called.

    ``inputs`` has an array, a Python scalar for a literal, or None for each operand, ``outputs`` a contiguous
    array for each result. Outputs may share bytes with inputs only as the op's record allows. Steps that
    share a ``scratch`` must not run at the same time. An index out of range raises :class:`InputError` at
    run.
    """
    record = get(instr.op)
    inputs = record.complete(inputs)
    scratch = scratch or Scratch()
    scratch.begin()
    attrs = {**record.attrs, **instr.attrs}
    place = str(instr.source) if instr.source else None
    call = Call(instr.op, _arrays(inputs, outputs), list(outputs), attrs, scratch, place)
    make = KERNELS.get(instr.op)
    step = make(call) if make is not None else None
    return step or _reference(record, inputs, call)


def _arrays(inputs: Sequence[Any], outputs: Sequence[np.ndarray]) -> list[np.ndarray | None]:
    """The inputs with literals as arrays of the element type beside them."""
    beside = next((x.dtype for x in reversed(inputs) if isinstance(x, np.ndarray)), None)
    arrays: list[np.ndarray | None] = []
    for x in inputs:
        if x is None or isinstance(x, np.ndarray):
            arrays.append(x)
        else:
            literal = literal_array(x, DType.from_numpy(beside if beside is not None else outputs[0].dtype))
            literal.setflags(write=False)
            arrays.append(literal)
    return arrays


def _reference(record: Op, inputs: Sequence[Any], call: Call) -> Step:
    """The op's reference evaluation, its results copied to the outputs."""
    operands, attrs, outputs = list(inputs), dict(call.attrs), call.outputs

    def step() -> None:
        try:
            results = record.evaluate(operands, attrs)
        except IndexError as error:
            raise InputError(f"{record.name}: {error}", call.place) from error
        for place, result in zip(outputs, results, strict=True):
            np.copyto(place, result)

    return step
