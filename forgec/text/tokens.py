"""Tokens of texts and texts of tokens, by the tokenizer in the artifact; stop texts."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

from ..errors import ArtifactError, ForgecError, InputError

__all__ = ["StopTexts", "Stream", "Tokenizer", "token_ids"]


def token_ids(given: object, name: str) -> list[int]:
    """The tokens of what is ``name`` in messages; :class:`InputError` unless it is a row of whole numbers."""
    unordered = isinstance(given, str | bytes | bytearray | memoryview | Mapping | Set)
    if unordered or not isinstance(given, Iterable) or getattr(given, "ndim", 1) != 1:
        raise InputError(
            f"{name} is {given!r:.60}, which is neither a text nor a row of token ids",
            hint="give a text, or whole numbers like [5, 17]",
        )
    ids: list[int] = []
    for token in given:
        try:
            if isinstance(token, bool):
                raise TypeError("a truth value is no token")
            ids.append(operator.index(token))
        except TypeError as error:
            raise InputError(
                f"token {len(ids)} of {name} is {token!r:.60}, and must be a whole number",
                hint="give a text, or whole numbers like [5, 17]",
            ) from error
    return ids


class Tokenizer:
    """A ``tokenizer.json``. Raises :class:`ArtifactError` if it is none, or has ids that the model has
    not."""

    def __init__(self, content: bytes, vocabulary: int) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ArtifactError(
                "texts need the package tokenizers, which is not installed",
                hint="pip install tokenizers, or pass token ids in place of text",
            ) from error
        with _failing_as(ArtifactError, "the tokenizer cannot be read"):
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
            # The special tokens around a text are looked up when there is one.
            self._tokenizer.encode("")
            largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocabulary:
            raise ArtifactError(
                f"the tokenizer has the token {largest}, and the model knows {vocabulary} tokens",
                hint="use the tokenizer that the model was trained with",
            )

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; with ``special``, also those that the tokenizer puts around it.

        Raises :class:`InputError` for a text with lone surrogates, or one that the tokenizer fails on.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text is no valid unicode: its character {error.start} is {text[error.start]!r}",
                hint="give it as UTF-8",
            ) from error
        with _failing_as(InputError, "the tokenizer fails on the text"):
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        with _failing_as(InputError, "the tokens have no text"):
            return str(self._tokenizer.decode(list(ids)))

    def stream(self, prompt: Sequence[int]) -> Stream:
        """Texts of the tokens that come after a prompt, one by one."""
        return Stream(self._tokenizer, prompt)


class Stream:
    """A text that grows token by token; a character that spans several comes with the last of them."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._pending: list[int] = []
        # The last token of the prompt decides whether the first new one begins with a space.
        self._stream = DecodeStream(list(prompt[-1:]), skip_special_tokens=True)

    def add(self, token: int) -> str:
        """The text that a token adds, perhaps none yet."""
        with _failing_as(InputError, f"token {token} has no text"):
            text = self._stream.step(self._tokenizer, token) or ""
        self._pending = [] if text else [*self._pending, token]
        return text

    def rest(self) -> str:
        """At the end of the text, what stands for a character that was not finished."""
        pending, self._pending = self._pending, []
        with _failing_as(InputError, "the last tokens have no text"):
            return str(self._tokenizer.decode(pending)) if pending else ""


class StopTexts:
    """Ends a text before the first of some texts; what may be the beginning of one is held back."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = tuple(texts)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """What can be given out after more text; sets ``stopped`` when a stop text is complete."""
        text = self._held + text
        found = [at for stop in self._texts if (at := text.find(stop)) >= 0]
        if found:
            self._held, self.stopped = "", True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._texts), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest


@contextmanager
def _failing_as(kind: type[ForgecError], what: str) -> Iterator[None]:
    """Errors of the library as ``kind``: plain Exceptions, and panics of its Rust code, which are none."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{what}: {error}") from error


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that begins a stop text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
