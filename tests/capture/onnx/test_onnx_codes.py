"""Quantised ONNX files: the program has the file's own codes and scales, and gives ONNX Runtime's results."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from code_files import SEED, constants_of, node, ops, products, reference, share
from forgec.backends.base import No, Yes
from forgec.backends.openvino.backend import OpenVinoBackend
from forgec.models import load
from onnx import numpy_helper
from onnx_files import export, save_graph
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
from forgec.tensors import as_numpy

WIDE, HIDDEN, WORDS = 128, 256, 300


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


def dynamic(
    tmp_path: Path, kind: QuantType = QuantType.QInt8, per_channel: bool = False, reduced: bool = True
) -> Path:
    """A file whose codes are small enough, if ``reduced``, that ONNX Runtime's sums are exact on every processor."""
    logging.disable(logging.WARNING)  # it recommends what makes no difference here
    path = tmp_path / "dynamic.onnx"
    floats = encoder(tmp_path / "floats.onnx")
    quantize_dynamic(floats, path, per_channel=per_channel, weight_type=kind, reduce_range=reduced)
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
    (table, _, _), *found = products(executable)
    np.testing.assert_array_equal(table, stored["table_quantized"].astype(int) - 128)
    (fused, fused_scales, _), *rest = found
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


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reduced", [False, True])
def test_zero_points(reduced: bool, per_channel: bool, tmp_path: Path) -> None:
    """Whole bytes have offsets, fused and shared as products are; of seven bits codes less zero points are codes."""
    path = dynamic(tmp_path, QuantType.QUInt8, per_channel, reduced)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    assert not executable.report.warnings
    stored = constants_of(path)
    _, (fused, _, attrs), *rest = products(executable)
    assert attrs.get("dynamic") and len(rest) == 2
    zeros = {name: np.broadcast_to(stored[f"{name}_zero_point"], stored[f"{name}_quantized"].shape[1])
             for name in ("q", "k", "v", "up", "down")}  # fmt: skip
    middles = zeros if reduced else dict.fromkeys(zeros, np.array([128]))
    codes = {n: stored[f"{n}_quantized"].T.astype(int) - middles[n][:, None] for n in zeros}
    np.testing.assert_array_equal(fused, np.concatenate([codes[name] for name in "qkv"]))
    for name, (found, _, _) in zip(("up", "down"), rest, strict=True):
        np.testing.assert_array_equal(found, codes[name])
    assert ops(executable).count("linear_q") == (3 if reduced else 6), "with the sums of three inputs"
    assert ops(executable).count("gelu") == (0 if reduced else 1), "behind its offsets"
    close(executable, path)
    saved = tmp_path / "m.forge"
    executable.save(saved)
    assert saved.stat().st_size < 1.3 * path.stat().st_size
    with forgec.load(saved) as loaded:
        ids = ids_of(3)
        np.testing.assert_array_equal(loaded(ids)["y"], executable(ids)["y"])
        assert run_selftest(loaded).passed


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
        products(plain, "linear_q"), products(executable, "linear_q"), strict=True
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


def test_an_incomplete_pattern_is_computed_as_it_is(tmp_path: Path) -> None:
    """Sums of products that are scaled by something else than what rounded their input."""
    path = dynamic(tmp_path)
    model = onnx.load(path)
    (scales,) = (n for n in model.graph.node if n.op_type == "Mul" and "up_scale" in n.input)
    scales.input[1 - list(scales.input).index("up_scale")] = "other"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.02, np.float32), "other"))
    onnx.save(model, path)
    executable = forgec.compile(path, (torch.from_numpy(ids_of(0)),))
    assert "round" in ops(executable) and len(products(executable, "linear_q")) == 2
    close(executable, path)


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
    assert len(products(executable, "linear_q")) == 3


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
    assert len(products(executable, "linear_q")) == 3


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
    assert module.reference_precisions == {"codes"}
    assert not OnnxModule(load_onnx(encoder(tmp_path / "f.onnx")), {"ids": (1, 8)}).reference_precisions
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


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("refused", ["linear_q, embedding_q", "linear_q, linear", ""])
def test_a_device_that_takes_floats_only_gets_floats(
    refused: str, kind: QuantType, tmp_path: Path, monkeypatch
) -> None:
    """Codes bring no product to the CPU that would be on the device without them, with offsets or without. Tables
    stay codes."""

    def answers(self, instrs):
        return [No("test", "refused", "none") if i.op in refused.split(", ") else Yes(1e9) for i in instrs]

    monkeypatch.setattr(OpenVinoBackend, "available", lambda self: None)
    monkeypatch.setattr(OpenVinoBackend, "answers", answers)
    given = (torch.from_numpy(ids_of(0)),)
    path = dynamic(tmp_path, kind, reduced=kind == QuantType.QInt8)
    executable = forgec.compile(path, given, target="intel-npu4000", check=False)
    as_floats = refused.endswith("embedding_q")
    assert len(products(executable, "embedding_q")) == 1
    assert len(products(executable, "linear_q")) == (0 if as_floats else 3)
    said = "intel-npu4000 takes the floats and not the codes"
    assert any(said in warning for warning in executable.report.warnings) == as_floats
