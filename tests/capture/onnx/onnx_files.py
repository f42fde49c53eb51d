"""ONNX files for tests: of single nodes, and exports of presets."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from forgec.capture.onnx import OnnxModule, load_onnx
from forgec.capture.onnx.tensors import to_array, to_tensor

__all__ = ["CONTRIB", "export", "imported", "one_node", "save_graph"]

CONTRIB = "com.microsoft"


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: Sequence[str],
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 23,
    dims: dict[str, Sequence[Any]] | None = None,
) -> Path:
    """A file of these nodes; the inputs are typed as the arrays, with other ``dims`` where given."""
    typed = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), (dims or {}).get(name, array.shape)
        )
        for name, array in inputs.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "test",
        typed,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(CONTRIB, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def one_node(
    path: Path,
    op: str,
    inputs: dict[str, np.ndarray | None],
    constants: Sequence[str] = (),
    outputs: int = 1,
    domain: str = "",
    opset: int = 23,
    **attributes: Any,
) -> Path:
    """A file of one node; inputs that are None are left out, those in ``constants`` stored."""
    names = [name if array is not None else "" for name, array in inputs.items()]
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, names, made, f"the/{op}", domain=domain, **attributes)
    given = {name: array for name, array in inputs.items() if array is not None and name not in constants}
    stored = {name: array for name, array in inputs.items() if array is not None and name in constants}
    return save_graph(path, [node], given, made, stored, opset)


def imported(path: Path, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of the imported module."""
    module = OnnxModule(load_onnx(path), {name: array.shape for name, array in inputs.items()})
    with torch.no_grad():
        return [to_array(x) for x in module(*(to_tensor(np.array(x)) for x in inputs.values())).values()]


def export(path: Path, loaded: Any, kwargs: dict[str, torch.Tensor], **options: Any) -> Path:
    """A preset as torch exports it, its tensors by position and named as in the preset."""

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = loaded.module

        def forward(self, *tensors):
            found = self.model(**dict(zip(kwargs, tensors, strict=True)))
            return tuple(x for x in found.values() if isinstance(x, torch.Tensor))

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Positional().eval(), tuple(kwargs.values()), str(path), input_names=list(kwargs), **options
        )
    return path
