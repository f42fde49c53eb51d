"""Each op's emission, run in f32 by ONNX Runtime's CPU provider, against the reference interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from forgec.backends.qnn.backend import by_rule
from forgec.backends.qnn.emit import EMITTERS, emit
from qnn_programs import Case, single

from forgec.ir.interpreter import Interpreter
from forgec.ir.op import OPS, get
from forgec.ir.types import DType

SEED = 20261122
NO_FORM = {
    "aten",
    "call",
    "read_state",
    "write_state",
    "view_state",
    "write_rows",
    "update_rows",
    "mod",
    "floor_div",
    "prod",
    "cache_mask",
    "expert_linear_q",
} | {"scales", "quantise", "narrow", "fitted_scales", "fitted_codes"}


def _cases() -> list:
    cases = []
    for name, op in OPS.items():
        if op.samples is None or name not in EMITTERS:
            continue
        for i, sample in enumerate(op.samples(np.random.default_rng(SEED))):
            arrays = [x for x in sample.operands if isinstance(x, np.ndarray)]
            if all(x.size for x in arrays):
                cases.append(pytest.param(name, i, id=f"{name}-{i}"))
    return cases


def run_f32(case: Case, folder: Path) -> list[np.ndarray]:
    emitted = emit(case.program, case.constants, folder, DType.F32)
    session = onnxruntime.InferenceSession(emitted.path, providers=["CPUExecutionProvider"])
    feeds = {
        port.name: x.astype(port.type.dtype.numpy)
        for port, x in zip(emitted.inputs, case.inputs, strict=True)
    }
    outputs = session.run([port.name for port in emitted.outputs], feeds)
    results = case.program.main.results
    return [y.reshape(r.type.shape).astype(r.type.dtype.numpy) for y, r in zip(outputs, results, strict=True)]


def check(case: Case, folder: Path) -> None:
    """To f32's accuracy; where the reference quantises activations, which HTP does not, to that of 8 bits."""
    dynamic = any(instr.attrs.get("dynamic") for instr in case.program.main.body)
    tolerance = 3e-2 if dynamic else 2e-5
    expected = Interpreter(case.program, case.tensors.__getitem__).run(case.inputs)
    for found, wanted in zip(run_f32(case, folder), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_every_op_has_a_form_or_is_known_to_have_none():
    assert set(OPS) - set(EMITTERS) == NO_FORM


@pytest.mark.parametrize(("op", "index"), _cases())
@pytest.mark.parametrize("weights", ["runtime", "constant", "table"])
def test_op(op: str, index: int, weights: str, tmp_path: Path):
    sample = get(op).samples(np.random.default_rng(SEED))[index]
    arrays = [i for i, x in enumerate(sample.operands) if isinstance(x, np.ndarray)]
    constant = {"runtime": [], "constant": arrays[1:], "table": arrays[:1] + arrays[2:]}[weights]
    case = single(op, sample, frozenset(constant))
    if by_rule(case.program.main.body[0]) is not None:
        assert op in ("linear_q", "embedding_q", "slice", "pool")
        return
    check(case, tmp_path)
