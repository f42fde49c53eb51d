"""Tokenizers, growing texts, stop texts."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from forgec.errors import ArtifactError, InputError
from forgec.text.tokens import StopTexts, Tokenizer, token_ids


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


def test_a_tokenizer_that_panics_is_refused(content):
    made = json.loads(content)
    parts = [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    other = {"Sequence": {"id": "B", "type_id": 1}}
    made["post_processor"] = {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [*parts, other],
        "special_tokens": {},
    }
    with pytest.raises(ArtifactError, match="the tokenizer cannot be read"):
        Tokenizer(json.dumps(made).encode(), 300)


class PanicException(BaseException):
    """What Rust code raises that panics."""


class Failing:
    """A tokenizer whose every call fails."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def encode(self, *_, **named):
        raise self.error

    decode = encode


@pytest.mark.parametrize("error", [PanicException("no entry"), Exception("no entry")])
def test_texts_and_tokens_that_the_library_fails_on(content, error):
    tokenizer = Tokenizer(content, 300)
    stream = tokenizer.stream([])
    character = tokenizer.encode("狐")
    stream.add(character[0])
    tokenizer._tokenizer = stream._tokenizer = Failing(error)
    for call in (lambda: tokenizer.encode("a"), lambda: tokenizer.decode([3]), stream.rest):
        with pytest.raises(InputError, match="no entry"):
            call()


def test_an_interruption_is_no_failure_of_the_tokenizer(content):
    tokenizer = Tokenizer(content, 300)
    tokenizer._tokenizer = Failing(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("a")


def test_text_that_is_no_unicode_is_refused_with_its_place(content):
    with pytest.raises(InputError, match=r"its character 1 is '\\udcff'"):
        Tokenizer(content, 300).encode("a\udcffb")


def test_rows_of_whole_numbers_are_tokens():
    for given in ([5, 17], (5, 17), np.array([5, 17]), np.array([5, 17], np.uint8), iter([5, 17])):
        assert token_ids(given, "the prompt") == [5, 17]


@pytest.mark.parametrize(
    "wrong", [None, 5, b"ab", bytearray(b"ab"), {5: 1}, {5}, np.array([[5, 6]]), np.array(5)]
)
def test_what_is_no_row_is_no_tokens(wrong):
    with pytest.raises(InputError, match=r"the prompt is .*neither a text nor a row"):
        token_ids(wrong, "the prompt")


@pytest.mark.parametrize("wrong", [1.5, "a", None, [5], True, np.float32(1)])
def test_what_is_no_whole_number_is_no_token(wrong):
    with pytest.raises(InputError, match="token 1 of the prompt is"):
        token_ids([5, wrong], "the prompt")


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
