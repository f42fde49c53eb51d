"""The next token from logits.

The order of the steps is the one that transformers has: repetition penalty, temperature, top-k, top-p, min-p,
then a draw. All work is in float64 on one row of logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import OptionError

__all__ = ["Sampler", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens and when to stop. Raises :class:`OptionError` for a value that is not legal."""

    temperature: float = 0.0
    """0 takes the most likely token; more than 1 flattens the distribution, less sharpens it."""
    top_k: int = 0
    """Draw among the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Draw among the most likely tokens that have this probability together."""
    min_p: float = 0.0
    """Draw among tokens that have at least this share of the largest probability."""
    repetition_penalty: float = 1.0
    """Divide positive logits of tokens that are in the text by this, multiply negative ones."""
    seed: int | None = None
    """Of the draws; None for another text each time."""
    max_tokens: int | None = None
    """Tokens to generate at most; None for as many as the context holds."""
    stop: tuple[str, ...] = ()
    """Texts that end the generation; they are not part of it."""
    eos: tuple[int, ...] | None = None
    """Tokens that end the generation; None for the model's own."""
    logprobs: int | None = None
    """Give log probabilities of the chosen token and of so many most likely ones."""

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "eos", None if self.eos is None else tuple(self.eos))
        legal = {
            "temperature": (_is_number(self.temperature) and self.temperature >= 0, "0 or more"),
            "top_k": (_is_integer(self.top_k) and self.top_k >= 0, "0 or more, whole"),
            "top_p": (_is_number(self.top_p) and 0 < self.top_p <= 1, "over 0 and at most 1"),
            "min_p": (_is_number(self.min_p) and 0 <= self.min_p <= 1, "from 0 to 1"),
            "repetition_penalty": (
                _is_number(self.repetition_penalty) and self.repetition_penalty > 0,
                "over 0",
            ),
            "seed": (self.seed is None or (_is_integer(self.seed) and self.seed >= 0), "0 or more, whole"),
            "max_tokens": (
                self.max_tokens is None or (_is_integer(self.max_tokens) and self.max_tokens > 0),
                "1 or more, whole",
            ),
            "stop": (all(isinstance(text, str) and text for text in stop), "texts that are not empty"),
            "logprobs": (
                self.logprobs is None or (_is_integer(self.logprobs) and self.logprobs >= 0),
                "0 or more, whole",
            ),
        }
        for name, (fits, values) in legal.items():
            if not fits:
                raise OptionError(f"{name} is {getattr(self, name)!r}, and must be {values}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Sampler:
    """Chooses the tokens of one text; draws follow from the seed alone."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)
        self._seen = set(prompt)

    def choose(self, logits: np.ndarray) -> int:
        """The next token for logits [vocabulary]."""
        s = self._sampling
        scores = logits.astype(np.float64)
        if s.repetition_penalty != 1.0 and self._seen:
            seen = np.fromiter(self._seen, np.int64)
            old = scores[seen]
            scores[seen] = np.where(old > 0, old / s.repetition_penalty, old * s.repetition_penalty)
        token = int(scores.argmax()) if s.temperature == 0 else self._draw(scores / s.temperature)
        self._seen.add(token)
        return token

    def _draw(self, scores: np.ndarray) -> int:
        s = self._sampling
        kept = np.arange(scores.size)
        if 0 < s.top_k < scores.size:
            kept = np.argpartition(scores, -s.top_k)[-s.top_k :]
        # Most likely first, ties by token, so that equal seeds draw alike everywhere.
        kept = kept[np.lexsort((kept, -scores[kept]))]
        weights = np.exp(scores[kept] - scores[kept[0]])
        if s.top_p < 1:
            before = np.cumsum(weights) - weights
            weights = weights[before < s.top_p * weights.sum()]
        if s.min_p > 0:
            weights = weights[weights >= s.min_p]
        chosen = np.searchsorted(np.cumsum(weights), self._random.random() * weights.sum(), side="right")
        return int(kept[min(int(chosen), weights.size - 1)])


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the probabilities that logits [vocabulary] stand for."""
    scores = logits.astype(np.float64)
    scores -= scores.max()
    return scores - np.log(np.exp(scores).sum())
