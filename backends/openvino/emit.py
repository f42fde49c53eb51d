"""A legalised segment as an OpenVINO model: one emitter per op, names that lead back to the user's model.

Every node is called ``r12.linear`` after the register and op of its instruction, so that the compiler's
messages and schedules can be joined to instructions. Constants are converted one at a time; the model holds
copies.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as opset

from forgec.errors import BackendError, InternalError
from forgec.ir.printer import format_instr
from forgec.ir.program import ConstRef, Instr, Operand, Program, Register
from forgec.ir.types import DType

from ..base import Constants
from .nodes import EMITTERS, Context
from .nodes.matrix import Form, forms
from .types import HALF, Precision, packed_tensor

__all__ = ["emit", "label"]

_AXES = 5
"""What an input or output of Intel's NPUs has at most; within a model there may be more."""


def label(instr: Instr) -> str:
    """Name of an instruction's nodes; those behind the last have a number after it."""
    return f"r{instr.results[0].id}.{instr.op}"


def emit(
    segment: Program,
    constants: Constants,
    precision: Precision = HALF,
    *,
    as_inputs: Collection[str] = (),
) -> ov.Model:
    """The model of a segment; its inputs and outputs are the segment's parameters and results, in order.

    Constants named in ``as_inputs`` become further inputs, in that order. ``BackendError`` if an op has no
    emitter or OpenVINO refuses it.
    """
    main = segment.main
    nodes: dict[Operand, Any] = {}
    parameters: list[Any] = []
    held = forms(main.body)

    def parameter(operand: Register | ConstRef) -> None:
        shape = held[operand].shape if operand in held else operand.type.shape
        node = opset.parameter(list(_at_edge(shape)), precision.openvino(operand.type.dtype))
        node.set_friendly_name(f"in{len(parameters)}")
        parameters.append(node)
        nodes[operand] = _shaped(node, shape)

    for register in main.params:
        parameter(register)
    for name in as_inputs:
        parameter(ConstRef(name, segment.constants[name].type))

    def node(operand: Operand) -> Any:
        if operand not in nodes:
            if not isinstance(operand, ConstRef):
                raise InternalError(f"{operand} is read before it is written, or is a state")
            value = constants(segment.constants[operand.name])
            nodes[operand] = opset.constant(_held(value, operand, held.get(operand), precision))
            nodes[operand].set_friendly_name(operand.name)
        return nodes[operand]

    for instr in main.body:
        made = _emit(instr, precision, node)
        nodes.update(zip(instr.results, made, strict=True))
    results = []
    for number, register in enumerate(main.results):
        results.append(opset.result(_shaped(node(register), _at_edge(register.type.shape))))
        results[-1].set_friendly_name(f"out{number}")
    return ov.Model(results, parameters, segment.entry)


def _at_edge(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of an input or output: its first axes are one where there are more than the NPU takes."""
    first = len(shape) - _AXES + 1
    return (math.prod(shape[:first]), *shape[first:]) if first > 1 else tuple(shape)


def _shaped(node: Any, shape: Sequence[int]) -> Any:
    value = node if isinstance(node, ov.Output) else node.output(0)
    return node if tuple(value.get_shape()) == tuple(shape) else opset.reshape(node, list(shape), False)


def _held(value: np.ndarray, of: ConstRef, form: Form | None, precision: Precision) -> Any:
    """A constant's value as the model holds it."""
    shape = of.type.shape if form is None else form.shape
    if of.type.dtype is DType.I4:
        return packed_tensor(value, shape)
    turned = value if form is None else value.transpose(form.perm)
    return precision.array(turned.reshape(shape), of.type.dtype)


def _emit(instr: Instr, precision: Precision, node: Any) -> list[Any]:
    where = f"{format_instr(instr)}{f'  # {instr.source}' if instr.source else ''}"
    if instr.op not in EMITTERS:
        raise BackendError(f"{instr.op} has no form in OpenVINO", where, "leave it on the CPU")
    made: list[Any] = []
    try:
        found = EMITTERS[instr.op](Context(instr, precision, node, made))
    except RuntimeError as error:
        raise BackendError(f"OpenVINO refuses {instr.op}: {str(error).strip()}", where) from error
    for number, each in enumerate(reversed(made)):
        each.set_friendly_name(label(instr) + (f".{number}" if number else ""))
    outputs: list[Any] = list(found) if isinstance(found, tuple | list) else [found]
    for output, register in zip(outputs, instr.results, strict=True):
        value = output if isinstance(output, ov.Output) else output.output(0)
        want = precision.openvino(register.type.dtype)
        if tuple(value.get_shape()) != register.type.shape or value.get_element_type() != want:
            got = f"{value.get_element_type()}{list(value.get_shape())}"
            raise InternalError(f"{instr.op} was emitted as {got}, not {register.type}", where)
    return outputs
