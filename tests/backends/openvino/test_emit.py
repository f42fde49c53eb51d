"""Every op's OpenVINO form computes what the op's reference evaluation does, on OpenVINO's CPU device."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from forgec.backends.openvino.emit import emit
from forgec.backends.openvino.nodes import EMITTERS
from forgec.backends.openvino.rules import RULES
from forgec.backends.openvino.types import Precision, converted
from forgec.backends.vendor.legalise import legalise

from forgec.errors import BackendError
from forgec.ir.op import OPS, Op, Sample
from forgec.ir.program import Constant, ConstRef, Function, Instr, Leaf, Literal, Operand, Program, Register
from forgec.ir.types import DType, TensorType

SEED = 23
CORE = ov.Core()
CORE.set_property({"INFERENCE_NUM_THREADS": 1})
HOST_ONLY = {"call", "read_state", "write_state", "view_state", "write_rows", "update_rows"}
WITHOUT_FORM = {"scales", "quantise", "embedding_q"}
"""Computed when an artifact is written, or by the host."""
TOLERANCE = {DType.F32: 2e-4, DType.F16: 2e-2}


def segment_of(
    record: Op, sample: Sample, *, constants: bool
) -> tuple[Program, dict[str, np.ndarray], list[np.ndarray]]:
    table: dict[str, Constant] = {}
    values: dict[str, np.ndarray] = {}
    inputs: list[np.ndarray] = []
    operands: list[Operand] = []
    for i, x in enumerate(sample.operands):
        if not isinstance(x, np.ndarray):
            operands.append(None if x is None else Literal(x))
            continue
        kind = TensorType.of(x)
        if constants and i > 0:
            table[f"c{i}"] = Constant(f"c{i}", kind, Leaf(f"c{i}", kind))
            values[f"c{i}"] = x
            operands.append(ConstRef(f"c{i}", kind))
        else:
            inputs.append(x)
            operands.append(Register(i, kind))
    types = [TensorType.of(x) if isinstance(x, np.ndarray) else None for x in sample.operands]
    results = tuple(Register(50 + i, kind) for i, kind in enumerate(record.result_types(types, sample.attrs)))
    params = tuple(x for x in operands if isinstance(x, Register))
    body = [Instr(record.name, tuple(operands), results, dict(sample.attrs))]
    return Program("main", {"main": Function("main", params, (), body, results, ())}, table), values, inputs


def run(
    segment: Program, values: dict[str, np.ndarray], inputs: list[np.ndarray], precision: Precision
) -> list[Any]:
    legal = legalise(segment, RULES)
    model = emit(legal.program, legal.values(lambda c: values[c.name]), precision)
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = [precision.array(x, DType.of(x)) for x in inputs]
    return list(compiled(given).values())


def samples() -> list[Any]:
    return [
        pytest.param(record, sample, id=f"{record.name}-{i}")
        for record in OPS.values()
        if record.samples is not None and record.name not in HOST_ONLY | WITHOUT_FORM
        for i, sample in enumerate(record.samples(np.random.default_rng(SEED)))
        if not sample.attrs.get("group") and all(x.size for x in sample.operands if isinstance(x, np.ndarray))
    ]


@pytest.mark.parametrize("floats", [DType.F32, DType.F16])
@pytest.mark.parametrize(("record", "sample"), samples())
def test_equals_the_reference(record: Op, sample: Sample, floats: DType) -> None:
    precision = Precision(floats)
    for constants in (False, True) if floats is DType.F32 else (True,):
        segment, values, inputs = segment_of(record, sample, constants=constants)
        got = run(segment, values, inputs, precision)
        with np.errstate(over="ignore"):
            want = [precision.array(x, DType.of(x)) for x in record.evaluate(sample.operands, sample.attrs)]
        for a, b, register in zip(want, got, segment.main.results, strict=True):
            tolerance = TOLERANCE[floats] if register.type.dtype.is_float else 0
            if record.name == "cast" and not register.type.dtype.is_float:
                tolerance = 1 if floats is DType.F16 else 0  # near a whole number, truncation goes either way
            if sample.attrs.get("dynamic"):
                tolerance = 2e-2  # activations stay floats on the device
            scale = max(1.0, float(np.abs(a).max(initial=0))) if a.dtype != np.bool_ else 1.0
            np.testing.assert_allclose(
                np.asarray(b, np.float64),
                np.asarray(a, np.float64),
                rtol=0,
                atol=tolerance * scale,
                err_msg=f"seed {SEED}",
            )


def test_every_op_that_runs_has_an_emitter_or_a_rule() -> None:
    fused = {"attention", "rope", "gated", "add_layer_norm", "add_rms_norm"}
    assert set(OPS) - HOST_ONLY - WITHOUT_FORM - fused - set(EMITTERS) == set()


def test_weights_may_be_inputs() -> None:
    (sample, *_) = OPS["linear"].samples(np.random.default_rng(SEED))[2:]  # type: ignore[misc]
    segment, values, inputs = segment_of(OPS["linear"], sample, constants=True)
    legal = legalise(segment, RULES)
    names = ["c1", "c2"]
    model = emit(legal.program, legal.values(lambda c: values[c.name]), Precision(DType.F32), as_inputs=names)
    compiled = CORE.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (got,) = compiled([*inputs, *(values[name] for name in names)]).values()
    (want,) = OPS["linear"].evaluate(sample.operands, sample.attrs)
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"seed {SEED}")


def test_values_out_of_range_are_limited() -> None:
    assert converted(np.array([-3.4e38, 1e6, 2.0], np.float32), np.dtype(np.float16)).tolist() == [
        -65504,
        65504,
        2,
    ]
    assert converted(np.array([2**40, -5]), np.dtype(np.int32)).tolist() == [2**31 - 1, -5]
    assert converted(np.array([True]), np.dtype(np.float16)).tolist() == [1]


def test_an_op_without_a_form_is_named_with_its_line() -> None:
    kind = TensorType(DType.F32, (2,))
    body = [Instr("read_state", (None,), (Register(1, kind),))]
    segment = Program("main", {"main": Function("main", (), (), body, (Register(1, kind),), ())})
    with pytest.raises(BackendError, match="read_state has no form in OpenVINO"):
        emit(segment, lambda constant: np.zeros(2))
