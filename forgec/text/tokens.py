"""Tokens of texts and texts of tokens, by the tokenizer in the artifact; stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ArtifactError, InputError

__all__ = ["StopTexts", "Stream", "Tokenizer"]


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
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises plain Exceptions
            raise ArtifactError(f"the tokenizer cannot be read: {error}") from error
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if largest >= vocabulary:
            raise ArtifactError(
                f"the tokenizer has the token {largest}, and the model knows {vocabulary} tokens",
                hint="use the tokenizer that the model was trained with",
            )

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text; with ``special``, also those that the tokenizer puts around it."""
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
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
        try:
            text = self._stream.step(self._tokenizer, token) or ""
        except Exception as error:  # the library raises plain Exceptions
            raise InputError(f"token {token} has no text: {error}") from error
        self._pending = [] if text else [*self._pending, token]
        return text

    def rest(self) -> str:
        """At the end of the text, what stands for a character that was not finished."""
        pending, self._pending = self._pending, []
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


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of a text that begins a stop text."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
