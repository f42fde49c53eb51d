"""A small Llama that has learned something: trained in minutes on Python's own library, seeded.

The text is the source of the standard library of the Python that runs this, files in the order of their
names; every tenth file is kept for validation. The tokenizer is a byte-level BPE trained on the same text.
What comes out is an ordinary Hugging Face directory.
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .round_robin import Say

__all__ = ["LEARNT_FILE", "TEXT_FILE", "WINDOW", "train"]

VOCABULARY = 2048
WINDOW = 128
TEXT_FILE = "validation.txt"
"""Text in the directory that the model has not seen."""

LEARNT_FILE = "calibration.txt"
"""Some of the text that it has learnt, for calibration."""

_LEARNT_CHARACTERS = 200_000

_DIMENSIONS = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
_LEARNING_RATE, _WARM_UP, _BATCH = 2e-3, 20, 16
_TEMPLATE = (
    "{% for message in messages %}{{ '# ' + message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '# assistant: ' }}{% endif %}"
)


def train(folder: Path, *, steps: int, seed: int, files: int, say: Say) -> float:
    """Train and save to ``folder``; gives the validation loss in nats per token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    seen, kept = _texts(files)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(seen)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(specials), encoding="utf-8")
    (folder / TEXT_FILE).write_text("\n".join(kept), encoding="utf-8")
    share = _LEARNT_CHARACTERS // len(seen)
    (folder / LEARNT_FILE).write_text("\n".join(text[:share] for text in seen), encoding="utf-8")
    tokens = np.concatenate([tokenizer.encode(text).ids for text in seen])
    say(f"{len(tokens):,} tokens of {len(seen)} files")

    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    config = LlamaConfig(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=1, **_DIMENSIONS)
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / _WARM_UP, 1 - 0.9 * step / steps)
    )
    start = perf_counter()
    for step in range(steps):
        first = generator.integers(0, len(tokens) - WINDOW, _BATCH)
        batch = torch.from_numpy(np.stack([tokens[i : i + WINDOW] for i in first]))
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.3f}, {perf_counter() - start:.0f} s")
    model.eval().save_pretrained(folder)
    held = torch.tensor(tokenizer.encode("\n".join(kept)).ids)
    windows = held[: len(held) // WINDOW * WINDOW].reshape(-1, WINDOW)[:64]
    with torch.no_grad():
        return float(model(input_ids=windows, labels=windows).loss)


def _texts(count: int) -> tuple[list[str], list[str]]:
    """Texts to learn from, and texts kept apart."""
    texts = list(_sources(count))
    return [t for i, t in enumerate(texts) if i % 10], texts[::10]


def _sources(count: int) -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.glob("*.py"))[:count]:
        yield path.read_text(encoding="utf-8", errors="replace")


def _tokenizer(texts: list[str]) -> Any:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made
