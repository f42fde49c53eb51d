"""ONNX Runtime's own operators against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_files import CONTRIB, imported, one_node

from forgec.capture.onnx import load_onnx, run_onnxruntime
from forgec.errors import CaptureError

pytest.importorskip("onnxruntime", reason="runs where forgec[test] is installed")


def f(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def ids(*shape, high=9, dtype=np.int32):
    return np.random.default_rng(shape).integers(0, high, shape).astype(dtype)


MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32)
LENGTHS = np.array([4, 2], np.int32)
TABLES = {"cos": np.cos(f(16, 4)), "sin": np.sin(f(16, 4))}
POSITIONS = np.arange(5)[None].repeat(2, 0)
NORM = {"x": f(2, 5, 8), "skip": f(2, 5, 8, seed=1), "gamma": f(8)}
EMBED = {
    "ids": ids(2, 5), "segments": ids(2, 5, high=2), "words": f(9, 8), "positions": f(6, 8), "kinds": f(2, 8),
    "gamma": f(8, seed=1), "beta": f(8, seed=2), "mask": MASK,
}  # fmt: skip
SELF = {"x": f(2, 5, 8), "weight": f(8, 24), "bias": f(24)}
HEADS = {"q": f(2, 5, 16), "k": f(2, 5, 16, seed=1), "v": f(2, 5, 16, seed=2)}
GROUPED = {
    "q": f(2, 5, 32), "k": f(2, 5, 16, seed=1), "v": f(2, 5, 16, seed=2), "pk": np.zeros((2, 2, 0, 8), np.float32),
    "pv": np.zeros((2, 2, 0, 8), np.float32), "lengths": np.array([4, 4], np.int32), "total": np.array(5, np.int32),
}  # fmt: skip
EMPTY = np.zeros((2, 1, 0, 16), np.float32)
WIDE = {**GROUPED, "pk": EMPTY, "pv": EMPTY}
"""Rotary embedding wants heads of a multiple of 16."""
CACHED = {
    "q": f(1, 5, 32), "k": f(1, 5, 16, seed=1), "v": f(1, 5, 16, seed=2), "pk": f(1, 2, 3, 8),
    "pv": f(1, 2, 3, 8, seed=1), "lengths": np.array([7], np.int32), "total": np.array(8, np.int32),
}  # fmt: skip
PACKED = {"x": f(3, 40), "weight": ids(6, 3, 8, high=256, dtype=np.uint8), "scales": f(18)}

CODES = ids(9, 16, high=256, dtype=np.uint8)
GEMM = {"a": f(3, 4), "b": f(5, 4), "c": f(5)}
INTEGERS = {
    "a": ids(2, 3, 40, high=256, dtype=np.uint8), "weight": ids(40, 6, high=64, dtype=np.uint8),
    "a_scale": np.array(0.02, np.float32), "scales": np.abs(f(6)),
}  # fmt: skip
ACTIVATIONS = {
    "Relu": {}, "Tanh": {}, "Sigmoid": {}, "Softplus": {}, "Softsign": {}, "LeakyRelu": {"activation_alpha": 0.2},
    "Elu": {"activation_alpha": 0.5}, "HardSigmoid": {"activation_alpha": 0.3, "activation_beta": 0.4},
    "Selu": {"activation_alpha": 1.5, "activation_gamma": 1.2}, "ThresholdedRelu": {"activation_alpha": 0.5},
}  # fmt: skip

CASES = {
    "Gelu": ("Gelu", {"x": f(3, 4)}, 1, {}),
    "FastGelu": ("FastGelu", {"x": f(3, 4), "b": f(4)}, 1, {}),
    "BiasGelu": ("BiasGelu", {"x": f(3, 4), "b": f(4)}, 1, {}),
    "QuickGelu": ("QuickGelu", {"x": f(3, 4)}, 1, {"alpha": 1.5}),
    "FusedMatMul": ("FusedMatMul", {"a": f(2, 4, 3), "b": f(2, 5, 4)}, 1, {"transA": 1, "transB": 1, "alpha": 0.5}),
    "SkipLayerNormalization": (
        "SkipLayerNormalization", {**NORM, "beta": f(8, seed=1), "bias": f(8, seed=2)}, 4, {"epsilon": 1e-5},
    ),
    "SkipSimplifiedLayerNormalization": ("SkipSimplifiedLayerNormalization", NORM, 1, {"epsilon": 1e-5}),
    "SimplifiedLayerNormalization": ("SimplifiedLayerNormalization", {"x": f(2, 8), "g": f(8)}, 1, {}),
    "EmbedLayerNormalization": ("EmbedLayerNormalization", EMBED, 2, {"epsilon": 1e-5}),
    "Attention": ("Attention", SELF, 1, {"num_heads": 2}),
    "Attention, causal": ("Attention", SELF, 1, {"num_heads": 2, "unidirectional": 1}),
    "Attention, padding": ("Attention", {**SELF, "mask": MASK}, 1, {"num_heads": 2}),
    "Attention, lengths": ("Attention", {**SELF, "mask": LENGTHS}, 1, {"num_heads": 2, "scale": 0.3}),
    "MultiHeadAttention": (
        "MultiHeadAttention", {**HEADS, "bias": f(48), "mask": MASK, "added": f(2, 2, 5, 5)}, 1, {"num_heads": 2},
    ),
    "GroupQueryAttention": ("GroupQueryAttention", GROUPED, 3, {"num_heads": 4, "kv_num_heads": 2}),
    "GroupQueryAttention, rotary, window": (
        "GroupQueryAttention", {**WIDE, "cos": np.cos(f(16, 8)), "sin": np.sin(f(16, 8))}, 1,
        {"num_heads": 2, "kv_num_heads": 1, "do_rotary": 1, "local_window_size": 3},
    ),
    "GroupQueryAttention, cache": ("GroupQueryAttention", CACHED, 3, {"num_heads": 4, "kv_num_heads": 2}),
    "GroupQueryAttention, cache, rotary, window": (
        "GroupQueryAttention",
        {**CACHED, "q": f(1, 5, 64), "k": f(1, 5, 32), "v": f(1, 5, 32, seed=1), "pk": f(1, 2, 3, 16),
         "pv": f(1, 2, 3, 16, seed=1), "cos": np.cos(f(16, 8)), "sin": np.sin(f(16, 8))}, 3,
        {"num_heads": 4, "kv_num_heads": 2, "do_rotary": 1, "local_window_size": 4},
    ),
    "MultiHeadAttention, cache": (
        "MultiHeadAttention",
        {**HEADS, "b": None, "m": None, "added": f(2, 2, 5, 8), "pk": f(2, 2, 3, 8), "pv": f(2, 2, 3, 8, seed=1)}, 3,
        {"num_heads": 2, "unidirectional": 1},
    ),
    "RotaryEmbedding": ("RotaryEmbedding", {"x": f(2, 5, 16), "p": POSITIONS, **TABLES}, 1, {"num_heads": 2}),
    "RotaryEmbedding, interleaved": (
        "RotaryEmbedding", {"x": f(2, 2, 5, 8), "p": np.array([3]), **TABLES}, 1, {"interleaved": 1},
    ),
    "MatMulNBits": ("MatMulNBits", PACKED, 1, {"K": 40, "N": 6, "bits": 4, "block_size": 16}),
    "MatMulNBits, zero points": (
        "MatMulNBits", {**PACKED, "zeros": ids(12, high=256, dtype=np.uint8)}, 1,
        {"K": 40, "N": 6, "bits": 4, "block_size": 16},
    ),
    "GatherBlockQuantized": (
        "GatherBlockQuantized", {"table": CODES, "ids": ids(2, 5), "scales": f(9, 2)}, 1, {"block_size": 16, "bits": 4},
    ),
    "GatherBlockQuantized, zero points": (
        "GatherBlockQuantized",
        {"table": CODES, "ids": ids(2, 5), "scales": f(9, 2), "zeros": ids(9, 1, high=256, dtype=np.uint8)}, 1,
        {"block_size": 16, "bits": 4},
    ),
    **{
        f"FusedGemm, {activation}": ("FusedGemm", GEMM, 1, {"activation": activation, "transB": 1, **more})
        for activation, more in ACTIVATIONS.items()
    },
    "FusedGemm, scaled": (
        "FusedGemm", {"a": f(4, 3), "b": f(4, 5), "c": f(3, 1)}, 1,
        {"activation": "Tanh", "transA": 1, "alpha": 0.5, "beta": 2.0},
    ),
    "MatMulIntegerToFloat": ("MatMulIntegerToFloat", INTEGERS, 1, {}),
    "MatMulIntegerToFloat, zero points, bias": (
        "MatMulIntegerToFloat",
        {**INTEGERS, "a_zero": np.array(120, np.uint8), "zeros": ids(6, high=64, dtype=np.uint8), "bias": f(6)}, 1, {},
    ),
    # Codes that are constants are imported as floats; see test_onnx_codes.py.
    "DynamicQuantizeMatMul": (
        "DynamicQuantizeMatMul", {"x": f(2, 3, 40), "codes": INTEGERS["weight"], "scales": np.float32(0.1)}, 1, {},
    ),
    "DynamicQuantizeMatMul, zero points, bias": (
        "DynamicQuantizeMatMul",
        {"x": f(2, 3, 40), "codes": INTEGERS["weight"], "scales": np.abs(f(6)),
         "zeros": ids(6, high=64, dtype=np.uint8), "bias": f(6)}, 1, {},
    ),
    "QuantizeLinear, 16 bits": (
        "QuantizeLinear", {"x": f(40), "scales": np.float32(2e-5), "zeros": np.uint16(40000)}, 1, {},
    ),
}  # fmt: skip
STORED = (
    "weight",
    "table",
    "scales",
    "zeros",
    "words",
    "positions",
    "kinds",
    "gamma",
    "beta",
    "cos",
    "sin",
    "total",
    "lengths",
)


@pytest.mark.parametrize("case", CASES)
def test_contrib(case, tmp_path):
    op, inputs, outputs, attributes = CASES[case]
    domain = "" if op == "SimplifiedLayerNormalization" else CONTRIB
    path = one_node(tmp_path / "m.onnx", op, inputs, STORED, outputs, domain, **attributes)
    if outputs == 4:  # mean and deviation are not computed
        path = _drop_outputs(path)
    given = {name: x for name, x in inputs.items() if name not in STORED and x is not None}
    file = load_onnx(path)
    expected = run_onnxruntime(file, list(given.values()))
    assert not isinstance(expected, str), expected
    for ours, theirs in zip(imported(path, given), expected, strict=True):
        assert ours.dtype == (np.int32 if theirs.dtype == np.uint16 else theirs.dtype)  # torch has no uint16
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)


def _drop_outputs(path):
    import onnx

    model = onnx.load(path)
    model.graph.node[0].output[1] = model.graph.node[0].output[2] = ""
    del model.graph.output[1:3]
    onnx.save(model, path)
    return path


def test_a_cache_with_more_rows_than_count(tmp_path):
    """The lengths say how many of the last are before the new ones; what the others have is not read."""
    exact = one_node(
        tmp_path / "m.onnx", "GroupQueryAttention", CACHED, STORED, 3, CONTRIB, num_heads=4, kv_num_heads=2
    )
    given = {name: array for name, array in CACHED.items() if name not in STORED}
    wanted, keys, _ = imported(exact, given)
    longer = {**given, **{n: np.concatenate([f(1, 2, 4, 8, seed=9), given[n]], 2) for n in ("pk", "pv")}}
    found, more, _ = imported(exact, longer)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
    assert keys.shape[2] == 8 and more.shape[2] == 12
    np.testing.assert_array_equal(more[:, :, 4:], keys)


def test_what_is_not_taken_says_so(tmp_path):
    path = one_node(
        tmp_path / "m.onnx", "GroupQueryAttention", CACHED, STORED, 1, CONTRIB, num_heads=4, kv_num_heads=2,
        smooth_softmax=1,
    )  # fmt: skip
    given = {name: array for name, array in CACHED.items() if name not in STORED}
    with pytest.raises(
        CaptureError, match=r"onnx GroupQueryAttention 'the/GroupQueryAttention' .*smooth softmax"
    ) as caught:
        imported(path, given)
    assert str(path) in str(caught.value)
