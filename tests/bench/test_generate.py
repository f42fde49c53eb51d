"""The generation benchmark: the peers' file is the same model, and the tables say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import generate, generate_onnx, generate_weights, program_time, streaming
from bench.generating import Preparing
from bench.gguf_file import write_gguf
from forgec import models

gguf = pytest.importorskip("gguf", reason="runs where forgec[test] is installed")


@pytest.fixture(scope="module")
def module():
    return models.load("llama-3.2-1b-tiny").module


@pytest.mark.parametrize(("weights", "error"), [("int8", 0.01), ("int4", 0.15)])
def test_gguf_files_hold_the_model(module, weights, error, tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(module, weights, path)
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    parameters = dict(module.named_parameters())
    assert len(tensors) == len(parameters)
    for theirs, ours in (
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ):
        want = parameters[ours].detach().numpy()
        stored = tensors[theirs]
        found = gguf.quants.dequantize(stored.data, stored.tensor_type).reshape(want.shape)
        assert np.linalg.norm(found - want) <= error * np.linalg.norm(want)


_LAST_LOGITS = """
import json, sys
import llama_cpp
from bench.generating import last_logits
model = llama_cpp.Llama(sys.argv[1], n_ctx=32, n_threads=1, verbose=False)
model.eval(json.loads(sys.argv[2]))
print(json.dumps(last_logits(model).tolist()))
"""


def test_llama_cpp_computes_the_same(module, tmp_path):
    pytest.importorskip("llama_cpp", reason="runs where forgec[bench] is installed, which builds llama.cpp")
    write_gguf(module, "int8", tmp_path / "model.gguf")
    ids = [5, 9, 3, 77, 12]
    command = [sys.executable, "-c", _LAST_LOGITS, str(tmp_path / "model.gguf"), json.dumps(ids)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    if done.returncode < 0:
        pytest.skip(f"llama.cpp ends by signal {-done.returncode}, as GCC 12 builds it for AMX: use clang 16")
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        want = module(input_ids=torch.tensor([ids])).logits[0, -1].numpy()
    assert np.corrcoef(json.loads(done.stdout), want)[0, 1] > 0.995


def test_tables():
    rates = {"prefill": [100.0, 110.0], "decode": [4.0, 6.0], "resident": 1 << 30}
    slower = {"prefill": [50.0, 55.0], "decode": [4.0, 3.0], "resident": 2 << 30}
    data = {
        "models": {
            "toy, int8": {
                "tools": {"forgec": rates, "llama.cpp": slower},
                "read_bytes_per_s": [10e9, 10e9],
                "compile": {"read_bytes": 1e9, "compile_s": 1.0, "save_s": 2.0},
            }
        },
        "failures": {"toy, int8, openvino": "not installed"},
    }
    (table,) = generate.tables(data)
    text = table.markdown()
    assert "| toy, int8 | forgec | 105.0 | - | 5.0 | - | 50% | 1 024 MiB |" in text
    assert "| toy, int8 | llama.cpp | 52.5 | 2.00 x | 3.5 | 1.50 x | - | 2 048 MiB |" in text
    assert "Without toy, int8, openvino: not installed." in text


@pytest.mark.slow
def test_forms_of_weights(tmp_path):
    data = generate_weights.measure(
        ["llama-3.2-1b-tiny"],
        prompt=8,
        tokens=4,
        threads=1,
        rounds=2,
        layers=None,
        folder=tmp_path,
        say=print,
    )
    (found,) = data["models"].values()
    assert list(found["tools"]) == ["f32", "bf16 model", "f16 model", "int8", "int4"] and not data["failures"]
    assert found["bytes"]["int8"] < found["bytes"]["bf16 model"] < found["bytes"]["f32"]
    text = generate_weights.tables(data)[0].markdown()
    assert "| llama-3.2-1b-tiny | f32 |" in text and "| llama-3.2-1b-tiny | bf16 model |" in text


@pytest.mark.slow
@pytest.mark.parametrize("precision", generate_onnx.PRECISIONS)
def test_one_onnx_file_for_both(tmp_path, precision):
    pytest.importorskip("onnxruntime_genai", reason="runs where forgec[bench] is installed")
    config = {
        **models.describe("llama-3.2-1b-tiny").config_dict(),
        "head_dim": 16,
    }  # as the peer's kernels want
    (tmp_path / "config.json").write_text(json.dumps(config))
    folder, compiled = str(tmp_path / "genai"), str(tmp_path / "m.forge")
    making = Preparing()
    making.genai(str(tmp_path / "config.json"), None, precision, folder)
    making.forgec_onnx(f"{folder}/model.onnx", 20, 16, compiled)
    files = {"forgec": compiled, "onnxruntime-genai": folder}
    found, failures = generate.race(files, 16, 4, 1, 1, lambda text: None)
    assert not failures
    data = {"models": {"toy, int4": found}, "failures": {}}
    text = generate_onnx.tables(data)[0].markdown()
    assert "| toy, int4 | forgec |" in text and "| toy, int4 | onnxruntime-genai |" in text


@pytest.mark.slow
def test_streaming_writes_compiles_and_runs(tmp_path):
    worker = streaming.Streaming()
    shards, path = str(tmp_path / "shards"), str(tmp_path / "model.forge")
    stored = worker.write("llama-3.2-1b-tiny", None, shards)
    loaded = models.load(shards)
    assert stored == 2 * sum(p.numel() for p in loaded.module.parameters())
    made = worker.compile(shards, "int4:32", 32, 8, path)
    ran = worker.run(path, 1, 5)
    assert ran["tokens"] == 5 and made["peak"] >= made["before"]
    data = {"models": {"toy": {"shards": stored, "compile": made, "run": ran}}}
    assert "| toy |" in streaming.tables(data)[0].markdown()


def test_every_program_has_its_time():
    found = program_time.Programs().compile("llama-3.2-1b-tiny", "fp32", 16, 8, None, check=False)
    assert found.pop("check together") == 0
    assert set(found) == {"decode", "prefill.8"} and all(time > 0 for time in found.values())
    found["check together"] = 1.0
    data = {"weights": "fp32", "models": {"toy": {"checked": {key: [x, 2 * x] for key, x in found.items()}}}}
    share = f"{100 * found['decode'] / found['prefill.8']:.0f} %"
    assert share in program_time.tables(data)[0].markdown()
