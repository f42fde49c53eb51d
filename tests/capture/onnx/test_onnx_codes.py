"""Quantised ONNX files: the program has the file's own codes and scales, and gives ONNX Runtime's results."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from forgec.backends.base import No, Yes
from forgec.backends.openvino.backend import OpenVinoBackend
from forgec.models import load
from onnx import helper, numpy_helper
from onnx_files import CONTRIB, export, save_graph
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from typer.testing import CliRunner

import forgec
from forgec.capture.onnx import OnnxModel, OnnxModule, load_onnx, run_onnxruntime, runtime
from forgec.cli.main import app
from forgec.executable.selftest import run_selftest
from forgec.ir.program import ConstRef
from forgec.ir.types import DType, unpack_i4
from forgec.tensors import as_numpy

SEED = 7
WIDE, HIDDEN, WORDS = 128, 256, 300


def node(op, inputs, output, domain="", **attributes):
    return helper.make_node(op, inputs, [output], f"the/{op}/{output}", domain=domain, **attributes)


def encoder(path: Path, dims=("batch", "tokens")) -> Path:
    """Embedding, three projections of one input, and two products with a residual, in floats."""
    rng = np.random.default_rng(SEED)

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    constants = {
        "table": normal(WORDS, WIDE),
        **{name: normal(WIDE, WIDE, scale=WIDE**-0.5) for name in "qkv"},
        **{f"{name}_b": normal(WIDE) for name in "qkv"},
        "up": normal(WIDE, HIDDEN, scale=WIDE**-0.5), "up_b": normal(HIDDEN),
        "down": normal(HIDDEN, WIDE, scale=HIDDEN**-0.5),
        "g": np.ones(WIDE, np.float32), "z": np.zeros(WIDE, np.float32),
    }  # fmt: skip
    nodes = [node("Gather", ["table", "ids"], "x"), node("LayerNormalization", ["x", "g", "z"], "e")]
    for name in "qkv":
        nodes += [
            node("MatMul", ["e", name], f"{name}_m"),
            node("Add", [f"{name}_m", f"{name}_b"], f"{name}_p"),
        ]
    nodes += [
        node("Mul", ["q_p", "k_p"], "qk"), node("Tanh", ["qk"], "t"), node("Mul", ["t", "v_p"], "m"),
        node("MatMul", ["m", "up"], "u"), node("Add", ["u", "up_b"], "u_b"), node("Gelu", ["u_b"], "a"),
        node("MatMul", ["a", "down"], "d"), node("Add", ["d", "e"], "r"),
        node("LayerNormalization", ["r", "g", "z"], "y"),
    ]  # fmt: skip
    return save_graph(
        path, nodes, {"ids": np.zeros((1, 1), np.int64)}, ["y"], constants, opset=20, dims={"ids": dims}
    )


def ids_of(seed: int, tokens: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, WORDS, (1, tokens))


def constants_of(path: Path) -> dict[str, np.ndarray]:
    return {x.name: numpy_helper.to_array(x) for x in onnx.load(path).graph.initializer}


def products(executable) -> list[tuple[np.ndarray, np.ndarray, dict]]:
    """Codes [outputs, inputs], scales [groups, outputs] and attributes of the compressed weights."""
    found = []
    for instr in executable.plan.program.main.body:
        if instr.op in ("linear_q", "embedding_q"):
            first = 1 if instr.op == "linear_q" else 0
            parts = []
            for x in (instr.operands[first], instr.operands[2]):
                assert isinstance(x, ConstRef)
                parts.append(executable.shared.constants.get(executable.plan.program.constants[x.name]))
            codes = unpack_i4(parts[0]) if instr.operands[first].type.dtype is DType.I4 else parts[0]
            found.append((codes, parts[1], dict(instr.attrs)))
    return found


def ops(executable) -> list[str]:
    return [instr.op for instr in executable.plan.program.main.body]


def share(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def reference(path: Path, *inputs: np.ndarray) -> np.ndarray:
    found = run_onnxruntime(load_onnx(path), list(inputs))
    assert not isinstance(found, str), found
    return found[0]


def dynamic(tmp_path: Path, kind: QuantType = QuantType.QInt8, per_channel: bool = False) -> Path:
    """A file whose codes are small enough that ONNX Runtime's sums are exact on every processor."""
    logging.disable(logging.WARNING)  # it recommends what makes no difference here
    path = tmp_path / "dynamic.onnx"
    quantize_dynamic(
        encoder(tmp_path / "floats.onnx"), path, per_channel=per_channel, weight_type=kind, reduce_range=True
    )
    logging.disable(logging.NOTSET)
    return path


