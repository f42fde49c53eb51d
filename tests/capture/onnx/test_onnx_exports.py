"""Exports of presets: the same results, and about as many instructions as from the module itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from forgec.models import load, sentence_encoder_dir
from onnx_files import export

import forgec
from forgec.capture.onnx import OnnxModel, run_onnxruntime
from forgec.errors import CaptureError, ModelError
from forgec.tensors import as_numpy

BOUND = 2.1e-5


def instructions(executable) -> Counter[str]:
    return Counter(instr.op for instr in executable.plan.program.main.body)


def check(path, loaded, executable, **sizes) -> None:
    """The executable against eager PyTorch and ONNX Runtime on inputs other than the example's."""
    model = OnnxModel(path)
    _, kwargs = loaded.example_inputs(seed=3, **sizes)
    with torch.no_grad():
        eager = [as_numpy(x) for x in loaded.module(**kwargs).values() if isinstance(x, torch.Tensor)]
    independent = run_onnxruntime(model.file, [as_numpy(x) for x in kwargs.values()])
    assert not isinstance(independent, str), independent
    found = list(executable(**kwargs).values())
    for ours, theirs, other in zip(found, eager, independent, strict=True):
        assert np.abs(ours - theirs).max() < BOUND
        assert np.abs(ours - other).max() < BOUND


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "options", "more"),
    [
        ("bert-base-tiny", {"dynamo": True}, 3),
        ("bert-base-tiny", {"dynamo": False, "opset_version": 14}, 5),  # layer norm, gelu in pieces
        pytest.param("gpt2-tiny", {"dynamo": True, "opset_version": 23}, 2, marks=SLOW),  # operator Attention
        pytest.param("llama-3.2-1b-tiny", {"dynamo": True}, 1, marks=SLOW),
    ],
)
def test_exports_of_presets(preset, options, more, tmp_path):
    loaded = load(preset)
    _, kwargs = loaded.example_inputs(tokens=16)
    path = export(tmp_path / "m.onnx", loaded, kwargs, **options)
    executable = forgec.compile(path)
    assert executable.report.fidelity.reference == "ONNX Runtime"
    assert executable.report.fidelity.max_abs < BOUND
    check(path, loaded, executable, tokens=16)
    direct, ours = instructions(_direct(loaded, kwargs)), instructions(executable)
    assert ours.total() <= direct.total() + more, f"more: {ours - direct}, fewer: {direct - ours}"
    for op in ("attention", "linear", "rms_norm", "rope"):
        assert ours[op] == direct[op], op
    sources = [instr.source for instr in executable.plan.program.main.body if instr.source is not None]
    named = [s for s in sources if s.module and s.module.startswith("onnx ")]
    assert len(named) > 0.9 * len(sources), sources


def _direct(loaded, kwargs):
    return forgec.compile(loaded.module, (), kwargs)


@pytest.mark.slow
def test_open_dimensions_external_weights_and_buckets(tmp_path):
    """One file for all lengths, its weights beside it; tied weights are one constant."""
    loaded = load("gpt2-tiny")
    _, kwargs = loaded.example_inputs(tokens=16, batch=2)
    path = export(
        tmp_path / "m.onnx", loaded, kwargs, dynamo=True, external_data=True,
        dynamic_shapes={"tensors": ({0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=64)},)},
    )  # fmt: skip
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    executable = forgec.compile(path, kwargs=loaded.example_inputs(tokens=12)[1])
    check_shape = executable.signature.inputs[0].type.shape
    assert check_shape == (1, 12)
    _, fresh = loaded.example_inputs(tokens=12, seed=5)
    with torch.no_grad():
        wanted = loaded.module(**fresh)["logits"]
    assert np.abs(next(iter(executable(**fresh).values())) - as_numpy(wanted)).max() < BOUND

    model = OnnxModel(path, tokens=8, batch=3)
    assert model.shapes == {"input_ids": (3, 8)}
    assert model.module.rows == {"input_ids": 131}
    tables = [name for name, p in model.module.named_parameters() if tuple(p.shape) == (131, 32)]
    assert len(tables) == 1
    assert (
        model.module.get_parameter(tables[0]).untyped_storage().data_ptr()
        == model.file.constants[tables[0]].ctypes.data
    )

    sizes = forgec.Dim("tokens", 8, 16)
    buckets = forgec.compile_buckets(path, kwargs=fresh, dynamic_shapes={"input_ids": {1: sizes}})
    assert np.abs(next(iter(buckets(**fresh).values())) - as_numpy(wanted)).max() < BOUND


@pytest.mark.slow
def test_real_sentence_encoder(tmp_path):
    """all-MiniLM-L6-v2 with its real weights gives the same embeddings."""
    try:
        loaded = load(sentence_encoder_dir())
    except ModelError as error:
        pytest.skip(error.what)
    _, kwargs = loaded.example_inputs(tokens=32)
    path = export(tmp_path / "minilm.onnx", loaded, kwargs, dynamo=True)
    executable = forgec.compile(path)
    check(path, loaded, executable, tokens=32)
    ours, direct = instructions(executable), instructions(_direct(loaded, kwargs))
    assert ours.total() <= direct.total() + 3


@SLOW
def test_wrong_example_inputs(tmp_path):
    loaded = load("gpt2-tiny")
    path = export(tmp_path / "m.onnx", loaded, loaded.example_inputs(tokens=16)[1], dynamo=True)
    for kwargs, message in (
        ({"ids": torch.zeros(1, 16, dtype=torch.int64)}, "no input 'ids'"),
        ({"input_ids": torch.zeros(1, 16)}, "not a tensor of torch.int64"),
    ):
        with pytest.raises(CaptureError, match=message):
            forgec.compile(path, kwargs=kwargs)
