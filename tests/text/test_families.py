"""Greedy text, token by token what transformers generates, over the borders of chunks."""

from __future__ import annotations

import pytest
from text_models import generated, load, prompt

import forgec

CHUNK = 8
LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 2)
SLOW = (
    *("qwen2", "granite", "gemma", "gemma2", "phi", "phi3", "mistral", "qwen3"),
    *("bloom", "dynamic", "lfm2", "linear", "yarn"),
)


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_greedy_is_token_identical(family, tmp_path):
    model = load(family, tmp_path)
    context = min(model.max_tokens or 100, 100)
    room = {length: min(64, context - length) for length in LENGTHS}
    expected = {length: generated(model, prompt(length), room[length]) for length in LENGTHS}
    programs = forgec.compile_language_model(model, context=context, chunks=[CHUNK])
    reports = [programs[name].report for name in programs]
    assert all(report.fidelity.passed and not report.warnings for report in reports)
    with forgec.LLM(programs) as llm:
        for length in LENGTHS:
            pieces = llm.generate(prompt(length), max_tokens=room[length], eos=())
            assert [piece.token for piece in pieces] == expected[length], f"prompt of {length} tokens"


@pytest.mark.slow
@pytest.mark.parametrize(("context", "lengths"), [(64, (5, 30)), (100, (65, 70))])
def test_longrope_takes_one_set_of_frequencies(context, lengths, tmp_path):
    """Up to the original length of 64 those for short texts, over it those for long ones, as transformers
    does for prompts of these lengths."""
    model = load("longrope", tmp_path)
    expected = {length: generated(model, prompt(length), 20) for length in lengths}
    programs = forgec.compile_language_model(model, context=context, chunks=[CHUNK])
    warned = [any("longrope" in text for text in p.report.warnings) for p in programs.values()]
    assert all(warned) if context > 64 else not any(warned)
    with forgec.LLM(programs) as llm:
        for length in lengths:
            pieces = llm.generate(prompt(length), max_tokens=20, eos=())
            assert [piece.token for piece in pieces] == expected[length], f"prompt of {length} tokens"