def close(executable, path: Path, bound: float = 0.1) -> None:
    for seed in (1, 2):
        ids = ids_of(seed)
        assert share(executable(ids)["y"], reference(path, ids)) < bound, f"seed {seed}"


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_quantisation(per_channel: bool, tmp_path: Path) -> None:
    path = dynamic(tmp_path, per_channel=per_channel)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    assert not executable.report.warnings
    assert executable.report.fidelity.reference == "ONNX Runtime, weights w8a8 here"
    assert not {"linear", "round"} & set(ops(executable))
    stored = constants_of(path)
    (fused, fused_scales, _), *rest = found = products(executable)
    assert all(attrs.get("dynamic") for _, _, attrs in found) and len(found) == 3
    whole = np.concatenate([stored[f"{name}_quantized"].T for name in "qkv"])
    np.testing.assert_array_equal(fused, whole)
    scales = [np.broadcast_to(stored[f"{name}_scale"], WIDE) for name in "qkv"]
    np.testing.assert_array_equal(fused_scales, np.concatenate(scales)[None])
    for name, (codes, scales, _) in zip(("up", "down"), rest, strict=True):
        np.testing.assert_array_equal(codes, stored[f"{name}_quantized"].T)
        np.testing.assert_array_equal(scales[0], np.broadcast_to(stored[f"{name}_scale"], len(codes)))
    close(executable, path)
    saved = tmp_path / "m.forge"
    executable.save(saved)
    assert saved.stat().st_size < 1.2 * path.stat().st_size
    with forgec.load(saved) as loaded:
        ids = ids_of(3)
        np.testing.assert_array_equal(loaded(ids)["y"], executable(ids)["y"])
        assert run_selftest(loaded).passed


def test_asymmetric_codes_become_floats_and_say_so(tmp_path: Path) -> None:
    path = dynamic(tmp_path, QuantType.QUInt8)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    (said,) = (w for w in executable.report.warnings if "quantised weights" in w)
    assert "112 KiB of" in said and "zero points that are not 128" in said
    assert products(executable) == []
    close(executable, path, 1e-4)


@pytest.mark.parametrize(("weights", "op"), [("fp32", "linear"), ("int8", "linear_q")])
def test_other_formats_on_request(weights: str, op: str, tmp_path: Path) -> None:
    path = dynamic(tmp_path)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),), weights=weights)
    assert ops(executable).count(op) == 3 and "round" not in ops(executable)
    assert any(f"weights={weights}, where auto" in w for w in executable.report.warnings)
    close(executable, path)
    saved = tmp_path / "m.forge"
    executable.save(saved)
    with forgec.load(saved) as loaded:
        assert run_selftest(loaded).passed


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
def test_what_the_optimiser_of_onnx_runtime_makes(level: str, tmp_path: Path) -> None:
    path, optimised = dynamic(tmp_path, per_channel=True), tmp_path / "optimised.onnx"
    options = SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.graph_optimization_level = getattr(GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.log_severity_level = 4
    InferenceSession(path, options, providers=["CPUExecutionProvider"])
    made = {n.op_type for n in onnx.load(optimised).graph.node}
    if level == "EXTENDED":
        assert "DynamicQuantizeMatMul" in made or "MatMulIntegerToFloat" in made
    given = (torch.from_numpy(ids_of(0)),)
    plain, executable = forgec.compile(path, given), forgec.compile(optimised, given)
    for (codes, scales, attrs), (same, factors, others) in zip(
        products(plain), products(executable), strict=True
    ):
        # Projections of one input stand side by side in the order of the file.
        assert sorted(map(bytes, codes)) == sorted(map(bytes, same))
        np.testing.assert_array_equal(np.sort(scales), np.sort(factors))
        assert attrs.get("dynamic") and others.get("dynamic")
    close(executable, path)


class Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"ids": ids_of(seed)} for seed in range(20, 24)]

    def get_next(self):
        return self.left.pop() if self.left else None


