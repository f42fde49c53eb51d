"""ONNX Runtime on the CPU as a reference that shares nothing with the importer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...debug import log
from ..source import first_line
from .file import OnnxFile

__all__ = ["run_onnxruntime", "unfit"]


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
    return None


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
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
        given = {i.name: x for i, x in zip(file.inputs, inputs, strict=True)}
        names = {i.name for i in session.get_inputs()}
        found = session.run(list(file.outputs), {name: x for name, x in given.items() if name in names})
    except Exception as error:
        log(1, f"ONNX Runtime: {error}")
        return f"ONNX Runtime cannot run it: {first_line(error)}"
    return [np.asarray(x) for x in found]
