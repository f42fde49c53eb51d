"""A language model for Hexagon in the vendor's emulator: the decoder is one segment, the text transformers'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import forgec
from forgec import models
from forgec.plan.cost import CostModel

SEED = 5
TARGET = "hexagon-v73"


@pytest.mark.slow
def test_the_text_is_that_of_transformers(tmp_path: Path) -> None:
    """Across the border of two chunks; greedy, and no two logits are close here."""
    record = CostModel.load().to_json()
    record["transfer"] = {"bytes_per_us": 1e9, "overhead_us": 1e-4}
    for rates in record["rates"].values():
        rates["overhead_us"] = 1e5
    costs = tmp_path / "costs.json"
    costs.write_text(json.dumps(record))
    loaded = models.load("llama-3.2-1b-tiny")
    prompt = np.random.default_rng(SEED).integers(3, 131, 13).tolist()
    given = torch.tensor([prompt])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 6}
    with torch.no_grad():
        wanted = loaded.module.generate(given, attention_mask=torch.ones_like(given), **settings)
    programs = forgec.compile_language_model(loaded, context=40, chunks=[8], target=TARGET, costs=str(costs))
    for entry in programs.values():
        assert [segment.device for segment in entry.plan.segments] == ["cpu", TARGET, "cpu"]
    with forgec.LLM(programs) as llm:
        found = [piece.token for piece in llm.generate(prompt, eos=(), max_tokens=6)]
    assert found == wanted[0, len(prompt) :].tolist()