def test_static_quantisation_keeps_pairs_and_codes(tmp_path: Path) -> None:
    """Activations round where the file says, products have its codes: the results are ONNX Runtime's."""
    path = tmp_path / "static.onnx"
    logging.disable(logging.WARNING)
    quantize_static(
        encoder(tmp_path / "floats.onnx", (1, 8)), path, Batches(), quant_format=QuantFormat.QDQ, per_channel=True,
        weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8, op_types_to_quantize=["MatMul"],
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    executable = forgec.compile(path)
    assert executable.report.fidelity.reference == "ONNX Runtime, weights int8 here"
    stored = constants_of(path)
    codes, scales, attrs = products(executable)[1]
    np.testing.assert_array_equal(codes, stored["up_quantized"].T)
    np.testing.assert_array_equal(scales[0], stored["up_scale"])
    assert not attrs.get("dynamic") and "round" in ops(executable) and "linear" not in ops(executable)
    for seed in (1, 2):
        ids = ids_of(seed)
        assert share(executable(ids)["y"], reference(path, ids)) < 0.02, f"seed {seed}"


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
    exact = x @ np.repeat(scales.T, block, 1).__mul__(codes).T
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


def test_an_incomplete_pattern_is_computed_as_it_is(tmp_path: Path) -> None:
    """Sums of products that are scaled by something else than what rounded their input."""
    path = dynamic(tmp_path)
    model = onnx.load(path)
    (scales,) = (n for n in model.graph.node if n.op_type == "Mul" and "up_scale" in n.input)
    scales.input[1 - list(scales.input).index("up_scale")] = "other"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.02, np.float32), "other"))
    onnx.save(model, path)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    assert "round" in ops(executable) and len(products(executable)) == 2
    close(executable, path)


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


def test_codes_that_a_result_shows_are_still_there(tmp_path: Path) -> None:
    """What else reads the parts of a pattern gets them."""
    path = dynamic(tmp_path)
    model = onnx.load(path)
    product = next(
        n for n in model.graph.node if n.op_type == "MatMulInteger" and "down_quantized" in n.input
    )
    model.graph.output.append(onnx.ValueInfoProto(name=product.output[0]))
    onnx.save(model, path)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),), check=False)
    found = list(executable(ids_of(0)).values())
    wanted = run_onnxruntime(load_onnx(path), [ids_of(0)])
    assert found[1].dtype == np.int32 and share(found[1], wanted[1]) < 0.1
    assert len(products(executable)) == 3


