"""ONNX Runtime on the CPU as a reference that shares nothing with the importer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from ...debug import log
from ..source import first_line
from .file import OnnxFile

__all__ = ["OF_BYTES", "run_onnxruntime", "unfit"]

OF_BYTES = ("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
"""Operators whose second input are codes that are multiplied as bytes."""
_SAFE = 64
"""Size of codes up to which two products with a byte fit 16 bits."""


def unfit(file: OnnxFile) -> str | None:
    """Why ONNX Runtime is no reference for a file; None if it is one."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        return "onnxruntime is not installed"
    for node in file.graph.node:
        levels = [a.i for a in node.attribute if a.name == "accuracy_level"]
        if node.op_type == "MatMulNBits" and any(level not in (0, 1) for level in levels):
            return f"{node.op_type} {node.name!r} asks it to round activations"
        if node.op_type in OF_BYTES and _is_large(file.constants.get(node.input[1])) and _saturates():
            return f"ONNX Runtime cuts sums for {node.op_type} {node.name!r} off at 16 bits on this processor"
    return None


def _is_large(codes: np.ndarray | None) -> bool:
    return (
        codes is not None and codes.dtype == np.int8 and bool((np.abs(codes.astype(np.int16)) > _SAFE).any())
    )


@cache
def _saturates() -> bool:
    """Whether ONNX Runtime adds pairs of products of bytes in 16 bits, as it does where the processor has no
    instruction for them: then 255 * 127 * 2 is 32767."""
    import onnxruntime

    codes = np.full((64, 32), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "saturates",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, (4, 64))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, (4, 32))],
        [numpy_helper.from_array(codes, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Any = session.run(None, {"a": np.full((4, 64), 255, np.uint8)})
    return bool((found[0] != 64 * 255 * 127).any())


def run_onnxruntime(file: OnnxFile, inputs: Sequence[np.ndarray]) -> list[np.ndarray] | str:
    """The file's outputs on inputs in its order, or why there are none.

    Only basic rewrites are allowed, so that quantised pairs stay arithmetic on floats.
    """
    if (reason := unfit(file)) is not None:
        return reason
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    # One run does not pay for packed copies of all weights.
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
        given = {i.name: x for i, x in zip(file.inputs, inputs, strict=True)}
        names = {i.name for i in session.get_inputs()}
        found = session.run(list(file.outputs), {name: x for name, x in given.items() if name in names})
    except Exception as error:
        log(1, f"ONNX Runtime: {error}")
        return f"ONNX Runtime cannot run it: {first_line(error)}"
    return [np.asarray(x) for x in found]
