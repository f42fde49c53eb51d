"""Quantised ONNX files for tests, and what programs have of their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from forgec.capture.onnx import load_onnx, run_onnxruntime
from forgec.ir.program import ConstRef
from forgec.ir.types import DType, unpack_i4

__all__ = ["SEED", "constants_of", "node", "ops", "products", "reference", "share"]

SEED = 7


def node(op, inputs, output, domain="", **attributes):
    return helper.make_node(op, inputs, [output], f"the/{op}/{output}", domain=domain, **attributes)


def constants_of(path: Path) -> dict[str, np.ndarray]:
    return {x.name: numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer}


def products(executable, *wanted: str) -> list[tuple[np.ndarray, np.ndarray, dict[str, Any]]]:
    """Codes [outputs, inputs], scales [groups, outputs] and attributes of the compressed weights, or of those that
    the ``wanted`` ops read; without sums of rows, which have one output."""
    found = []
    for instr in executable.plan.program.main.body:
        if instr.op not in (wanted or ("linear_q", "embedding_q")):
            continue
        first = 1 if instr.op == "linear_q" else 0
        codes, scales = instr.operands[first], instr.operands[2]
        if instr.op in ("linear_q", "embedding_q") and scales is None:  # floats of 16 bits
            continue
        assert isinstance(codes, ConstRef) and isinstance(scales, ConstRef)
        if codes.type.shape[0] == 1:
            continue
        constants = executable.plan.program.constants
        parts = [executable.shared.constants.get(constants[x.name]) for x in (codes, scales)]
        whole = unpack_i4(parts[0]) if codes.type.dtype is DType.I4 else parts[0]
        found.append((whole, parts[1], dict(instr.attrs)))
    return found


def ops(executable) -> list[str]:
    return [instr.op for instr in executable.plan.program.main.body]


def share(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def reference(path: Path, *inputs: np.ndarray) -> np.ndarray:
    found = run_onnxruntime(load_onnx(path), list(inputs))
    assert not isinstance(found, str), found
    return found[0]
