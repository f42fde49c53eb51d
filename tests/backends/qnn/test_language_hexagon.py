"""A language model for Hexagon in the vendor's emulator: the decoder is one segment, the text transformers'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, pre_tokenizers
from tokenizers import models as token_models
from typer.testing import CliRunner
from worth_a_device import costs_file

import forgec
from forgec import models
from forgec.cli.main import app
from forgec.text.info import TEMPLATE_FILE, TOKENIZER_FILE

SEED = 5
TARGET = "hexagon-v73"


@pytest.fixture(scope="module")
def loaded() -> models.LoadedModel:
    return models.load("llama-3.2-1b-tiny")


def greedy(loaded: models.LoadedModel, prompt: list[int], count: int) -> list[int]:
    given = torch.tensor([prompt])
    settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": count}
    with torch.no_grad():
        found = loaded.module.generate(given, attention_mask=torch.ones_like(given), **settings)
    return found[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    """One token for each of the first characters."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:129]
    made = tokenizers.Tokenizer(token_models.BPE({c: i for i, c in enumerate(["<s>", "</s>", *letters])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture(scope="module")
def file(tokenizer: tokenizers.Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hexagon")
    programs = forgec.compile_language_model(
        models.load("llama-3.2-1b-tiny"), context=40, chunks=[8], target=TARGET, costs=costs_file(folder)
    )
    for entry in programs.values():
        assert [segment.device for segment in entry.plan.segments] == ["cpu", TARGET, "cpu"]
    template = b"{% for m in messages %}{{ m['content'] }};{% endfor %}"
    programs.main.add_extra({TOKENIZER_FILE: tokenizer.to_str().encode(), TEMPLATE_FILE: template})
    programs.save(folder / "m.forge")
    return folder / "m.forge"


@pytest.mark.slow
def test_the_text_is_that_of_transformers(loaded: models.LoadedModel, file: Path) -> None:
    """Across the border of two chunks; greedy, and no two logits are close here."""
    prompt = np.random.default_rng(SEED).integers(3, 131, 13).tolist()
    with forgec.LLM(file) as llm:
        found = [piece.token for piece in llm.generate(prompt, eos=(), max_tokens=6)]
    assert found == greedy(loaded, prompt, 6)


@pytest.mark.slow
def test_the_command_line_writes_it_too(
    loaded: models.LoadedModel, tokenizer: tokenizers.Tokenizer, file: Path
) -> None:
    wanted = tokenizer.decode(greedy(loaded, tokenizer.encode("hello-you").ids, 4))
    result = CliRunner().invoke(app, ["generate", "-m", str(file), "-p", "hello-you", "-n", "4"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.removesuffix("\n") == wanted.removesuffix("\n")
    assert "9 prompt tokens, 4 new (length)" in result.stderr and "(emulated)" in result.stderr
    result = CliRunner().invoke(app, ["chat", "-m", str(file), "-n", "2"], input="hey\nyou\n\n")
    assert result.exit_code == 0, result.stderr
    assert "kept), 2 new" in result.stderr
