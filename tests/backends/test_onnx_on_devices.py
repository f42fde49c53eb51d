"""An ONNX file on the NPUs: its nodes are what reports name, and the emulated device computes what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forgec.models import load
from worth_a_device import costs_file

import forgec
from forgec import backends

sys.path.append(str(Path(__file__).parents[1] / "capture" / "onnx"))
onnx_files = pytest.importorskip("onnx_files", reason="runs where forgec[test] is installed")


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