def test_a_reference_that_is_wrong_is_none(tmp_path: Path) -> None:
    """Some processors have no sums of bytes that are exact; then ONNX Runtime is no reference."""
    codes = np.full((64, 8), 127, np.int8)
    a = np.full((2, 64), 255, np.uint8)
    made = [node("MatMulInteger", ["a", "w"], "y")]
    path = save_graph(tmp_path / "m.onnx", made, {"a": a}, ["y"], {"w": codes})
    found = run_onnxruntime(load_onnx(path), [a])
    if isinstance(found, str):
        assert "off at 16 bits" in found
        small = save_graph(tmp_path / "m.onnx", made, {"a": a}, ["y"], {"w": codes // 2})
        found = run_onnxruntime(load_onnx(small), [2 * (a // 2)])
        codes, a = codes // 2, 2 * (a // 2)
    np.testing.assert_array_equal(found[0], a.astype(int) @ codes.astype(int))


def test_products_without_a_reference_are_checked_against_the_import(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(runtime, "_saturates", lambda: True)
    path = tmp_path / "large.onnx"
    logging.disable(logging.WARNING)
    quantize_dynamic(encoder(tmp_path / "floats.onnx"), path, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    assert executable.report.fidelity.reference == "eager PyTorch, weights w8a8 here"
    assert any("off at 16 bits" in warning for warning in executable.report.warnings)
    assert len(products(executable)) == 3


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="forgec")


@pytest.mark.parametrize("weights", ["auto", "fp32"])
def test_the_command_compiles_verifies_and_shows(weights: str, tmp_path: Path) -> None:
    path, out = dynamic(tmp_path), tmp_path / "m.forge"
    result = run("compile", "-m", path, "-o", out, "--tokens", 8, "--weights", weights, "--format", "json")
    assert result.exit_code == 0, result.stderr
    fidelity = json.loads(result.stdout)["fidelity"]
    assert fidelity["passed"] and fidelity["bound_kl"] == 5e-2
    result = run("verify", out, "-m", path, "--seeds", 2, "--format", "json")
    assert result.exit_code == 0, result.stdout
    assert run("verify", out).exit_code == 0


def test_buckets(tmp_path: Path) -> None:
    path = dynamic(tmp_path, per_channel=True)
    tokens = forgec.Dim("tokens", 4, 8)
    module = OnnxModule(load_onnx(path), {"ids": (1, 8)})
    buckets = forgec.compile_buckets(
        module, (torch.from_numpy(ids_of(0)),), dynamic_shapes={"ids": {1: tokens}}
    )
    saved = tmp_path / "m.forge"
    buckets.save(saved)
    assert saved.stat().st_size < 1.3 * path.stat().st_size, "sizes share the codes"
    loaded = forgec.Buckets(saved)
    for length in (3, 4, 7):
        ids = ids_of(length, length)
        ours = loaded(ids)["y"]
        assert ours.shape == (1, length, WIDE)
        assert share(ours, reference(path, ids)) < 0.1


def test_the_module_is_the_product_of_floats(tmp_path: Path) -> None:
    """Eager PyTorch runs the file without rounding activations, and says so."""
    path = dynamic(tmp_path)
    module = OnnxModule(load_onnx(path), {"ids": (1, 8)})
    assert module.reference_rounds
    assert not OnnxModule(load_onnx(encoder(tmp_path / "f.onnx")), {"ids": (1, 8)}).reference_rounds
    with torch.no_grad():
        found = module(torch.from_numpy(ids_of(1)))["y"].numpy()
    assert share(found, reference(path, ids_of(1))) < 0.1


def exported(path: Path, preset: str) -> Path:
    loaded = load(preset)
    _, kwargs = loaded.example_inputs(tokens=16)
    return export(path, loaded, kwargs, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["bert-base-tiny", "gpt2-tiny"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_exported_models(preset: str, per_channel: bool, tmp_path: Path) -> None:
    """All products of a model are of the file's codes, fused as those of floats are. Codes are small enough that
    ONNX Runtime's sums are exact on every processor."""
    plain, path = exported(tmp_path / "m.onnx", preset), tmp_path / "q.onnx"
    logging.disable(logging.WARNING)
    quantize_dynamic(plain, path, per_channel=per_channel, weight_type=QuantType.QInt8, reduce_range=True)
    logging.disable(logging.NOTSET)
    floats, executable = forgec.compile(plain), forgec.compile(path)
    wanted = ["linear_q" if op == "linear" else op for op in ops(floats)]
    for op in ("linear_q", "attention", "layer_norm", "add_layer_norm"):
        assert ops(executable).count(op) == wanted.count(op), op
    model = OnnxModel(path)
    for seed in (1, 2):
        _, kwargs = model.example_inputs(seed)
        ours = list(executable(**kwargs).values())
        theirs = run_onnxruntime(model.file, [as_numpy(x) for x in kwargs.values()])
        for x, y in zip(ours, theirs, strict=True):
            assert share(x, y) < 0.05, f"seed {seed}"


@pytest.mark.parametrize("refused", ["linear_q", "linear_q, linear", ""])
def test_a_device_that_takes_floats_only_gets_floats(refused: str, tmp_path: Path, monkeypatch) -> None:
    """Codes bring nothing to the CPU that would be on the device without them."""

    def answers(self, instrs):
        return [No("test", "refused", "none") if i.op in refused.split(", ") else Yes(1e9) for i in instrs]

    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    monkeypatch.setattr(OpenVinoBackend, "answers", answers)
    given = (torch.from_numpy(ids_of(0)),)
    executable = forgec.compile(dynamic(tmp_path), given, target="intel-npu4000", check=False)
    as_floats = refused == "linear_q"
    assert len(products(executable)) == (0 if as_floats else 3)
    said = "intel-npu4000 takes the floats and not the codes"
    assert any(said in warning for warning in executable.report.warnings) == as_floats
