"""Tokenizers, growing texts, stop texts."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from forgec.errors import ArtifactError
from forgec.text.tokens import StopTexts, Tokenizer


@pytest.fixture(scope="module")
def content() -> bytes:
    """A byte-level BPE tokenizer of 300 tokens."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog " * 20], trainer)
    return made.to_str().encode()


def test_a_stream_gives_the_text_of_all_tokens(content):
    tokenizer = Tokenizer(content, 300)
    text = "the fox, naïve 狐 🦊 end"
    ids = tokenizer.encode(text)
    stream = tokenizer.stream([])
    parts = [stream.add(token) for token in ids]
    assert "".join(parts) == text
    assert "" in parts, "a character of several tokens comes with the last"
    assert all("�" not in part for part in parts)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(content):
    with pytest.raises(ArtifactError, match=r"token [0-9]+, and the model knows 200"):
        Tokenizer(content, 200)


def test_a_damaged_tokenizer_is_refused():
    with pytest.raises(ArtifactError, match="cannot be read"):
        Tokenizer(b"{}", 100)


def test_stop_texts_in_any_pieces():
    seed = 5
    rng = random.Random(seed)
    for _ in range(300):
        text = "".join(rng.choice("ab") for _ in range(20))
        stops = [
            "".join(rng.choice("ab") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, 2))
        ]
        found = [text.find(stop) for stop in stops if stop in text]
        # A shorter stop text may be complete before one that begins earlier.
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        stream, out, at = StopTexts(stops), "", 0
        while at < len(text) and not stream.stopped:
            size = rng.randint(1, 3)
            out += stream.add(text[at : at + size])
            at += size
        out += stream.rest()
        assert stream.stopped == bool(found), f"seed {seed}: {text} {stops}"
        if not found:
            assert out == text, f"seed {seed}"
        else:
            assert text.startswith(out) and not any(stop in out for stop in stops), f"seed {seed}"
            assert len(out) <= min(ends), f"seed {seed}: {text} {stops} {out}"


def test_what_may_begin_a_stop_text_is_held_back():
    stops = StopTexts(["END"])
    assert stops.add("abcE") == "abc"
    assert stops.add("N") == ""
    assert stops.add("x") == "ENx"
    assert stops.add("EN") == ""
    assert stops.rest() == "EN"
