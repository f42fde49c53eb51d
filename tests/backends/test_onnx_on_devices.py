"""An ONNX file on the NPUs: its nodes are what reports name, and the emulated device computes what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from forgec.models import load
from worth_a_device import costs_file

import forgec
from forgec import backends

SEED = 31

sys.path.append(str(Path(__file__).parents[1] / "capture" / "onnx"))
onnx_files = pytest.importorskip("onnx_files", reason="runs where forgec[test] is installed")
helper = onnx_files.helper


@pytest.mark.slow
@pytest.mark.parametrize("target", ["intel-npu4000", "hexagon-v73"])
def test_an_onnx_file_on_an_npu(target, tmp_path):
    if (reason := backends.get(target).available()) is not None:
        pytest.skip(reason)
    loaded = load("bert-base-tiny")
    _, kwargs = loaded.example_inputs(tokens=16)
    path = onnx_files.export(tmp_path / "m.onnx", loaded, kwargs, dynamo=True)
    executable = forgec.compile(path, target=target, costs=costs_file(tmp_path))
    report = executable.report
    assert report.fidelity.passed and report.fidelity.reference == "ONNX Runtime"
    placed = [i for i in executable.plan.program.main.body if i.device == target]
    assert len(placed) > 10 and any("onnx " in str(instr.source) for instr in placed)
    executable.save(tmp_path / "m.forge")
    _, fresh = loaded.example_inputs(tokens=16, seed=3)
    with torch.no_grad():
        wanted = loaded.module(**fresh).last_hidden_state.numpy()
    with forgec.load(tmp_path / "m.forge") as loaded_again:
        found = next(iter(loaded_again(**fresh).values()))
    assert np.abs(found - wanted).max() < report.fidelity.bound_max_abs


@pytest.mark.slow
@pytest.mark.parametrize("target", ["intel-npu4000", "hexagon-v73"])
def test_codes_with_zero_points_on_an_npu(target, tmp_path):
    """A product of bytes by row and one of 4 bits in blocks, with their offsets beside them on the device."""
    if (reason := backends.get(target).available()) is not None:
        pytest.skip(reason)
    rng = np.random.default_rng(SEED)
    constants = {
        "w": rng.integers(0, 256, (64, 96)).astype(np.uint8),
        "s": rng.uniform(1e-3, 2e-3, 96).astype(np.float32), "z": rng.integers(90, 160, 96).astype(np.uint8),
        "v": rng.integers(0, 16, (96, 64)).astype(ml_dtypes.uint4),
        "t": rng.uniform(1e-2, 2e-2, (3, 64)).astype(np.float32),
        "u": rng.integers(5, 12, (3, 64)).astype(ml_dtypes.uint4),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["m"]), helper.make_node("Gelu", ["m"], ["g"]),
        helper.make_node("DequantizeLinear", ["v", "t", "u"], ["e"], axis=0, block_size=32),
        helper.make_node("MatMul", ["g", "e"], ["y"]),
    ]  # fmt: skip
    x = rng.standard_normal((16, 64)).astype(np.float32)
    path = onnx_files.save_graph(tmp_path / "m.onnx", nodes, {"x": x}, ["y"], constants, opset=21)
    executable = forgec.compile(path, target=target, costs=costs_file(tmp_path))
    assert not [w for w in executable.report.warnings if "quantised weights" in w]
    placed = [i.op for i in executable.plan.program.main.body if i.device == target]
    assert placed.count("linear_q") == placed.count("linear") == placed.count("sum") == 2
    plain = forgec.compile(path, weights="fp32")
    wanted = plain(x)["y"]
    assert np.linalg.norm(executable(x)["y"] - wanted) < 5e-3 * np.linalg.norm(wanted), f"seed {SEED}"
