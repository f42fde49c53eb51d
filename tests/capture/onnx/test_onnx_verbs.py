"""The command on ONNX files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from onnx_files import save_graph
from typer.testing import CliRunner

import forgec
from forgec.capture.onnx import registry
from forgec.cli.main import app
from forgec.ir.printer import to_text


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, f"/mlp/{op}_{outputs[0]}", **attributes)


def mlp(path, size, dims):
    """LayerNorm(x + W2 gelu(W1 x + b)) over open dimensions."""
    draw = np.random.default_rng(0)
    constants = {
        "w1": draw.standard_normal((size, 4 * size)) / size**0.5, "b": draw.standard_normal(4 * size),
        "w2": draw.standard_normal((4 * size, size)) / size, "g": np.ones(size), "z": np.zeros(size),
    }  # fmt: skip
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]), node("Add", ["a", "b"], ["c"]), node("Gelu", ["c"], ["d"]),
        node("MatMul", ["d", "w2"], ["e"]), node("Add", ["e", "x"], ["f"]),
        node("LayerNormalization", ["f", "g", "z"], ["y"]),
    ]  # fmt: skip
    constants = {name: array.astype(np.float32) for name, array in constants.items()}
    return save_graph(path, nodes, {"x": np.zeros((1, 1, size), "f")}, ["y"], constants, dims={"x": dims})


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="forgec")


def test_compile_verify_analyze(tmp_path):
    path, out = mlp(tmp_path / "m.onnx", 16, ["batch", "frames", 16]), tmp_path / "m.forge"
    result = run("compile", "-m", path, "-o", out)
    assert result.exit_code == 2 and "frames of 'x'" in result.stderr and "--shape" in result.stderr
    result = run("compile", "-m", path, "-o", out, "--shape", "x=2,5,16", "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["fidelity"]["reference"] == "ONNX Runtime"
    with forgec.load(out) as executable:
        assert [i.op for i in executable.plan.program.main.body if i.op != "reshape"] == [
            "linear",
            "linear",
            "layer_norm",
        ]
        assert "onnx LayerNormalization '/mlp/LayerNormalization_y'" in to_text(executable.plan.program)

    result = run("verify", out, "-m", path, "--seeds", 1, "--format", "json")
    assert result.exit_code == 0, result.stdout
    assert {c["reference"] for c in json.loads(result.stdout)["comparisons"]} == {
        "eager",
        "ONNX Runtime",
        "interpreter",
    }

    other = mlp(tmp_path / "other.onnx", 16, [2, 5, 16])
    result = run("analyze", "-m", other)
    assert result.exit_code == 0 and "everything on cpu" in result.stdout
    for wrong in (("--shape", "x=2;5"), ("--layers", 2), ("--shape", "w=1")):
        assert run("compile", "-m", other, "-o", out, *wrong).exit_code == 2
    assert run("compile", "-m", "gpt2-tiny", "--shape", "input_ids=1,8", "-o", out).exit_code == 2


@pytest.mark.parametrize("kind", ["floats", "ids"])
def test_verify_finds_an_import_that_is_wrong(kind, tmp_path, monkeypatch):
    """By ONNX Runtime: the imported module, in float64 too, has the same error."""
    pytest.importorskip("onnxruntime", reason="runs where forgec[test] is installed")
    path, out = tmp_path / "m.onnx", tmp_path / "m.forge"
    if kind == "floats":
        mlp(path, 16, [2, 5, 16])
    else:
        nodes = [node("Gather", ["table", "input_ids"], ["a"]), node("Gelu", ["a"], ["y"])]
        table = np.random.default_rng(0).standard_normal((11, 8)).astype(np.float32)
        save_graph(path, nodes, {"input_ids": np.zeros((1, 6), np.int64)}, ["y"], {"table": table})
    (converter,) = registry._TABLE["", "Gelu"].converters
    wrong = replace(converter, function=lambda x, approximate="none": x.tanh())
    monkeypatch.setattr(registry._TABLE["", "Gelu"], "converters", [wrong])
    assert run("compile", "-m", path, "-o", out, "--no-check").exit_code == 0
    result = run("verify", out, "-m", path, "--seeds", 1, "--format", "json")
    assert result.exit_code == 1, result.stderr
    failed = {c["reference"] for c in json.loads(result.stdout)["comparisons"] if not c["passed"]}
    assert failed == {"ONNX Runtime"}


def test_hexagon_compiles_an_onnx_file(tmp_path):
    pytest.importorskip("onnxruntime_qnn", reason="runs where forgec[qnn] is installed")
    path = mlp(tmp_path / "m.onnx", 512, [1, 128, 512])
    executable = forgec.compile(path, target="hexagon-v73")
    assert any(segment.device != "cpu" for segment in executable.plan.segments)
    assert executable.report.fidelity.passed and executable.report.fidelity.reference == "ONNX Runtime"
