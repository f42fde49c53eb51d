"""Forms of the standard's operators against ONNX Runtime, as they are imported and as they are compiled."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx_files import imported, one_node, save_graph

import forgec
from forgec.capture.onnx import load_onnx, run_onnxruntime
from forgec.capture.onnx.tensors import to_tensor
from forgec.errors import CaptureError

pytest.importorskip("onnxruntime", reason="runs where forgec[test] is installed")


def f(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def i(*shape, low=-40, high=40, dtype=np.int32):
    return np.random.default_rng(shape).integers(low, high, shape).astype(dtype)


X, IDS = f(4, 8), np.array([[-1, 0], [2, -4]])
AT = np.array([[-1], [1], [3], [1], [3]])
GROUPS = {"scale": f(2), "bias": f(2, seed=1)}

CASES = {
    "Gather, last of an axis": (23, "Gather", {"x": f(2, 5, 8), "c": np.array(-1)}, {"axis": 1}),
    "Gather, last of an axis, 32 bits": (23, "Gather", {"x": f(2, 5, 8), "c": np.array(-1, np.int32)}, {"axis": 1}),
    "Gather, last row": (23, "Gather", {"x": X, "c": np.array(-1)}, {}),
    "Gather, rows": (23, "Gather", {"x": X, "c": IDS}, {}),
    "Gather, rows, chosen when run": (23, "Gather", {"x": X, "i": IDS}, {}),
    "Gather, columns of a stored table": (23, "Gather", {"c": X, "i": IDS}, {"axis": 1}),
    "Gather, one of an axis, chosen when run": (23, "Gather", {"x": X, "i": np.array(-3)}, {"axis": 1}),
    "Gather, stored table, 3 axes": (23, "Gather", {"c": f(4, 3, 2), "i": IDS}, {}),
    "Pad, bool, True": (23, "Pad", {"x": X > 0, "c": np.array([0, 1, 0, 1]), "c_": np.array(True)}, {}),
    "Pad, bool, False": (23, "Pad", {"x": X > 0, "c": np.array([0, 1, 2, -1]), "c_": np.array(False)}, {}),
    "Pad, opset 10": (10, "Pad", {"x": X}, {"pads": [0, 1, 0, 1], "value": 2.0}),
    "Pad, opset 10, reflect": (10, "Pad", {"x": X}, {"pads": [0, 1, 0, 1], "mode": "reflect"}),
    "ReduceMean, int32": (13, "ReduceMean", {"x": i(5, 7)}, {"axes": [1]}),
    "ReduceMean, int32, large": (13, "ReduceMean", {"x": i(5, 7, low=2**30, high=2**31 - 1)}, {"axes": [1]}),
    "ReduceMean, int64": (23, "ReduceMean", {"x": i(3, 5, 7, dtype=np.int64), "c": np.array([0, 2])}, {}),
    "ReduceL2, int32": (13, "ReduceL2", {"x": i(5, 7)}, {"axes": [1]}),
    "ReduceLogSum, int32": (13, "ReduceLogSum", {"x": i(5, 7, low=1)}, {"axes": [1]}),
    "Celu": (12, "Celu", {"x": X}, {"alpha": 0.7}),
    "ThresholdedRelu": (10, "ThresholdedRelu", {"x": X}, {"alpha": 0.4}),
    "Hardmax": (13, "Hardmax", {"x": i(3, 4, 5, low=0, high=3).astype(np.float32)}, {"axis": 1}),
    "Hardmax, opset 11": (11, "Hardmax", {"x": i(3, 4, 5, low=0, high=3).astype(np.float32)}, {"axis": 1}),
    "GroupNormalization, opset 18": (18, "GroupNormalization", {"x": f(2, 4, 3), **GROUPS}, {"num_groups": 2}),
    "GroupNormalization, opset 21": (
        21, "GroupNormalization", {"x": f(2, 4, 3), "scale": f(4), "bias": f(4, seed=1)}, {"num_groups": 2},
    ),
    "Clip, opset 10": (10, "Clip", {"x": X}, {"min": -0.5, "max": 0.25}),
    "Clip, opset 10, from below": (10, "Clip", {"x": X}, {"min": -0.5}),
    "ScatterND, max": (18, "ScatterND", {"x": X, "c": AT, "u": f(5, 8)}, {"reduction": "max"}),
    "ScatterND, min": (18, "ScatterND", {"x": X, "c": AT, "u": f(5, 8)}, {"reduction": "min"}),
    "ScatterND, mul": (18, "ScatterND", {"x": X, "c": AT, "u": f(5, 8)}, {"reduction": "mul"}),
    "ScatterND, mul, elements": (18, "ScatterND", {"x": X, "c": IDS[None], "u": f(1, 2)}, {"reduction": "mul"}),
    "MatMulInteger, long": (
        23, "MatMulInteger",
        {"a": i(3, 4096, low=200, high=256, dtype=np.uint8), "c": i(4096, 5, low=200, high=256, dtype=np.uint8)}, {},
    ),
    "MatMulInteger, long, chosen when run": (
        23, "MatMulInteger",
        {"a": i(2, 3, 1000, low=200, high=256, dtype=np.uint8), "b": i(2, 1000, 5, low=200, high=256, dtype=np.uint8)},
        {},
    ),
    "MatMulInteger, long, zero points": (
        23, "MatMulInteger",
        {"a": i(3, 4096, low=200, high=256, dtype=np.uint8), "c": i(4096, 5, low=90, high=128, dtype=np.int8),
         "c_a": np.uint8(3), "c_b": i(5, low=-128, high=-100, dtype=np.int8)}, {},
    ),
}  # fmt: skip
"""Opset, operator, inputs (those whose names begin with ``c`` are stored) and attributes."""


def stored(name):
    return name.startswith("c")


@pytest.mark.parametrize("case", CASES)
def test_form(case, tmp_path):
    opset, op, inputs, attributes = CASES[case]
    constants = [name for name in inputs if stored(name)]
    path = one_node(tmp_path / "m.onnx", op, inputs, constants, opset=opset, **attributes)
    given = {name: array for name, array in inputs.items() if not stored(name)}
    check(path, given)


def check(path, given):
    results = run_onnxruntime(load_onnx(path), list(given.values()))
    if isinstance(results, str):
        pytest.skip(f"{results}: runs where it has instructions for products of bytes (VNNI)")
    (expected,) = results
    (found,) = imported(path, given)
    compiled = forgec.compile(path, kwargs={name: to_tensor(np.array(x)) for name, x in given.items()})
    for ours in (found, *compiled(**given).values()):
        assert ours.dtype == expected.dtype
        if expected.dtype == np.float32:
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(ours, expected)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], f"the/{op}/{output}", **attributes)


def test_one_negative_index_into_axes_of_several_sizes(tmp_path):
    nodes = [
        node("Gather", ["x", "last"], "a", axis=1),
        node("Gather", ["a", "last"], "b", axis=1),
        node("Gather", ["table", "last"], "c", axis=0),
        node("Shape", ["x"], "sizes"),
        node("Gather", ["sizes", "last"], "size", axis=0),
        node("Cast", ["size"], "count", to=1),
        node("Add", ["b", "c"], "d"),
        node("Div", ["d", "count"], "y"),
    ]
    x, constants = f(2, 5, 8), {"last": np.array(-1), "table": f(9, 2)}
    check(save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants), {"x": x})


def test_ids_into_a_stored_table_stay_an_embedding(tmp_path):
    ids = np.array([[3, 1, 0]])
    path = one_node(tmp_path / "m.onnx", "Gather", {"table": X, "ids": ids}, ["table"])
    compiled = forgec.compile(path, kwargs={"ids": to_tensor(ids)})
    assert [instr.op for instr in compiled.program.functions["main"].body] == ["embedding"]


def test_places_that_are_written_twice_must_be_known(tmp_path):
    given = {"x": X, "at": AT, "u": f(5, 8)}
    path = one_node(tmp_path / "m.onnx", "ScatterND", given, reduction="max")
    with pytest.raises(CaptureError, match="reduction max at indices that are no constants"):
        imported(path, given)


def test_integer_products_are_split_only_where_sums_may_be_inexact(tmp_path):
    a = i(3, 1024, low=0, high=256, dtype=np.uint8)
    small = i(1024, 5, low=-20, high=20, dtype=np.int8)
    for weight, products in ((small, 1), (np.full_like(small, 127), 2), (small[:256], 1)):
        given = {"a": a[:, : len(weight)]}
        path = one_node(tmp_path / "m.onnx", "MatMulInteger", {**given, "weight": weight}, ["weight"])
        compiled = forgec.compile(path, kwargs={"a": to_tensor(np.array(given["a"]))})
        ops = [instr.op for instr in compiled.program.functions["main"].body]
        assert sum(op in ("linear", "linear_q", "matmul") for op in ops) == products
        check(path, given)
