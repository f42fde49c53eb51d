"""Every op's OpenVINO form computes what the op's reference evaluation does, on OpenVINO's CPU device."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import pytest
from forgec.backends.openvino.backend import by_rule
from forgec.backends.openvino.emit import emit
from forgec.backends.openvino.nodes import EMITTERS
from forgec.backends.openvino.rules import legalise_segment
from forgec.backends.openvino.runner import EMULATION
from forgec.backends.openvino.types import Precision, converted
from random_pools import random_pool

from forgec.errors import BackendError
from forgec.ir.op import OPS, IRTypeError, Op, Sample
from forgec.ir.parser import parse
from forgec.ir.program import Function, Instr, Program, Register
from forgec.ir.samples import Case, case_of
from forgec.ir.types import DType, TensorType

SEED = 23
CORE = ov.Core()
CORE.set_property({"INFERENCE_NUM_THREADS": 1})
HOST_ONLY = {
    "aten",
    "call",
    "read_state",
    "write_state",
    "view_state",
    "write_rows",
    "update_rows",
    "cache_mask",
}
WITHOUT_FORM = {
    "scales",
    "quantise",
    "narrow",
    "fitted_scales",
    "fitted_codes",
    "embedding_q",
    "expert_linear_q",
}
"""Computed when an artifact is written, or by the host."""
TOLERANCE = {DType.F32: 2e-4, DType.F16: 2e-2}


def all_but_first(sample: Sample) -> range:
    return range(1, len(sample.operands))


def run(case: Case, precision: Precision) -> list[Any]:
    legal = legalise_segment(case.program, "4000")
    model = emit(legal.program, legal.values(case.constants), precision)
    compiled = CORE.compile_model(model, "CPU", EMULATION)
    given = [precision.array(x, DType.of(x)) for x in case.inputs]
    return list(compiled(given).values())


def samples() -> list[Any]:
    """Of every operator; the quick tests take one."""
    return [
        pytest.param(record, sample, id=f"{record.name}-{i}", marks=() if i < 1 else pytest.mark.slow)
        for record in OPS.values()
        if record.samples is not None and record.name not in HOST_ONLY | WITHOUT_FORM
        for i, sample in enumerate(record.samples(np.random.default_rng(SEED)))
        if all(x.size for x in sample.operands if isinstance(x, np.ndarray))
    ]


@pytest.mark.parametrize("floats", [DType.F32, pytest.param(DType.F16, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("record", "sample"), samples())
def test_equals_the_reference(record: Op, sample: Sample, floats: DType) -> None:
    precision = Precision(floats)
    for constant in ((), all_but_first(sample)) if floats is DType.F32 else (all_but_first(sample),):
        case = case_of(record, sample, constant)
        if record.name == "linear_q" and by_rule(case.instr) is not None:
            continue
        got = run(case, precision)
        with np.errstate(over="ignore"):
            want = [precision.array(x, DType.of(x)) for x in record.evaluate(sample.operands, sample.attrs)]
        for a, b, register in zip(want, got, case.program.main.results, strict=True):
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


@pytest.mark.parametrize("seed", range(40))
def test_pools_of_random_windows(seed: int) -> None:
    x, attrs = random_pool(np.random.default_rng(seed))
    try:
        case = case_of(OPS["pool"], Sample((x,), attrs))
    except IRTypeError:
        return
    if not x.size:
        return
    (got,) = run(case, Precision(DType.F32))
    (want,) = OPS["pool"].evaluate((x,), attrs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=f"seed {seed}: {attrs}")


def test_every_op_that_runs_has_an_emitter_or_a_rule() -> None:
    fused = {"attention", "rope", "gated", "add_layer_norm", "add_rms_norm", "expert_linear"}
    assert set(OPS) - HOST_ONLY - WITHOUT_FORM - fused - set(EMITTERS) == set()


def test_weights_may_be_inputs() -> None:
    (sample, *_) = OPS["linear"].samples(np.random.default_rng(SEED))[2:]  # type: ignore[misc]
    case = case_of(OPS["linear"], sample, all_but_first(sample))
    legal = legalise_segment(case.program, "4000")
    names = ["c0", "c1"]
    model = emit(legal.program, legal.values(case.constants), Precision(DType.F32), as_inputs=names)
    compiled = CORE.compile_model(model, "CPU", EMULATION)
    (got,) = compiled([*case.inputs, *(case.tensors[name] for name in names)]).values()
    (want,) = OPS["linear"].evaluate(sample.operands, sample.attrs)
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=f"seed {SEED}")


def test_inputs_and_outputs_have_five_axes_at_most() -> None:
    """Those of a segment may have more, as windows of an image that the host put side by side."""
    program = parse("""program @main(r0 "x": f32[2,2,3,2,2,4]) -> (r1 "y": f32[2,2,3,2,2,4], r3 "z": f32[4,6,8]) {
  r1: f32[2,2,3,2,2,4] = mul r0, 2.0
  r2: f32[4,6,8] = reshape r0 {shape=[4,6,8]}
  r3: f32[4,6,8] = mul r2, 3.0
  return r1, r3
}
""")
    model = emit(program, Case(program, [], {}).constants, Precision(DType.F32))
    shapes = [tuple(port.get_shape()) for port in (*model.inputs, *model.outputs)]
    assert shapes == [(4, 3, 2, 2, 4), (4, 3, 2, 2, 4), (4, 6, 8)]
    x = np.arange(192, dtype=np.float32).reshape(4, 3, 2, 2, 4)
    first, second = CORE.compile_model(model, "CPU", EMULATION)([x]).values()
    np.testing.assert_array_equal(first, 2 * x)
    np.testing.assert_array_equal(second, 3 * x.reshape(4, 6, 8))


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
