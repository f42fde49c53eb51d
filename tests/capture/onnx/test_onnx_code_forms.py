"""Forms in which ONNX files have codes: bits, blocks, tables, what is kept of them and what is not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from code_files import SEED, constants_of, node, ops, products, reference, share
from onnx_files import CONTRIB, save_graph

import forgec

WORDS = 300


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [rows, blocks, size], from 0 on, as bytes, the first in the lowest bits."""
    each = 8 // bits
    parts = codes.astype(np.uint8).reshape(*codes.shape[:-1], -1, each)
    shifts = np.arange(each, dtype=np.uint8) * bits
    return np.bitwise_or.reduce(parts << shifts, axis=-1).astype(np.uint8)


def n_bits(path: Path, bits: int, block: int, zeros: bool = False, level: int = 0, inputs: int = 128) -> Path:
    rng = np.random.default_rng(SEED)
    outs, blocks = 96, -(-inputs // block)
    codes = rng.integers(0, 2**bits, (outs, blocks, block))
    if bits == 8:
        codes = np.maximum(codes, 1)
    scales = rng.uniform(0.01, 0.1, (outs, blocks)).astype(np.float32)
    constants = {"codes": packed(codes, bits), "scales": scales.reshape(-1)}
    names = ["x", "codes", "scales"]
    if zeros:
        middle = np.full((outs, blocks + blocks % 2), 2 ** (bits - 1))
        middle[0, 0] += 1
        constants["zeros"] = packed(middle, bits).reshape(outs, -1)
        names.append("zeros")
    made = node(
        "MatMulNBits",
        names,
        "y",
        CONTRIB,
        K=inputs,
        N=outs,
        bits=bits,
        block_size=block,
        accuracy_level=level,
    )
    save_graph(path, [made], {"x": np.zeros((3, inputs), np.float32)}, ["y"], constants)
    return path


@pytest.mark.parametrize(
    ("bits", "block", "level", "kind"),
    [
        (4, 32, 0, "int4"),
        (4, 128, 0, "int4"),
        (4, 16, 0, "int4"),
        (4, 32, 4, "w4a8"),
        (8, 32, 0, "int8"),
        (8, 128, 4, "w8a8"),
        (8, 32, 4, "int8"),
        (2, 32, 0, "int4"),
    ],
)
def test_matrices_of_n_bits(bits: int, block: int, level: int, kind: str, tmp_path: Path) -> None:
    path = n_bits(tmp_path / "m.onnx", bits, block, level=level)
    executable = forgec.compile(path)
    assert executable.report.fidelity.reference.endswith(f"weights {kind} here")
    assert not [w for w in executable.report.warnings if "quantised" in w]
    ((codes, scales, attrs),) = products(executable)
    stored = constants_of(path)
    each = np.stack([stored["codes"] >> shift & (2**bits - 1) for shift in range(0, 8, bits)], -1)
    np.testing.assert_array_equal(codes, each.reshape(96, 128).astype(int) - 2 ** (bits - 1))
    np.testing.assert_array_equal(scales, stored["scales"].reshape(96, -1).T)
    assert attrs.get("group", 0) == (block if block < 128 else 0)
    assert bool(attrs.get("dynamic")) == kind.endswith("a8")
    x = np.random.default_rng(3).standard_normal((3, 128)).astype(np.float32)
    exact = x @ (np.repeat(scales.T, block, axis=1) * codes).T
    assert share(executable(x)["y"], exact) < (0.02 if kind.endswith("a8") else 1e-5)
    if level == 0 and bits > 2:
        assert share(executable(x)["y"], reference(path, x)) < 1e-4


@pytest.mark.parametrize("bits", [4, 8])
def test_asymmetric_matrices_of_n_bits_are_floats(bits: int, tmp_path: Path) -> None:
    path = n_bits(tmp_path / "m.onnx", bits, 32, zeros=True, inputs=2048)
    executable = forgec.compile(path)
    assert products(executable) == []
    (said,) = (w for w in executable.report.warnings if "quantised weights" in w)
    assert "asymmetric" in said
    x = np.random.default_rng(3).standard_normal((3, 2048)).astype(np.float32)
    assert share(executable(x)["y"], reference(path, x)) < 1e-4


IDS = np.array([[0, 5, 299], [7, 7, 1]])


def test_tables(tmp_path: Path) -> None:
    """Look-ups of codes, before and after they are floats, per tensor and per row, and blocks of 4 bits."""
    rng = np.random.default_rng(SEED)
    codes = rng.integers(-127, 128, (WORDS, 64), np.int8)
    nibbles = rng.integers(0, 16, (WORDS, 2, 32))
    rows = rng.uniform(0.01, 0.1, WORDS).astype(np.float32)
    blocks = rng.uniform(0.01, 0.1, (WORDS, 2)).astype(np.float32)
    whole = {"codes": codes, "scale": np.array(0.03, np.float32), "zero": np.array(0, np.int8)}
    unsigned = {**whole, "codes": (codes.astype(int) + 128).astype(np.uint8), "zero": np.array(128, np.uint8)}
    one = np.full((1, WORDS), 0.03, np.float32)
    after = [node("Gather", ["codes", "ids"], "g"), node("DequantizeLinear", ["g", "scale", "zero"], "y")]
    before = [node("DequantizeLinear", ["codes", "scale", "zero"], "d"), node("Gather", ["d", "ids"], "y")]
    each = [node("DequantizeLinear", ["codes", "scale"], "d", axis=0), node("Gather", ["d", "ids"], "y")]
    block = [
        node(
            "GatherBlockQuantized",
            ["codes", "ids", "scale"],
            "y",
            CONTRIB,
            block_size=32,
            bits=4,
            quantize_axis=1,
        )
    ]
    cases = (
        (after, whole, codes, one),
        (after, unsigned, codes, one),
        (before, unsigned, codes, one),
        (each, {"codes": codes, "scale": rows}, codes, rows[None]),
        (block, {"codes": packed(nibbles, 4).reshape(WORDS, 32), "scale": blocks}, nibbles.reshape(WORDS, 64) - 8, blocks.T),
    )  # fmt: skip
    for nodes, constants, wanted, wanted_scales in cases:
        path = save_graph(tmp_path / "m.onnx", nodes, {"ids": IDS}, ["y"], constants, opset=21)
        executable = forgec.compile(path)
        ((found, scales, _),) = products(executable)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(scales, wanted_scales)
        np.testing.assert_allclose(executable(IDS[:, ::-1])["y"], reference(path, IDS[:, ::-1]), rtol=1e-6)


def test_asymmetric_tables_stay_bytes_where_the_file_looks_bytes_up(tmp_path: Path) -> None:
    codes = np.random.default_rng(SEED).integers(0, 256, (WORDS, 256)).astype(np.uint8)
    constants = {"codes": codes, "scale": np.array(0.03, np.float32), "zero": np.array(127, np.uint8)}
    nodes = [node("Gather", ["codes", "ids"], "g"), node("DequantizeLinear", ["g", "scale", "zero"], "y")]
    path = save_graph(tmp_path / "m.onnx", nodes, {"ids": IDS}, ["y"], constants)
    executable = forgec.compile(path)
    assert executable.report.warnings == [] and "gather" in ops(executable)
    assert executable.report.memory.weight_bytes < 1.1 * codes.size
    np.testing.assert_array_equal(executable(IDS)["y"], reference(path, IDS))


def test_a_table_of_codes_of_which_few_rows_are_read_is_not_lost(tmp_path: Path) -> None:
    codes = np.random.default_rng(SEED).integers(0, 256, (512, 256)).astype(np.uint8)
    constants = {"w": codes, "scale": np.array(0.03, np.float32), "zero": np.array(127, np.uint8),
                 "rows": np.arange(8)}  # fmt: skip
    nodes = [
        node("Gather", ["w", "rows"], "g"), node("DequantizeLinear", ["g", "scale", "zero"], "d"),
        node("Add", ["x", "d"], "y"),
    ]  # fmt: skip
    x = np.zeros((8, 256), np.float32)
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
    executable = forgec.compile(path)
    assert executable.report.warnings == []
    np.testing.assert_array_equal(executable(x + 1)["y"], reference(path, x + 1))


def test_blocked_weights_of_the_standard(tmp_path: Path) -> None:
    """``DequantizeLinear`` of int4 and uint4 in blocks along the inputs, and through a transposition."""
    rng = np.random.default_rng(SEED)
    codes = rng.integers(-8, 8, (64, 48)).astype(ml_dtypes.int4)
    scales = rng.uniform(0.01, 0.1, (2, 48)).astype(np.float32)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    plain = [
        node("DequantizeLinear", ["w", "s"], "d", axis=0, block_size=32),
        node("MatMul", ["x", "d"], "y"),
    ]
    turned = [
        node("DequantizeLinear", ["w", "s"], "d", axis=1, block_size=32), node("Transpose", ["d"], "t", perm=[1, 0]),
        node("MatMul", ["x", "t"], "y"),
    ]  # fmt: skip
    for nodes, constants in (
        (plain, {"w": codes, "s": scales}),
        (turned, {"w": np.ascontiguousarray(codes.T), "s": np.ascontiguousarray(scales.T)}),
    ):
        path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
        executable = forgec.compile(path)
        ((found, factors, attrs),) = products(executable)
        np.testing.assert_array_equal(found, codes.T.astype(np.int8))
        np.testing.assert_array_equal(factors, scales)
        assert attrs["group"] == 32
        assert share(executable(x)["y"], reference(path, x)) < 1e-5


NEAR = {
    "a code of -128": {"w": np.full((1024, 96), -128, np.int8)},
    "scales of float16": {"s": np.array(0.5, np.float16)},
    "scales that are not finite": {"s": np.array(np.inf, np.float32)},
    "zero points that are not 0": {"z": np.array(3, np.int8)},
    "scales for 96 outputs": {"s": np.full(1024, 0.5, np.float32), "z": np.zeros(1024, np.int8)},
}


@pytest.mark.parametrize("said", NEAR)
def test_near_misses(said: str, tmp_path: Path) -> None:
    constants = {
        "w": np.full((1024, 96), 3, np.int8), "s": np.array(0.5, np.float32), "z": np.array(0, np.int8), **NEAR[said],
    }  # fmt: skip
    half = constants["s"].dtype == np.float16
    x = np.random.default_rng(SEED).standard_normal((2, 1024)).astype(np.float16 if half else np.float32)
    nodes = [node("DequantizeLinear", ["w", "s", "z"], "d", axis=0), node("MatMul", ["x", "d"], "y")]
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
    executable = forgec.compile(path, check="inf" not in str(constants["s"]))
    assert products(executable) == []
    assert any(said in warning for warning in executable.report.warnings), executable.report.warnings


def test_codes_multiplied_in_another_form_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    constants = {"w": rng.integers(-127, 128, (512, 256), np.int8), "s": np.array(0.01, np.float32)}
    nodes = [
        node("MatMulInteger", ["a", "w"], "i"), node("Cast", ["i"], "c", to=onnx.TensorProto.FLOAT),
        node("Mul", ["c", "s"], "y"),
    ]  # fmt: skip
    a = rng.integers(0, 255, (2, 512)).astype(np.uint8)
    path = save_graph(tmp_path / "m.onnx", nodes, {"a": a}, ["y"], constants)
    executable = forgec.compile(path, check=False)
    (said,) = executable.report.warnings
    assert said.startswith("128 KiB of 128 KiB") and "in a form that is not known" in said
    wanted = (a.astype(int) @ constants["w"].astype(int)) * constants["s"]
    np.testing.assert_allclose(executable(a)["y"], wanted, rtol=1e-6)
