"""Emission of a whole segment, and what its ports look like."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import helper

from forgec.errors import BackendError
from forgec.ir.op import get
from forgec.ir.printer import format_instr
from forgec.ir.program import Instr, Literal, Program, Register
from forgec.ir.types import DType, TensorType

from ...base import Constants
from ..edge import MAX_RANK, Port
from . import attention, elementwise, matrix, movement, normalisation, pooling  # noqa: F401  (fill the table)
from .builder import Builder, Shape, rows_of
from .registry import EMITTERS
from .weights import WeightFile

__all__ = ["Emitted", "emit"]

MODEL = "model.onnx"
_OPSET, _IR_VERSION = 23, 11


@dataclass(frozen=True)
class Emitted:
    """A model file, with its weights in a file beside it, and the order of its ports. ``bound`` are further
    inputs, by the constant and the permutation of its axes (none if empty) that they are."""

    path: Path
    weights: Path
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    bound: Mapping[tuple[str, Shape], Port]


def emit(
    program: Program,
    constants: Constants,
    folder: Path,
    floats: DType = DType.F16,
    *,
    as_inputs: Collection[str] = (),
) -> Emitted:
    """Write the segment's model into ``folder``; constants named in ``as_inputs`` become further inputs.

    Raises ``BackendError`` listing the instructions that have no form in ONNX.
    """
    _check(program)
    main = program.main
    with WeightFile(folder / "weights.bin") as weights:
        b = Builder(program, constants, weights, floats, as_inputs)
        inputs = []
        for r in main.params:
            shape = r.type.shape if r.type.rank <= MAX_RANK else rows_of(r.type.shape)
            port = Port(r.id, f"in{r.id}", TensorType(b.dtype(r.type.dtype), shape))
            b.define(r, port.name, shape)
            inputs.append(port)
        for instr in main.body:
            b.begin(instr)
            if any(isinstance(x, Register) or b.is_input(x) for x in instr.operands):
                EMITTERS[instr.op](b, instr)
            else:
                _fold(b, instr)
        outputs = [port for r in main.results for port in _outputs(b, r)]
    graph = helper.make_graph(
        b.nodes,
        "segment",
        [b.info(p.name, p.type, p.type.shape) for p in (*inputs, *b.bound.values())],
        [b.info(p.name, p.type, p.type.shape) for p in outputs],
        list(b.initializers.values()),
    )
    domains = {"": _OPSET, **{node.domain: 1 for node in b.nodes if node.domain}}
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(*each) for each in domains.items()],
        ir_version=_IR_VERSION,
        producer_name="forgec",
    )
    path = folder / MODEL
    onnx.save(model, path)
    return Emitted(path, weights.path, tuple(inputs), tuple(outputs), b.bound)


def _fold(b: Builder, instr: Instr) -> None:
    """An instruction on constants alone is a constant: HTP's own folding gets some of them wrong."""
    operands = [x.value if isinstance(x, Literal) else b.static(x) for x in instr.operands]
    for register, array in zip(instr.results, get(instr.op).evaluate(operands, instr.attrs), strict=True):
        b.fold(register, array)


def _check(program: Program) -> None:
    unknown = {f"{i.op}  # {i.source or format_instr(i)}" for i in program.main.body if i.op not in EMITTERS}
    if unknown:
        raise BackendError("no form in ONNX for" + "".join(f"\n  {line}" for line in sorted(unknown)))


def _outputs(b: Builder, register: Register) -> list[Port]:
    """The ports of a result, in whichever form it is."""
    ports = []
    forms = list(b.output(register))
    for i, (shape, name) in enumerate(forms):
        label = f"out{register.id}" if len(forms) == 1 else f"out{register.id}_{i}"
        port = Port(register.id, label, TensorType(b.dtype(register.type.dtype), shape))
        _rename(b, name, port.name)
        ports.append(port)
    return ports


def _rename(b: Builder, old: str, new: str) -> None:
    """Give a value its port's name, or copy what already has a name to keep."""
    maker = next((n for n in b.nodes if old in n.output), None)
    if maker is None or old.startswith("out"):
        b.nodes.append(helper.make_node("Identity", [old], [new], name=new))
        return
    for node in b.nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
    b.renamed(old, new)
