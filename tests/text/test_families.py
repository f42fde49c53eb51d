"""Greedy text, token by token what transformers generates, over the borders of chunks."""

from __future__ import annotations

import json

import pytest
from text_models import continued, generated, load, prompt

import forgec
from forgec import models
from forgec.errors import ForgecError, ModelError

CHUNK = 8
LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 2)
SLOW = (
    *("llama", "qwen2", "granite", "gemma", "gemma2", "phi", "phi3", "mistral", "qwen3"),
    *("bloom", "falcon", "mpt", "mixtral", "dynamic", "lfm2", "linear", "yarn"),
    *("deepseek_v2", "llama4_text", "big_bird", "biogpt"),
)


@pytest.mark.parametrize("family", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_greedy_is_token_identical(family, tmp_path):
    model = load(family, tmp_path)
    context = min(model.max_tokens or 100, 100)
    room = {length: min(64, context - length) for length in LENGTHS}
    expected = {length: generated(model, prompt(length), room[length]) for length in LENGTHS}
    programs = forgec.compile_language_model(model, context=context, chunks=[CHUNK])
    reports = [programs[name].report for name in programs]
    assert all(report.fidelity.passed for report in reports)
    assert not programs.main.report.warnings
    with forgec.LLM(programs) as llm:
        for length in LENGTHS:
            pieces = llm.generate(prompt(length), max_tokens=room[length], eos=())
            assert [piece.token for piece in pieces] == expected[length], f"prompt of {length} tokens"


@pytest.mark.slow
def test_positions_begin_behind_that_of_padding(tmp_path):
    """The model's own ``forward`` is what counts: ``generate`` of transformers 5 gives positions from zero,
    with which no such model was trained."""
    model = load("roberta", tmp_path)
    assert model.max_tokens == 100
    expected = {length: continued(model, prompt(length), 100 - length) for length in (1, 85)}
    programs = forgec.compile_language_model(model, context=100, chunks=[CHUNK])
    with forgec.LLM(programs) as llm:
        for length, tokens in expected.items():
            pieces = llm.generate(prompt(length), max_tokens=len(tokens), eos=())
            assert [piece.token for piece in pieces] == tokens, f"prompt of {length} tokens"


@pytest.mark.slow
def test_a_model_that_counts_positions_itself(tmp_path):
    """Its table has no rows for the padding of a chunk at the end of the context."""
    model = load("roformer", tmp_path)
    expected = {length: generated(model, prompt(length), 57 - length) for length in (1, 2 * CHUNK + 1, 50)}
    with pytest.raises(ModelError, match=r"64 at most, and padding .* reach 65\n.*a context of 57"):
        forgec.compile_language_model(model, context=58, chunks=[CHUNK])
    programs = forgec.compile_language_model(model, context=57, chunks=[CHUNK])
    with forgec.LLM(programs) as llm:
        for length, tokens in expected.items():
            pieces = llm.generate(prompt(length), max_tokens=len(tokens), eos=())
            assert [piece.token for piece in pieces] == tokens, f"prompt of {length} tokens"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["longrope", "longrope-mixed"])
def test_longrope_chooses_frequencies_as_transformers_does(family, tmp_path):
    """A prompt has those for its whole length, in all of its chunks. Phi-3 reads a text anew when it passes the
    original length of 64; other models go on, with keys of both kinds."""
    model = load(family, tmp_path)
    prompts = [prompt(length) for length in (5, 50, 64, 65, 70)]
    passing = prompts[1] + generated(model, prompts[1], 30)
    prompts += [passing, passing[:60]]
    expected = [generated(model, ids, 25) for ids in prompts]
    programs = forgec.compile_language_model(model, context=110, chunks=[CHUNK])
    with forgec.LLM(programs) as llm:
        assert (llm.info.border, llm.info.rereads) == (64, family == "longrope")
        # The last two begin with what is in the cache, but were not read as parts of such texts.
        for ids, tokens in zip(prompts, expected, strict=True):
            pieces = llm.generate(ids, max_tokens=25, eos=())
            assert [piece.token for piece in pieces] == tokens, f"prompt of {len(ids)} tokens"


@pytest.mark.slow
def test_longrope_needs_no_choice_for_short_contexts(tmp_path):
    model = load("longrope", tmp_path)
    generated(model, prompt(70), 2)  # leaves the model's buffers at the frequencies for long texts
    expected = generated(model, prompt(20), 20)
    programs = forgec.compile_language_model(model, context=64, chunks=[CHUNK])
    with forgec.LLM(programs) as llm:
        assert llm.info.border is None
        assert [piece.token for piece in llm.generate(prompt(20), max_tokens=20, eos=())] == expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "openai-gpt", "architectures": ["OpenAIGPTLMHeadModel"], "n_layer": 2, "n_head": 4}
            | {"n_embd": 32},
            "OpenAIGPTLMHeadModel writes nothing to its cache",
        ),
        (
            {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "num_layers": 2, "num_heads": 4}
            | {"attention_types": [[["global", "local"], 1]], "window_size": 12},
            "differs from eager",
        ),
        (
            {"model_type": "cpmant", "architectures": ["CpmAntForCausalLM"], "num_attention_heads": 4}
            | {"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "prompt_types": 2, "segment_types": 2},
            "cache that is an input and an output, for 8 tokens: .*\n.*modeling_cpmant.*\n.*without a context",
        ),
    ],
    ids=["openai-gpt", "gpt_neo", "cpmant"],
)
def test_a_family_that_cannot_be_compiled_is_refused(config, message, tmp_path):
    """The first GPT has no cache; GPT-Neo cuts its masks by the size of the cache, CPM-Ant makes its own."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 131, "initializer_range": 0.2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**sizes, **config}))
    with pytest.raises(ForgecError, match=message):
        forgec.compile_language_model(models.load(path, attn="eager"), context=40, chunks=[CHUNK])
