"""A language model for Hexagon in the vendor's emulator: the decoder is one segment, the text transformers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from worth_a_device import costs_file

import forgec
from forgec import models

SEED = 5
TARGET = "hexagon-v73"


@pytest.mark.slow
def test_the_text_is_that_of_transformers(tmp_path: Path) -> None:
    """Across the border of two chunks; greedy, and no two logits are close here."""
    loaded = models.load("llama-3.2-1b-tiny")
    prompt = np.random.default_rng(SEED).integers(3, 131, 13).tolist()
    given = torch.tensor([prompt])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 6}
    with torch.no_grad():
        wanted = loaded.module.generate(given, attention_mask=torch.ones_like(given), **settings)
    programs = forgec.compile_language_model(
        loaded, context=40, chunks=[8], target=TARGET, costs=costs_file(tmp_path)
    )
    for entry in programs.values():
        assert [segment.device for segment in entry.plan.segments] == ["cpu", TARGET, "cpu"]
    with forgec.LLM(programs) as llm:
        found = [piece.token for piece in llm.generate(prompt, eos=(), max_tokens=6)]
    assert found == wanted[0, len(prompt) :].tolist()
