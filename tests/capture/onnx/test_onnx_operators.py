"""Operators of the standard on the onnx package's own test cases, which come from its numpy reference."""

from __future__ import annotations

import importlib
import pkgutil
import re
import warnings

import numpy as np
import onnx
import pytest
from onnx_files import imported, one_node

from forgec.errors import CaptureError

# Modules of cases by operator; those of poolings take half a minute to import.
_NAMES = """
    abs add and_ argmax argmin attention batch_normalization bitwiseand cast castlike celu clip concat constantofshape conv
    convtranspose cumsum depthtospace dequantizelinear div dynamicquantizelinear einsum elu equal erf expand eyelike flatten gather
    gatherelements gathernd gelu gemm globalaveragepool greater groupnormalization hardmax hardsigmoid hardswish identity
    instance_normalization isinf isnan layernormalization leakyrelu less logsoftmax lpnormalization matmul matmulinteger
    max mean mish mod mul neg not_ onehot or_ pad pow prelu quantizelinear rangeop reciprocal reduce_log_sum_exp reducel2
    reducemax reducemean reduceprod reducesum reducesumsquare relu reshape resize rmsnormalization rotaryembedding round
    scatterelements scatternd selu shape sigmoid size slice softmax softplus spacetodepth split sqrt squeeze sub sum
    swish tanh thresholdedrelu tile topk transpose trilu unsqueeze upsample where xor
"""
_REFUSED = re.compile(
    "has a form that forgec does not import|does not import:|is none that forgec computes with|that forgec has not|"
    "is no tensor|is of strings|zero-size"
)
"""What the importer says of forms that it does not take; a case may not fail in another way."""
_WRONG = re.compile("bf16|uint16|FLOAT16_to|opt|seq|training")


def _cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = importlib.import_module("onnx.backend.test.case.node")
        before = len(package._NodeTestCases)
        for name in sorted(
            set(_NAMES.split()).intersection(m.name for m in pkgutil.iter_modules(package.__path__))
        ):
            importlib.import_module(f"{package.__name__}.{name}")
    names = set()
    for case in package._NodeTestCases[before:] or package._NodeTestCases:
        if "_expanded" not in case.name and not _WRONG.search(case.name) and case.name not in names:
            names.add(case.name)
            yield case


@pytest.mark.slow
def test_operators_of_the_standard(tmp_path):
    """The first input at run time, the others stored: 600 cases or so, most of which must be computed."""
    computed, refused, wrong = 0, [], []
    for case in _cases():
        for inputs, outputs in case.data_sets:
            if not all(isinstance(x, np.ndarray | np.generic) for x in (*inputs, *outputs)) or not inputs:
                continue
            model = onnx.ModelProto()
            model.CopyFrom(case.model)
            if not 7 <= max(o.version for o in model.opset_import if not o.domain) <= 28:
                continue
            first, *rest = [value.name for value in model.graph.input]
            for name, array in zip(rest, inputs[1:], strict=False):
                model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
            onnx.save(model, tmp_path / "case.onnx")
            try:
                found = imported(tmp_path / "case.onnx", {first: np.asarray(inputs[0])})
            except CaptureError as error:
                (refused if _REFUSED.search(str(error)) else wrong).append(f"{case.name}: {error.what}")
                continue
            computed += 1
            wrong += [
                f"{case.name}: {problem}"
                for ours, theirs in zip(found, outputs, strict=False)
                if (problem := _problem(ours, np.asarray(theirs)))
            ]
    assert not wrong, "\n".join(wrong)
    assert computed > 450 and len(refused) < computed / 2, f"{computed} computed, refused:\n" + "\n".join(
        refused
    )


def _problem(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype}{list(ours.shape)}, not {theirs.dtype}{list(theirs.shape)}"
    tolerance = 2e-3 if theirs.dtype == np.float16 else 1e-5
    near = np.isclose(
        ours.astype(np.float64),
        theirs.astype(np.float64),
        rtol=100 * tolerance,
        atol=tolerance,
        equal_nan=True,
    )
    return None if near.all() else f"{np.count_nonzero(~near)} of {near.size} elements differ"


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_counted_axes_as_one_before_opset_13(opset, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    path = one_node(tmp_path / "m.onnx", "Softmax", {"x": x}, opset=opset, axis=1)
    (y,) = imported(path, {"x": x})
    axes = (1, 2) if opset < 13 else (1,)
    np.testing.assert_allclose(y.sum(axes), 1, rtol=1e-6)
