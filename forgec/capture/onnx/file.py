"""An ONNX file, read and checked: typed inputs and outputs, constants, and nodes in order.

Model-local functions are inlined (by the onnx package), so that a graph has operators only. Everything that a
foreign or damaged file can get wrong is found here or where its nodes are imported, as a ``CaptureError``.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from google.protobuf.message import DecodeError
from onnx import TensorProto, inliner

from ...errors import CaptureError
from ..halves import HALVES
from ..source import first_line
from .tensors import ExternalFiles, inline_array, torch_type, type_name

__all__ = ["Input", "OnnxFile", "initializers", "load_onnx", "shapes_of"]

_STANDARD = ("", "ai.onnx")
_OPSETS = range(7, 29)


@dataclass(frozen=True)
class Input:
    """``name`` is the file's, ``key`` the same as a Python identifier, as which it is given; a dimension is a
    size, the name of an open one, or None."""

    name: str
    key: str
    dtype: torch.dtype
    dims: tuple[int | str | None, ...]


class Derived:
    """Arrays made of a file's stored tensors alone, as floats of codes are: imports of the file for several
    shapes share them."""

    def __init__(self, constants: Iterable[np.ndarray]) -> None:
        self._lasting = {id(array) for array in constants}
        self._made: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def once(
        self,
        what: Any,
        inputs: Sequence[Any],
        attributes: Mapping[str, Any],
        make: Callable[[], tuple[Any, ...]],
    ) -> tuple[Any, ...]:
        """What ``make`` gives for inputs (arrays, names or None) and attributes: anew where an array is none
        that lasts as long as the file."""
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        if not arrays or not all(id(array) in self._lasting for array in arrays):
            return make()
        named = tuple(id(x) if isinstance(x, np.ndarray) else x for x in inputs)
        key = (what, named, repr(sorted(attributes.items())))
        if key not in self._made:
            made = self._made[key] = make()
            found = (getattr(x, "array", x) for x in made)
            self._lasting |= {id(array) for array in found if isinstance(array, np.ndarray)}
        return self._made[key]


@dataclass
class OnnxFile:
    """``constants`` are the stored tensors by name, on the file's memory; ``opsets`` versions by domain."""

    path: Path
    graph: Any = field(repr=False)
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    opsets: dict[str, int]
    constants: dict[str, np.ndarray] = field(repr=False)
    external: ExternalFiles = field(repr=False)

    @cached_property
    def derived(self) -> Derived:
        return Derived(self.constants.values())

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def halves(self) -> dict[str, torch.dtype]:
        """Types of the outputs that are floats of 16 bits, by name."""
        kinds = {v.name: v.type.tensor_type.elem_type for v in self.graph.output}
        found = {name: torch_type(kind) for name, kind in kinds.items() if kind}
        return {name: dtype for name, dtype in found.items() if dtype in HALVES}


def load_onnx(path: str | Path) -> OnnxFile:
    """Read an ONNX file without running it; external tensors are mapped, not read.

    Raises ``CaptureError`` for a file that is none, is damaged or refers to other places than below its own
    folder, and for a graph that is not well formed.
    """
    path = Path(path)
    model = _read(path)
    opsets = {"" if o.domain in _STANDARD else o.domain: int(o.version) for o in model.opset_import}
    version = opsets.get("")
    if version is not None and version not in _OPSETS:
        raise CaptureError(
            f"{path} is of ONNX opset {version}; forgec reads {_OPSETS[0]} to {_OPSETS[-1]}",
            hint="convert it with onnx.version_converter, or export it again",
        )
    if len(model.graph.sparse_initializer):
        raise CaptureError(f"{path} holds sparse tensors", hint="store them as ordinary ones")
    external = ExternalFiles(path)
    constants = initializers(model.graph, external)
    if len(model.functions):
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:
            raise CaptureError(
                f"the functions of {path} cannot be inlined: {first_line(error)}", hint="export it again"
            ) from error
        opsets |= {"" if o.domain in _STANDARD else o.domain: int(o.version) for o in model.opset_import}
    graph = model.graph
    inputs = _inputs(graph, constants, path)
    _check_order(graph, {*constants, *(i.name for i in inputs)}, path)
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise CaptureError(f"{path} has no outputs")
    twice = next((name for name in outputs if outputs.count(name) > 1), None)
    if twice is not None:
        raise CaptureError(
            f"the output {twice!r} is listed {outputs.count(twice)} times", str(path), "list it once"
        )
    return OnnxFile(path, graph, inputs, outputs, opsets, constants, external)


