"""Forms in which ONNX files have codes: bits, blocks, tables, what is kept of them and what is not."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from code_files import SEED, constants_of, node, ops, products, reference, share
from onnx import numpy_helper
from onnx_files import CONTRIB, save_graph

import forgec

WORDS = 300


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [rows, blocks, size], from 0 on, as bytes, the first in the lowest bits."""
    each = 8 // bits
    parts = codes.astype(np.uint8).reshape(*codes.shape[:-1], -1, each)
    shifts = np.arange(each, dtype=np.uint8) * bits
    return np.bitwise_or.reduce(parts << shifts, axis=-1).astype(np.uint8)


def n_bits(path: Path, bits: int, block: int, zeros: str = "", level: int = 0, inputs: int = 128) -> Path:
    """``MatMulNBits`` with zero points that are ``packed``, or ``floats`` with a fraction, or left out."""
    rng = np.random.default_rng(SEED)
    outs, blocks = 96, -(-inputs // block)
    codes = rng.integers(0, 2**bits, (outs, blocks, block))
    scales = rng.uniform(0.01, 0.1, (outs, blocks)).astype(np.float32)
    constants = {"codes": packed(codes, bits), "scales": scales.reshape(-1)}
    names = ["x", "codes", "scales"]
    if zeros:
        points = rng.integers(0, 2**bits, (outs, blocks + -blocks % (8 // bits)))
        floats = (points[:, :blocks] + rng.uniform(-0.5, 0.5, (outs, blocks))).astype(np.float32)
        constants["zeros"] = packed(points, bits).reshape(outs, -1) if zeros == "packed" else floats
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


@pytest.mark.parametrize("zeros", ["packed", "floats"])
@pytest.mark.parametrize(
    ("bits", "block", "level", "inputs", "kind"),
    [
        (4, 32, 0, 2048, "int4"),
        (4, 32, 4, 2048, "w4a8"),
        (4, 128, 0, 128, "int4"),
        (4, 32, 0, 112, "int4"),
        (4, 16, 4, 40, "w4a8"),
        (8, 32, 0, 2048, "int8"),
        (8, 128, 4, 128, "w8a8"),
        (8, 64, 0, 104, "int8"),
    ],
)
def test_zero_points_of_n_bits(
    bits: int, block: int, level: int, inputs: int, kind: str, zeros: str, tmp_path: Path
) -> None:
    """Also of rows whose last block is shorter."""
    path = n_bits(tmp_path / "m.onnx", bits, block, zeros, level, inputs)
    executable = forgec.compile(path)
    assert executable.report.fidelity.reference.endswith(f"weights {kind} here")
    assert not [w for w in executable.report.warnings if "quantised" in w]
    ((codes, scales, attrs),) = products(executable)
    stored = constants_of(path)
    each = np.stack([stored["codes"] >> shift & (2**bits - 1) for shift in range(0, 8, bits)], -1)
    each = each.reshape(96, -1)[:, :inputs].astype(int)
    np.testing.assert_array_equal(codes, each - 2 ** (bits - 1))
    np.testing.assert_array_equal(scales, stored["scales"].reshape(96, -1).T)
    assert bool(attrs.get("dynamic")) == kind.endswith("a8")
    ones = inputs + 4 if kind == "w8a8" else 0
    assert executable.report.memory.weight_bytes == codes.size * bits // 8 + 2 * scales.nbytes + ones
    points = stored["zeros"].reshape(96, -1)
    if zeros == "packed":
        points = np.stack([points >> shift & (2**bits - 1) for shift in range(0, 8, bits)], -1).reshape(
            96, -1
        )
    spread = [np.repeat(p[:, : len(scales)], block, axis=1)[:, :inputs] for p in (points, scales.T)]
    x = np.random.default_rng(3).standard_normal((3, inputs)).astype(np.float32)
    ours, exact = executable(x)["y"], x @ ((each - spread[0]) * spread[1].astype(np.float64)).T
    assert share(ours, exact) < (1e-5 if level == 0 else 0.02)
    if level == 0 and (bits, zeros) != (8, "floats"):  # which ONNX Runtime does not have
        assert share(ours, reference(path, x)) < 1e-4


@pytest.mark.parametrize("zero", [0, 20, 128, 250])
def test_zero_points_far_from_the_middle_cost_rounded_activations_nothing(zero: int, tmp_path: Path) -> None:
    """Weights near 0 have codes near their zero point, as they have if a few are large: what rounding loses is not
    multiplied by the distance from the middle."""
    rng = np.random.default_rng(SEED)
    codes = np.clip(np.rint(rng.normal(zero, 6, (512, 96))), 0, 255)
    codes[0, ::2] = 255 if zero < 128 else 0
    constants = {
        "w": codes.astype(np.uint8), "s": np.array(0.01, np.float32), "z": np.array(zero, np.uint8),
        "b": rng.standard_normal(96).astype(np.float32),
    }  # fmt: skip
    x = rng.standard_normal((5, 512)).astype(np.float32)
    x[:, 0] /= 99
    made = [node("DynamicQuantizeMatMul", ["x", "w", "s", "z", "b"], "y", CONTRIB)]
    executable = forgec.compile(save_graph(tmp_path / "m.onnx", made, {"x": x}, ["y"], constants))
    ((found, _, attrs),) = products(executable)
    np.testing.assert_array_equal(found, codes.T.astype(int) - 128)
    assert attrs["dynamic"]
    assert share(executable(x)["y"], x @ ((codes - zero) * 0.01) + constants["b"]) < 0.02


def test_codes_of_two_bits_less_their_zero_points_are_codes_of_four(tmp_path: Path) -> None:
    path = n_bits(tmp_path / "m.onnx", 2, 32, "packed")
    executable = forgec.compile(path)
    ((codes, _, _),) = products(executable)
    assert codes.min() == -3 and codes.max() == 3 and ops(executable) == ["linear_q"]


def codes_of_a_table(path: Path, kind: int, block: int, outs: int = 24, inputs: int = 40) -> Path:
    """``MatMulBnb4`` with every code; blocks run on over rows."""
    rng = np.random.default_rng(SEED)
    constants = {
        "codes": rng.integers(0, 256, outs * inputs // 2).astype(np.uint8),
        "largest": rng.uniform(0.1, 2, -(-outs * inputs // block)).astype(np.float32),
    }
    names, sizes = ["x", "codes", "largest"], {"K": inputs, "N": outs}
    made = node("MatMulBnb4", names, "y", CONTRIB, block_size=block, quant_type=kind, **sizes)
    return save_graph(path, [made], {"x": np.zeros((3, inputs), np.float32)}, ["y"], constants)


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("kind", [0, 1])
def test_codes_of_a_table_are_floats(kind: int, block: int, tmp_path: Path) -> None:
    path = codes_of_a_table(tmp_path / "m.onnx", kind, block)
    executable = forgec.compile(path)
    assert ops(executable) == ["linear"]
    x = np.random.default_rng(3).standard_normal((3, 40)).astype(np.float32)
    assert share(executable(x)["y"], reference(path, x)) < 1e-5


def test_why_codes_of_a_table_are_not_kept(tmp_path: Path) -> None:
    executable = forgec.compile(codes_of_a_table(tmp_path / "m.onnx", 1, 64, 512, 512))
    (said,) = (w for w in executable.report.warnings if "quantised weights" in w)
    assert said.startswith("128 KiB of 128 KiB") and "codes of a table of floats" in said


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
    small = {**whole, "codes": (codes // 2 + 64).astype(np.uint8), "zero": np.array(60, np.uint8)}
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
        (after, small, codes // 2 + 4, one),
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


def test_tables_with_zero_points(tmp_path: Path) -> None:
    """Per tensor, per row, and in blocks of which the last is shorter."""
    rng = np.random.default_rng(SEED)
    codes = rng.integers(0, 256, (WORDS, 80)).astype(np.uint8)
    one = {"codes": codes, "scale": np.array(0.03, np.float32), "zero": np.array(99, np.uint8)}
    rows = {**one, "scale": rng.uniform(0.01, 0.1, WORDS).astype(np.float32),
            "zero": rng.integers(0, 256, WORDS).astype(np.uint8)}  # fmt: skip
    nibbles = rng.integers(0, 16, (WORDS, 80))
    blocks = {"codes": packed(nibbles, 4), "scale": rng.uniform(0.01, 0.1, (WORDS, 3)).astype(np.float32),
              "zero": packed(rng.integers(0, 16, (WORDS, 4)), 4)}  # fmt: skip
    after = [node("Gather", ["codes", "ids"], "g"), node("DequantizeLinear", ["g", "scale", "zero"], "y")]
    each = [
        node("DequantizeLinear", ["codes", "scale", "zero"], "d", axis=0),
        node("Gather", ["d", "ids"], "y"),
    ]
    names, sizes = ["codes", "ids", "scale", "zero"], {"block_size": 32, "bits": 4, "quantize_axis": 1}
    block = [node("GatherBlockQuantized", names, "y", CONTRIB, **sizes)]
    for nodes, constants, wanted in (
        (after, one, codes.astype(int) - 128),
        (each, rows, codes.astype(int) - 128),
        (block, blocks, nibbles - 8),
    ):
        path = save_graph(tmp_path / "m.onnx", nodes, {"ids": IDS}, ["y"], constants, opset=21)
        executable = forgec.compile(path)
        assert executable.report.warnings == []
        ((found, scales, _),) = products(executable)
        np.testing.assert_array_equal(found, wanted)
        assert executable.report.memory.weight_bytes == codes.size + 2 * scales.nbytes
        np.testing.assert_allclose(executable(IDS)["y"], reference(path, IDS), rtol=1e-5, atol=1e-5)


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
    "scales of float64": {"s": np.array(0.5, np.float64)},
    "scales that are not finite": {"s": np.array(np.inf, np.float32)},
    "scales for 96 outputs": {"s": np.full(1024, 0.5, np.float32), "z": np.zeros(1024, np.int8)},
}


@pytest.mark.parametrize("said", NEAR)
def test_near_misses(said: str, tmp_path: Path) -> None:
    constants = {
        "w": np.full((1024, 96), 3, np.int8), "s": np.array(0.5, np.float32), "z": np.array(0, np.int8), **NEAR[said],
    }  # fmt: skip
    x = np.random.default_rng(SEED).standard_normal((2, 1024)).astype(constants["s"].dtype)
    nodes = [node("DequantizeLinear", ["w", "s", "z"], "d", axis=0), node("MatMul", ["x", "d"], "y")]
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
    executable = forgec.compile(path, check="inf" not in str(constants["s"]))
    assert products(executable) == []
    assert any(said in warning for warning in executable.report.warnings), executable.report.warnings


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_scales_of_16_bits(kind: type, tmp_path: Path) -> None:
    """They are exact in f32, in which the program computes, and so are its codes."""
    rng = np.random.default_rng(SEED)
    codes = rng.integers(-128, 128, (64, 96)).astype(np.int8)
    scales = rng.uniform(0.001, 0.1, 96).astype(kind)
    nodes = [node("DequantizeLinear", ["w", "s"], "d", axis=1), node("MatMul", ["x", "d"], "y")]
    x = rng.standard_normal((2, 64)).astype(kind)
    executable = forgec.compile(
        save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], {"w": codes, "s": scales})
    )
    ((found, factors, _),) = products(executable)
    np.testing.assert_array_equal(found, codes.T)
    np.testing.assert_array_equal(factors, scales.astype(np.float32)[None])
    wanted = x.astype(np.float64) @ (codes.astype(np.float64) * scales.astype(np.float64))
    assert share(executable(x)["y"].astype(np.float64), wanted) < 1e-2


@pytest.mark.parametrize("far", [2000.5, np.nan])
def test_zero_points_that_are_far_away(far: float, tmp_path: Path) -> None:
    path = n_bits(tmp_path / "m.onnx", 8, 32, "floats", inputs=1024)
    model = onnx.load(path)
    (zeros,) = (x for x in model.graph.initializer if x.name == "zeros")
    points = numpy_helper.to_array(zeros).copy()
    points[5, 5] = far
    zeros.CopyFrom(numpy_helper.from_array(points, "zeros"))
    onnx.save(model, path)
    executable = forgec.compile(path, check=False)
    assert products(executable) == []
    assert any("zero points that are far" in warning for warning in executable.report.warnings)


@pytest.mark.parametrize("zero", [0, 3, -128])
@pytest.mark.parametrize("each", [False, True])
def test_any_code_and_zero_point_of_eight_bits(zero: int, each: bool, tmp_path: Path) -> None:
    """Codes of -128, and codes from 0 on, with zero points at their end and beyond the middle."""
    rng = np.random.default_rng(SEED)
    codes = rng.integers(-128, 128, (1024, 96)).astype(np.int8)
    codes[:, 0] = -128
    shape = (96,) if each else ()
    constants = {"w": codes, "s": np.full(shape, 0.5, np.float32), "z": np.full(shape, zero, np.int8)}
    x = rng.standard_normal((2, 1024)).astype(np.float32)
    nodes = [node("DequantizeLinear", ["w", "s", "z"], "d", axis=1), node("MatMul", ["x", "d"], "y")]
    path = save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants)
    executable = forgec.compile(path)
    assert executable.report.warnings == []
    ((found, _, _),) = products(executable)
    np.testing.assert_array_equal(found, codes.T)
    assert ops(executable) == (["linear_q"] if zero == 0 else ["sum", "linear", "linear_q"])
    assert share(executable(x)["y"], reference(path, x)) < 1e-5


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
