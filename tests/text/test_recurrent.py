"""Language models with recurrent layers: their states are read and written whole, and no chunk is padded."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from forgec.models.decoder import decoder_of
from text_models import RECURRENT, generated, load, prompt

import forgec
from forgec.text.info import GenerationInfo

CHUNK = 8
LENGTHS = (1, CHUNK - 1, CHUNK, 2 * CHUNK + 3)
ROOM = 12
QUICK = ("mamba2",)


@pytest.mark.parametrize(
    "family", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in RECURRENT]
)
def test_greedy_is_token_identical(family, tmp_path):
    """Each text begins with the states that the one before left."""
    model = load(family, tmp_path)
    expected = {length: generated(model, prompt(length), ROOM) for length in LENGTHS}
    programs = forgec.compile_language_model(model, context=40, chunks=[CHUNK])
    programs.save(tmp_path / "m.forge")
    with forgec.LLM(tmp_path / "m.forge") as llm:
        assert not llm.info.pads
        assert not llm.info.rewinds
        for length in LENGTHS:
            pieces = llm.generate(prompt(length), max_tokens=ROOM, eos=())
            assert [piece.token for piece in pieces] == expected[length], f"prompt of {length} tokens"


@pytest.mark.parametrize("family", ["mamba", pytest.param("jamba", marks=pytest.mark.slow)])
def test_a_model_that_forgets_its_states_in_chunks_has_none(family, tmp_path):
    programs = forgec.compile_language_model(load(family, tmp_path), context=40, chunks=[CHUNK])
    assert set(programs) == {"decode"}
    assert [text for text in programs.main.report.warnings if "token by token" in text]


@pytest.mark.slow
def test_what_a_chunk_leaves_is_what_the_next_begins_with(tmp_path):
    """Logits of a text in three pieces against the model without a cache."""
    model = load("qwen3_5_text", tmp_path)
    decoder = decoder_of(model, 40, [CHUNK])
    ids = prompt(2 * CHUNK + 1)
    want = decoder.plain(torch.tensor([ids]), len(ids) - 1)[0].numpy()
    programs = forgec.compile_language_model(load("qwen3_5_text", tmp_path), context=40, chunks=[CHUNK])
    with forgec.LLM(programs) as llm:
        got = np.ravel(llm._begin(ids)[2])
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_a_prompt_is_read_by_whole_chunks(tmp_path, monkeypatch):
    model = load("mamba2", tmp_path)
    programs = forgec.compile_language_model(model, context=300)
    assert set(programs) == {"decode", "prefill.16", "prefill.128"}
    with forgec.LLM(programs) as llm:
        read = llm._read
        counts = []

        def noted(tokens, position, count, length):
            counts.append((tokens.shape[1], count))
            return read(tokens, position, count, length)

        monkeypatch.setattr(llm, "_read", noted)
        list(llm.generate(prompt(128 + 2 * 16 + 3), max_tokens=1))
    assert counts == [(128, 128), (16, 16), (16, 16), (1, 1), (1, 1), (1, 1)]


def test_a_short_context_has_one_size(tmp_path):
    programs = forgec.compile_language_model(load("mamba2", tmp_path), context=12, check=False)
    assert set(programs) == {"decode", "prefill.12"}


def test_files_that_say_nothing_of_padding_have_it():
    info = json.loads(GenerationInfo(8, (4,), 131).to_bytes())
    del info["pads"]
    assert GenerationInfo.from_bytes(json.dumps(info).encode()).pads


def test_weights_are_compressed_as_others(tmp_path):
    """States of recurrences stay f32 beside keys and values in 16 bits."""
    programs = forgec.compile_language_model(
        load("granitemoehybrid", tmp_path), context=40, chunks=[CHUNK], weights="int8"
    )
    states = programs.main.plan.program.states
    kinds = sorted({(kind.rank, kind.dtype.value) for kind in states.values()})
    assert kinds == [(3, "f32"), (4, "f16"), (4, "f32")]
    with forgec.LLM(programs) as llm:
        assert len([*llm.generate(prompt(2 * CHUNK + 3), max_tokens=4, eos=())]) == 4