def _read(path: Path) -> Any:
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except FileNotFoundError:
        raise CaptureError(f"there is no file {path}", hint="check the path") from None
    except (OSError, DecodeError, ValueError) as error:
        raise CaptureError(
            f"{path} is not an ONNX file: {first_line(error)}",
            hint="it may be cut short: copy or export it again",
        ) from error
    if not model.ir_version or (not len(model.graph.node) and not len(model.graph.output)):
        raise CaptureError(f"{path} is not an ONNX file: it holds no graph", hint="export the model again")
    return model


def initializers(graph: Any, external: ExternalFiles) -> dict[str, np.ndarray]:
    """The stored tensors of a graph; their bytes are taken out of it."""
    found: dict[str, np.ndarray] = {}
    for proto in graph.initializer:
        if proto.data_location == TensorProto.EXTERNAL:
            found[proto.name] = external.array(proto)
        else:
            found[proto.name] = inline_array(proto, str(external.model))
            proto.ClearField("raw_data")
    return found


def _inputs(graph: Any, constants: Mapping[str, Any], path: Path) -> tuple[Input, ...]:
    """The inputs that are no initial values of constants (old files list those too)."""
    found: dict[str, Input] = {}
    for value in graph.input:
        if value.name in constants:
            continue
        if not value.type.HasField("tensor_type"):
            raise CaptureError(
                f"input {value.name!r} is no tensor", str(path), "export the model with tensors as inputs"
            )
        tensor = value.type.tensor_type
        if tensor.elem_type == TensorProto.STRING:
            raise CaptureError(
                f"input {value.name!r} is of {type_name(tensor.elem_type)}",
                str(path),
                "leave text to a tokenizer",
            )
        if not tensor.HasField("shape"):
            raise CaptureError(f"input {value.name!r} has no rank", str(path), "export the model with shapes")
        dims = tuple(
            int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim
        )
        key = _identifier(value.name)
        if key in found:
            raise CaptureError(f"inputs {found[key].name!r} and {value.name!r} have one name", str(path))
        found[key] = Input(value.name, key, torch_type(tensor.elem_type), dims)
    if not found:
        raise CaptureError(
            f"{path} has no inputs", hint="there is nothing to compile: its outputs are constants"
        )
    return tuple(found.values())


def _identifier(name: str) -> str:
    """A name as Python takes it for a parameter."""
    text = re.sub(r"\W", "_", name) or "_"
    return f"_{text}" if text[0].isdigit() or keyword.iskeyword(text) else text


def _check_order(graph: Any, known: Iterable[str], path: Path) -> None:
    """Every value is made once, before it is read."""
    made = set(known)
    all_made = {name for node in graph.node for name in node.output}
    for node in graph.node:
        for name in (*node.input, *_captured(node)):
            if name and name not in made:
                later = name in all_made
                raise CaptureError(
                    f"onnx {node.op_type} {node.name!r} reads {name!r}, which "
                    + (
                        "only a later node makes: the graph has a cycle or is not in order"
                        if later
                        else "nothing makes"
                    ),
                    str(path),
                    "export the model again" if not later else "sort the graph's nodes",
                )
        for name in filter(None, node.output):
            if name in made:
                raise CaptureError(f"onnx {node.op_type} {node.name!r} makes {name!r} again", str(path))
            made.add(name)
    for value in graph.output:
        if value.name not in made:
            raise CaptureError(
                f"nothing makes the output {value.name!r}", str(path), "export the model again"
            )


def _captured(node: Any) -> set[str]:
    """Outer values that the subgraphs of a node read."""
    names: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            own = {t.name for t in graph.initializer} | {i.name for i in graph.input}
            for inner in graph.node:
                names |= {n for n in (*inner.input, *_captured(inner)) if n and n not in own}
                own |= set(inner.output)
            names |= {o.name for o in graph.output if o.name not in own}
    return names


def shapes_of(file: OnnxFile, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of example inputs by the file's names; ``CaptureError`` for one that the file has not."""
    if len(args) > len(file.inputs):
        raise CaptureError(f"{file.path} has {len(file.inputs)} inputs, {len(args)} are given")
    values = {i.name: value for i, value in zip(file.inputs, args, strict=False)}
    names = {i.key: i for i in file.inputs}
    for key, value in kwargs.items():
        if key not in names:
            raise CaptureError(f"{file.path} has no input {key!r}", hint=f"one of: {', '.join(names)}")
        values[names[key].name] = value
    shapes = {}
    for found in file.inputs:
        value = values.get(found.name)
        if not isinstance(value, torch.Tensor) or value.dtype is not found.dtype:
            said = "absent" if value is None else f"a {getattr(value, 'dtype', type(value).__name__)}"
            raise CaptureError(
                f"input {found.name!r} of {file.path} is {said}, not a tensor of {found.dtype}"
            )
        shapes[found.name] = tuple(value.shape)
    return shapes
