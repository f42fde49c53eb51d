"""Checkpoints that are compiled without being loaded."""

from __future__ import annotations

import json

import forgec.passes.block_specialisation as specialisation
import numpy as np
import pytest
import torch
from forgec.models import streaming
from safetensors.torch import load_file, save_file
from tiers import slow_after

import forgec
from forgec import models
from forgec.errors import ModelError, OptionError
from forgec.ir.printer import to_text

SMALL = 1024


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama in several shards."""
    models.load("llama-3.2-1b-tiny").module.save_pretrained(tmp_path, max_shard_size="100KB")
    return tmp_path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Limits that leave the weights of a tiny model large."""
    monkeypatch.setattr(streaming, "SMALL", SMALL)
    monkeypatch.setattr(specialisation, "COMPARED", SMALL)


def test_the_program_and_the_weights_are_those_of_the_loaded_model(folder, tmp_path):
    lazy = models.load(folder, stream=True)
    held = sum(p.untyped_storage().nbytes() for p in lazy.module.parameters())
    assert held < 0.02 * sum(p.nbytes for p in lazy.module.parameters())
    streamed = forgec.compile_language_model(lazy, context=24, chunks=[8], check=False)
    loaded = forgec.compile_language_model(models.load(folder), context=24, chunks=[8], check=False)
    for name in loaded:
        assert to_text(streamed[name].program) == to_text(loaded[name].program)
    paths = [tmp_path / "a.forge", tmp_path / "b.forge"]
    texts = []
    for path, programs in zip(paths, (streamed, loaded), strict=True):
        programs.save(path)
        with forgec.LLM(path) as llm:
            texts.append([piece.token for piece in llm.generate([5, 6, 7, 8, 9, 10, 11, 12, 13], eos=())])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("dtype", slow_after(1, [torch.bfloat16, torch.float16]))
def test_shards_of_16_bits_stay_so(dtype, tmp_path):
    """By what the file says of them: nothing is read before it is written."""
    models.load("llama-3.2-1b-tiny").module.to(dtype).save_pretrained(tmp_path, max_shard_size="100KB")
    streamed = forgec.compile_language_model(
        models.load(tmp_path, stream=True), context=24, chunks=[8], check=False
    )
    loaded = forgec.compile_language_model(models.load(tmp_path), context=24, chunks=[8], check=False)
    wide = forgec.compile_language_model(
        models.load(tmp_path), context=24, chunks=[8], check=False, weights="fp32"
    )
    for name in loaded:
        assert to_text(streamed[name].program) == to_text(loaded[name].program)
        assert to_text(streamed[name].program).count("narrow") > 4
    texts = []
    for programs in (streamed, loaded, wide):
        programs.save(tmp_path / "m.forge")
        with forgec.LLM(tmp_path / "m.forge") as llm:
            texts.append([piece.token for piece in llm.generate([5, 6, 7, 8, 9, 10], eos=())])
    assert texts[0] == texts[1] == texts[2]


def test_any_model_streams(folder):
    lazy = models.load(folder, stream=True)
    ids = torch.arange(6)[None]
    executable = forgec.compile(lazy, (), {"input_ids": ids}, check=False)
    with torch.no_grad():
        want = models.load(folder).module(input_ids=ids).logits
    np.testing.assert_allclose(executable(input_ids=ids)["logits"], want.numpy(), atol=2e-5)


def test_the_check_needs_the_weights(folder):
    with pytest.raises(OptionError, match="check=False"):
        forgec.compile(models.load(folder, stream=True), check=True)


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_a_missing_shard(folder):
    shards(folder)[-1].unlink()
    with pytest.raises(ModelError, match="absent"):
        models.load(folder, stream=True)


def test_a_truncated_shard(folder):
    shard = shards(folder)[0]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(ModelError, match=r"model-.*safetensors cannot be read"):
        models.load(folder, stream=True)


def test_a_weight_of_another_shape(folder):
    for shard in shards(folder):
        tensors = load_file(shard)
        name = next(iter(tensors))
        tensors[name] = tensors[name][..., :-1].contiguous()
        save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"do not fit LlamaForCausalLM: .* is \["):
        models.load(folder, stream=True)


def test_a_weight_that_is_no_number(folder):
    shard = shards(folder)[0]
    tensors = load_file(shard)
    name = next(iter(tensors))
    tensors[name] = tensors[name] > 0
    save_file(tensors, shard, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} is stored as"):
        models.load(folder, stream=True)


def test_an_absent_weight(folder):
    index = folder / "model.safetensors.index.json"
    for shard in shards(folder):
        tensors = {k: v for k, v in load_file(shard).items() if "layers.1.mlp.up" not in k}
        save_file(tensors, shard, metadata={"format": "pt"})
    assert json.loads(index.read_text())
    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        models.load(folder, stream=True)
